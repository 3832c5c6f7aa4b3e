#!/usr/bin/env python3
"""Checks that the compiler made the expected arm64 instructions of every ordering of the ring, the board
and the doorbell: ldar for acquire loads, stlr for release stores, dmb ish and dmb ishld for fences, each
in its place among the plain loads and stores. Then drops one kind of ordering after the other, and the
check must see that.

usage: check_codegen.py COMPILER SYSROOT [OBJDUMP]
"""
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))

# What a function must look like in letters: A ldar, R stlr, F dmb ish, L dmb ishld, l and s plain loads
# and stores that are not of the stack. The comment names the pairs of shm/ring.h, board.h, doorbell.h.
RULES = {
    "codegen_publish": r"^[ls]*F[ls]*s[ls]*R[l]*$",  # P1 before the payload, P2 after it
    "codegen_poll": r"^l*Al*$",  # C1
    "codegen_release": r"^[ls]*R$",  # C2
    "codegen_observe": r"^l*A[ls]*L[ls]*$",  # O1, copy, O2, neighbour
    "bus_fence_acquire": r"^L$",  # O2, B4, Y4 for languages without fences
    "codegen_board_write": r"^l*sF[ls]*sR$",  # odd stamp, B1, fields, B2
    "codegen_board_read": r"^A[ls]*Ls?l$",  # B3, copy, B4, stamp again
    "codegen_doorbell": r"^lFl$",  # D1
    "take_position": r"A.*A",  # the instance, then P3
    "bus_producer_connect": r"s[ls]*R",  # consumed, then P4
    "bus_consumer_may_join": r"A",  # C3
    "bus_doorbell_wait": r"A[ls]*sF[^F]*A",  # D3, waiting, D2, the last look
    "bus_doorbell_wake": r"^l*R",  # D4
}
MUTANTS = {
    1: ("release stores are plain", {"codegen_publish", "codegen_release", "codegen_board_write"}),
    2: ("acquire loads are plain", {"codegen_poll", "codegen_observe", "codegen_board_read"}),
    3: ("release fences are gone", {"codegen_publish", "codegen_board_write"}),
    4: ("acquire fences are gone", {"codegen_observe", "codegen_board_read"}),
}


def letter(mnemonic, operands):
    if "[sp" in operands or mnemonic == "prfm":
        return ""
    if mnemonic == "dmb":
        return {"ish": "F", "ishld": "L"}.get(operands.strip(), "?")
    for prefix, name in (("ldar", "A"), ("stlr", "R"), ("ld", "l"), ("st", "s")):
        if mnemonic.startswith(prefix):
            return name
    return ""


def shapes(objdump, path):
    text = subprocess.run([objdump, "-d", "--no-show-raw-insn", path], check=True, capture_output=True,
                          text=True).stdout
    result, name = {}, None
    for line in text.splitlines():
        start = re.match(r"[0-9a-f]+ <(\w+)(?:\.\w+)*>:", line)
        if start:
            name = start.group(1)  # of all parts that the compiler cut a function into
            result.setdefault(name, "")
            continue
        instruction = re.match(r"\s+[0-9a-f]+:\s+(\S+)\s*(.*)", line)
        if instruction and name:
            result[name] += letter(*instruction.groups())
    return result


def compile_to(directory, compiler, sysroot, source, mutant=0):
    output = os.path.join(directory, f"{os.path.basename(source)}.{mutant}.o")
    subprocess.run([compiler, f"--sysroot={sysroot}", "-std=c17", "-D_GNU_SOURCE", "-O2", "-march=armv8-a",
                    f"-DCODEGEN_MUTANT={mutant}", f"-I{SOURCE}", "-c", source, "-o", output], check=True)
    return output


def main():
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    compiler, sysroot = sys.argv[1:3]
    objdump = sys.argv[3] if len(sys.argv) == 4 else "aarch64-linux-gnu-objdump"
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        found = {}
        for source in (os.path.join(HERE, "codegen.c"), os.path.join(SOURCE, "shm", "ring.c"),
                       os.path.join(SOURCE, "shm", "doorbell.c")):
            found.update(shapes(objdump, compile_to(directory, compiler, sysroot, source)))
        for name, rule in RULES.items():
            good = name in found and re.search(rule, found[name])
            failures += not good
            print(f"{'ok  ' if good else 'FAIL'} {name}: {found.get(name, 'not found')}"
                  + ("" if good else f", expected {rule}"))
        for mutant, (what, victims) in MUTANTS.items():
            mutated = shapes(objdump, compile_to(directory, compiler, sysroot, os.path.join(HERE, "codegen.c"), mutant))
            missed = [name for name in victims if re.search(RULES[name], mutated[name])]
            failures += len(missed)
            print(f"{'FAIL' if missed else 'ok  '} mutant {mutant}, {what}: "
                  + (f"not seen in {', '.join(missed)}" if missed else f"seen in {len(victims)} functions"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
