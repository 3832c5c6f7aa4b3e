"""For tests that need packages from PyPI: runs the test again in an environment that has them."""
import os
import subprocess
import signal
import sys

import tap

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make-venv")


def enter(build):
    """Returns in the Python of BUILD/tests-venv, or, where that cannot be made, ends the test as skipped."""
    directory = os.path.join(build, "tests-venv")
    if os.path.realpath(sys.prefix) == os.path.realpath(directory):
        return
    done = subprocess.run([SCRIPT, directory], capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["?"])[-1]
        print(f"1..0 # SKIP the environment {directory} cannot be made (tests/make-venv): {reason}")
        sys.exit(0)
    python = os.path.join(directory, "bin", "python3")
    os.execv(python, [python, *sys.argv])


def make(build, name, packages, timeout_s):
    """The folder of programs of an environment of its own with `packages`, BUILD/NAME. Raises tap.Skip where that
    cannot be made, or not in so many seconds."""
    directory = os.path.join(build, name)
    with subprocess.Popen([SCRIPT, directory, *packages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise tap.Skip(f"installing {' '.join(packages)} took longer than {timeout_s} s") from None
    if process.returncode != 0:
        raise tap.Skip(f"{directory} cannot be made (tests/make-venv): {(said.strip().splitlines() or ['?'])[-1]}")
    return os.path.join(directory, "bin")
