#!/usr/bin/env python3
"""The manuals: free of formatting errors, and with exactly the options and keys that the programs have.

usage: test_manuals.py BUILD_DIRECTORY SOURCE_DIRECTORY

Prints TAP. Uses groff (of groff-base), which is what man(1) runs.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
MAN = os.path.join(SOURCE, "tools", "man")
PROGRAMS = {"bus-ask": "consumers", "bus-bridge": "consumers", "bus-feed": "producers", "bus-infer": "consumers",
            "bus-trader": "consumers", "signal-busctl": "tools", "bus-record": "consumers", "bus-replay": "tools"}
# Verbs that signal-busctl.1 describes, and verbs that have a page of their own, signal-busctl-VERB.1.
VERBS = ["create", "destroy", "info", "top", "up", "run", "down"]
VERBS_WITH_PAGES = ["doctor", "hugepages", "isolate", "metrics", "release"]
REPLAY_VERBS_WITH_PAGES = ["play", "stats"]
VERBS_OF = {"signal-busctl": VERBS,
            "bus-replay": ["info", "verify", "recover", "cut", "merge", "diff", "hash", "export"]}
PAGES = (list(PROGRAMS) + ["signal-busctl-" + verb for verb in VERBS_WITH_PAGES] +
         ["bus-replay-" + verb for verb in REPLAY_VERBS_WITH_PAGES])


def run(page, *arguments):
    """The program of a page, with the verb that the page is about."""
    program, verb = page, []
    for parent in ("signal-busctl", "bus-replay"):
        if page.startswith(parent + "-"):
            program, verb = parent, [page.removeprefix(parent + "-")]
    path = os.path.join(BUILD, PROGRAMS.get(program, "tools"), program)
    return subprocess.run([path, *verb, *arguments], capture_output=True, text=True, timeout=60)


def options_of_help(text):
    """Of the lines that begin with an option."""
    lines = re.findall(r"^ +((?:--[a-z-]+(?:, )?)+)", text, re.M)
    return {option for line in lines for option in re.findall(r"--[a-z-]+", line)}


def read_manual(program):
    with open(os.path.join(MAN, program + ".1")) as file:
        return file.read()


def options_of_manual(text):
    """Of the tags of its lists: the line after .TP."""
    tags = re.findall(r"^\.TP\n(.*)", text, re.M)
    return {option for tag in tags for option in re.findall(r"--[a-z-]+", tag.replace("\\-", "-"))}


def formats_without_a_warning(program):
    assert shutil.which("groff"), "groff is missing: install groff-base"
    path = os.path.join(MAN, program + ".1")
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-t", "-P-c", path], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    for part in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
        assert f"\n{part}" in re.sub(r".\x08", "", done.stdout), f"no section {part}"
    if shutil.which("mandoc"):
        done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", path], capture_output=True, text=True)
        assert not done.stdout, done.stdout


def has_the_options_of_help(program):
    have = options_of_manual(read_manual(program))
    want = options_of_help(run(program, "--help").stdout)
    for verb in VERBS_OF.get(program, []):
        done = run(program, verb, "--help")
        assert done.returncode == 0, done
        want |= options_of_help(done.stdout)
    assert len(want) > (1 if "busctl-" in program else 3), want
    assert have == want, f"only in the manual: {sorted(have - want)}; only in --help: {sorted(want - have)}"


def each_option_is_taken(program):
    """What --help lists is no invention: getopt knows it. The wrong option behind it, once as its value, keeps
    the program from beginning its work."""
    for call in [[verb] for verb in VERBS_OF.get(program, [])] or [[]]:
        for option in options_of_help(run(program, *call, "--help").stdout):
            done = run(program, *call, option, "--nonsense", "--nonsense")
            assert done.returncode == (0 if option in ("--help", "--version") else 2), (call, option, done)
            assert f"unrecognized option '{option}'" not in done.stderr, (call, option, done.stderr)


def has_the_verbs_and_keys():
    sections = re.findall(r"^\.SS (\w+)", read_manual("bus-replay"), re.M)
    assert sections == VERBS_OF["bus-replay"], sections
    text = read_manual("signal-busctl")
    for verb in VERBS_WITH_PAGES:
        assert f"signal\\-busctl\\-{verb} (1)" in text, f"signal-busctl.1 does not refer to the page of {verb}"
    sections = re.findall(r"^\.SS (\w+)", text, re.M)
    assert [name for name in sections if name in VERBS] == VERBS, sections
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "keys.ini")
        for section in ("bus", "a"):
            with open(path, "w") as file:
                file.write(f"[{section}]\nnonsense = 1\n")
            known = re.search(r"known: (.*)", run("signal-busctl", "up", path).stderr).group(1).split(", ")
            part = re.search(rf'^\.SS "?Keys of \[{"bus" if section == "bus" else "NAME"}\]"?$(.*?)^\.S[SH]', text,
                             re.M | re.S).group(1)
            have = re.findall(r"^\.TP\n\.B[IR]* (\w+)", part, re.M)
            assert have == known, (section, have, known)


def has_the_keys_of_the_bridge():
    """Each key of the manual is known, and the example speaks of each: whoever adds one is reminded of both."""
    text = read_manual("bus-bridge")
    with open(os.path.join(SOURCE, "consumers", "bridge_config.c")) as file:
        code = file.read()
    with open(os.path.join(SOURCE, "tools", "bridge.ini")) as file:
        example = file.read()
    for section, mark in (("bridge", "BRIDGE"), ("backend NAME", "BACKEND(?:_TEXT)?"), ("class NAME", "CLASS")):
        table = re.search(rf"static const struct key {section.split()[0]}_keys\[\] = {{(.*?)^}};", code, re.M | re.S)
        known = re.findall(rf'^    (?:{mark}\(|{{)"(\w+)"', table.group(1), re.M)
        part = re.search(rf'^\.SS "?Keys of \[{section}\]"?$(.*?)^\.S[SH]', text, re.M | re.S).group(1)
        have = re.findall(r"^\.TP\n\.B[IR]* (\w+)", part, re.M)
        assert len(known) > 5 and have == known, (section, have, known)
        if section != "backend NAME":
            for key in known:
                assert re.search(rf"^;?{key} = ", example, re.M), f"bridge.ini does not show {key}"
    done = run("bus-bridge", "--config", os.path.join(SOURCE, "tools", "bridge.ini"), "--check")
    assert done.returncode == 0 and "class fast: vllm 75 %, mac 25 %" in done.stdout, done


def overview_formats_without_a_warning():
    path = os.path.join(MAN, "signal-bus.7")
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-t", "-P-c", path], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


TESTS = [(check, program) for program in PAGES
         for check in (formats_without_a_warning, has_the_options_of_help, each_option_is_taken)]
TESTS.append((has_the_verbs_and_keys, None))
TESTS.append((has_the_keys_of_the_bridge, None))
TESTS.append((overview_formats_without_a_warning, None))


def main():
    failed = 0
    print(f"1..{len(TESTS)}")
    for number, (check, program) in enumerate(TESTS, 1):
        name = f"{program}_{check.__name__}" if program else check.__name__
        try:
            check(program) if program else check()
            print(f"ok {number} - {name}")
        except Exception as error:
            failed += 1
            print(f"not ok {number} - {name}")
            print("\n".join("# " + line for line in f"{type(error).__name__}: {error}".splitlines()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
