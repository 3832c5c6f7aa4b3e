#!/usr/bin/env python3
"""Compares the marked tables of shm/ABI.md with what abi_table prints from the headers.

usage: check_abi.py ABI.md ABI_TABLE_PROGRAM [--write]

A table stands between `<!-- abi:NAME -->` and `<!-- /abi -->`. Fails with a diff when one is wrong,
missing in the document, or marked there and unknown. --write puts the present tables in.
"""
import difflib
import os
import re
import shlex
import subprocess
import sys

SECTION = re.compile(r"<!-- abi:(\w+) -->\n.*?<!-- /abi -->\n", re.DOTALL)


def sections(text):
    found = {}
    for match in SECTION.finditer(text):
        if match.group(1) in found:
            sys.exit(f"check_abi: table {match.group(1)} occurs twice")
        found[match.group(1)] = match.group(0)
    return found


def main(arguments):
    write = "--write" in arguments
    names = [argument for argument in arguments if argument != "--write"]
    if len(names) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    path, program = names
    with open(path, encoding="utf-8") as file:
        text = file.read()
    emulator = shlex.split(os.environ.get("MESON_EXE_WRAPPER", ""))  # set by meson in a cross build
    wanted = sections(subprocess.run([*emulator, program], check=True, stdout=subprocess.PIPE, text=True).stdout)
    present = sections(text)
    failed = False
    for name in sorted(wanted.keys() ^ present.keys()):
        where = "the headers" if name in present else path
        print(f"check_abi: table {name} is missing in {where}", file=sys.stderr)
        failed = True
    if text.count("<!-- abi:") != len(present) or text.count("<!-- /abi -->") != len(present):
        print(f"check_abi: {path}: markers do not pair up", file=sys.stderr)
        failed = True
    updated = SECTION.sub(lambda match: wanted.get(match.group(1), match.group(0)), text)
    if updated != text and write:
        with open(path, "w", encoding="utf-8") as file:
            file.write(updated)
        print(f"check_abi: {path} brought up to date")
    elif updated != text:
        sys.stderr.writelines(difflib.unified_diff(text.splitlines(True), updated.splitlines(True),
                                                   path, "the headers"))
        print("check_abi: run again with --write, and see Versions in the document: a moved field "
              "needs a new ABI version", file=sys.stderr)
        failed = True
    else:
        print(f"check_abi: {len(present)} tables agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
