"""For tests that need packages from PyPI: runs the test again in an environment that has them."""
import os
import subprocess
import sys


def enter(build):
    """Returns in the Python of BUILD/tests-venv, or, where that cannot be made, ends the test as skipped."""
    directory = os.path.join(build, "tests-venv")
    if os.path.realpath(sys.prefix) == os.path.realpath(directory):
        return
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make-venv")
    done = subprocess.run([script, directory], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["?"])[-1]
        print(f"1..0 # SKIP the environment {directory} cannot be made (tests/make-venv): {reason}")
        sys.exit(0)
    python = os.path.join(directory, "bin", "python3")
    os.execv(python, [python, *sys.argv])
