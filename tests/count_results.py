#!/usr/bin/env python3
"""Counts the results in a meson testlog.json: every line of a TAP program, else one for each program.

Prints `PASSED FAILED SKIPPED`. A program that failed without a failing TAP line counts as one failure.
"""
import json
import re
import sys


def count(entry):
    lines = (entry.get("stdout") or "").splitlines()
    failed = sum(1 for line in lines if re.match(r"not ok\b", line))
    skipped = sum(1 for line in lines if re.match(r"ok\b.*#\s*skip", line, re.IGNORECASE))
    passed = sum(1 for line in lines if re.match(r"ok\b", line)) - skipped
    good = entry["result"] in ("OK", "EXPECTEDFAIL")
    if passed + failed + skipped == 0:
        return (1, 0, 0) if good else (0, 0, 1) if entry["result"] == "SKIP" else (0, 1, 0)
    if not good and failed == 0 and entry["result"] != "SKIP":
        failed = 1
    return passed, failed, skipped


def main():
    with open(sys.argv[1], encoding="utf-8") as log:
        totals = [count(json.loads(line)) for line in log]
    print(*(sum(column) for column in zip(*totals)))


if __name__ == "__main__":
    main()
