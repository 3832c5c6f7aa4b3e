#!/usr/bin/env python3
"""Runs one race program and holds it to what it must do.

usage: run_race.py clean|reported PROGRAM

clean: exits 0 and ThreadSanitizer reports nothing. reported: a mutant; ThreadSanitizer must report a
data race in it, and another kind of failure does not count. The report names the first race and ends
the program there. Kernels with much address randomisation need it off for older sanitizers.
"""
import os
import shutil
import subprocess
import sys

WAIT_S = 300
STATUS = 66


def run(program):
    command = [program]
    setarch = shutil.which("setarch")
    if setarch and subprocess.run([setarch, os.uname().machine, "-R", "true"], check=False,
                                  stderr=subprocess.DEVNULL).returncode == 0:
        command = [setarch, os.uname().machine, "-R", program]
    environment = dict(os.environ, TSAN_OPTIONS=f"halt_on_error=1:exitcode={STATUS}:second_deadlock_stack=0")
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)


def main(arguments):
    if len(arguments) != 2 or arguments[0] not in ("clean", "reported"):
        print(__doc__, file=sys.stderr)
        return 2
    result = run(arguments[1])
    print(result.stdout + result.stderr)
    reported = "WARNING: ThreadSanitizer: data race" in result.stderr
    if arguments[0] == "clean":
        good = result.returncode == 0 and "ThreadSanitizer" not in result.stderr
    else:
        good = reported and result.returncode == STATUS
    print(f"run_race: exit {result.returncode}, {'a' if reported else 'no'} race reported, wanted: {arguments[0]}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
