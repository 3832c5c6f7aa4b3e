"""What the tests of whole programs share: running them, as TAP on standard output."""
import sys
import time
import traceback


class Skip(Exception):
    """A test that this machine does not allow; the message says why."""


def named(namespace):
    """The functions of a module's globals() whose names begin with test_, in their order."""
    return [function for name, function in namespace.items() if name.startswith("test_") and callable(function)]


def run(tests, wanted=()):
    """Runs `tests`, or those whose names are `wanted`. Returns the exit status: 0 when none failed."""
    chosen = [test for test in tests if not wanted or test.__name__ in wanted]
    failed = 0
    print(f"1..{len(chosen)}", flush=True)
    for number, test in enumerate(chosen, 1):
        began = time.monotonic()
        try:
            test()
            print(f"# {time.monotonic() - began:.1f} s\nok {number} - {test.__name__}", flush=True)
        except Skip as reason:
            print(f"ok {number} - {test.__name__} # SKIP {reason}", flush=True)
        except Exception:
            failed += 1
            print("".join(f"# {line}\n" for line in traceback.format_exc().splitlines()), end="")
            print(f"not ok {number} - {test.__name__}", flush=True)
    return 1 if failed else 0


def main(tests, arguments):
    """For the last line of a test program."""
    sys.exit(run(tests, arguments))
