"""A bus of its own for a test, with the programs of a build directory."""

import os
import shutil
import subprocess
import tempfile
import time

import pytest
from conftest import SOURCE

import signalbus
from signalbus import layout

WAIT_S = 120
MODEL = os.path.join(SOURCE, "kernels", "models", "default.model")


class LiveBus:
    """A bus directory of its own, with processes that never outlive it."""

    def __init__(self, build):
        self.build = build
        self.directory = tempfile.mkdtemp(prefix=f"signalbus-python-{os.getpid()}-", dir="/dev/shm")
        self.processes = []

    def start(self, program, *arguments):
        path = os.path.join(self.build, *program.split("/"))
        if not os.path.exists(path):
            pytest.skip(f"no {path}")
        process = subprocess.Popen(
            [path, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def path(self, name):
        return os.path.join(self.directory, name)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        shutil.rmtree(self.directory)


def wait_running(bus, name):
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        try:
            with bus.member(name, allow_dead=False) as member:
                if member.state == layout.MemberState.RUN:
                    return
        except signalbus.AttachError as error:
            assert error.reason in ("absent", "not ready", "dead owner"), error
        time.sleep(0.005)
    raise AssertionError(f"{name} is not running")
