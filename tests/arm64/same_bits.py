#!/usr/bin/env python3
"""One bus, two machine types: arm64 programs under emulation and native ones share the members' files,
and features and signals come out bit for bit as from native programs alone. What either machine type recorded
replays on the other.

usage: same_bits.py NATIVE_BUILD ARM64_BUILD SYSROOT DATA_DIRECTORY
"""
import os
import stat
import sys
import tempfile

NATIVE, ARM64, SYSROOT, DATA = (os.path.abspath(path) for path in sys.argv[1:5])
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(SOURCE, "tests"))
sys.argv = ["end_to_end.py", NATIVE, SOURCE, DATA]
import end_to_end  # noqa: E402  (reads its directories from sys.argv)
import test_circle  # noqa: E402
import test_record  # noqa: E402

LINES = 6000


def emulated(directory, program):
    """A script that runs the arm64 build of a native program."""
    path = os.path.join(directory, os.path.basename(program))
    real = os.path.join(ARM64, os.path.relpath(program, NATIVE))
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec qemu-aarch64 -L "{SYSROOT}" "{real}" "$@"\n')
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return path


def exchange_captures(directory):
    """The native recorder's capture played by arm64 and recorded by it, that one played by native programs again."""
    native = test_record.RECORD, test_circle.REPLAY
    arm64 = [emulated(directory, path) for path in native]
    path = lambda name: os.path.join(directory, name)  # noqa: E731
    test_circle.record_market(path("native"), *test_circle.SYNTHETIC, "--interval-us", 100, "--messages", 3000)
    test_record.RECORD, test_circle.REPLAY = arm64
    test_circle.prove(path("native"))
    test_circle.record_replay(path("arm64"), path("native"), "--max")
    test_circle.expect_equal(path("native"), path("arm64"))
    test_record.RECORD, test_circle.REPLAY = native
    test_circle.prove(path("arm64"))
    test_circle.record_replay(path("back"), path("arm64"), "--max")
    test_circle.expect_equal(path("native"), path("back"))
    print("captures of either machine type replay on the other, with equal hashes")


def main():
    native = {name: getattr(end_to_end, name) for name in ("FEED", "INFER", "TRADER")}
    with tempfile.TemporaryDirectory() as directory:
        capture = end_to_end.shorten(end_to_end.need(end_to_end.SPOT), LINES, os.path.join(directory, "part"))
        arm64 = {name: emulated(directory, path) for name, path in native.items()}
        reference, _ = end_to_end.run_chain(capture)
        assert len(reference) > LINES * 9 // 10
        for mixture in ({"INFER"}, {"FEED"}, {"FEED", "INFER", "TRADER"}):
            for name in native:
                setattr(end_to_end, name, (arm64 if name in mixture else native)[name])
            signals, _ = end_to_end.run_chain(capture)
            assert signals == reference, f"other bits with {sorted(mixture)} on arm64"
            print(f"{len(signals)} signals the same with {', '.join(sorted(mixture))} on arm64")
        exchange_captures(directory)


if __name__ == "__main__":
    try:
        main()
    except end_to_end.Skip as reason:
        print(f"skipped: {reason}")
