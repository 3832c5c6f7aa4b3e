"""A bus with a bridge and members that load it, for the tests of the bridge."""
import functools
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile

from llm_servers import WAIT_S, wait
from tap import Skip

COUNTER = 3
TRANSPORTS = ("io_uring", "epoll")


def on_each_transport(tests):
    """A decorator that puts a test into `tests` once for each transport."""
    def add(test):
        for transport in TRANSPORTS:
            run = functools.partial(test, transport)
            run.__name__ = f"{test.__name__}_by_{transport}"
            tests.append(run)
        return test
    return add


class Bus:
    """A bus, with a bridge by one transport, members that load it, and nothing that outlives it."""

    build = ""  # the build directory; set it first

    def __init__(self, transport, doubles, clients=("load",), backend="", once="retries_max = 0", bridge=""):
        self.directory = tempfile.mkdtemp(prefix="signalbus-bridge-", dir="/dev/shm")
        self.files = tempfile.mkdtemp(prefix="signalbus-bridge-")
        self.transport, self.processes, self.bridge = transport, [], None
        lines = ["[bridge]", f"clients = {', '.join(clients)}", bridge]
        for name, double in doubles.items():
            lines += [f"[backend {name}]", backend]
            if "url" not in backend:
                lines += [f"url = http://127.0.0.1:{double.port}/v1", f"flavor = {double.flavor}"]
        lines += ["[class default]", once]
        self.config = os.path.join(self.files, "bridge.ini")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
            process.log.close()
        shutil.rmtree(self.directory)
        shutil.rmtree(self.files)

    def program(self):
        return os.path.join(self.build, "consumers", "bus-bridge")

    def spawn(self, program, *arguments):
        # Into a file: a pipe that nobody reads stops a program that has much to say.
        log = open(os.path.join(self.files, f"{len(self.processes)}.log"), "w+", encoding="utf-8")
        process = subprocess.Popen([program, "--bus", self.directory, *map(str, arguments)],
                                   stdout=subprocess.PIPE, stderr=log, text=True)
        process.log = log
        self.processes.append(process)
        return process

    def said(self, process):
        process.log.seek(0)
        return process.log.read()

    def start(self, *options):
        """Starts the bridge; returns when it runs."""
        self.bridge = self.spawn(self.program(), "--config", self.config, "--transport", self.transport, "--small-pages",
                                 *options)
        wait(lambda: self.runs("bridge", self.bridge.pid) or self.bridge.poll() is not None, "the bridge to run")
        if self.bridge.poll() is not None:
            said = self.said(self.bridge)
            if self.transport == "io_uring" and "io_uring" in said:
                raise Skip(f"no io_uring here: {said.strip()}")
            if "built without TLS" in said:
                raise Skip(said.strip())
            raise AssertionError(f"bus-bridge ended with {self.bridge.returncode}: {said}")
        return self

    def runs(self, member, pid):
        try:
            with open(os.path.join(self.directory, member), "rb") as file:
                header = file.read(512)
        except FileNotFoundError:
            return False
        return (len(header) == 512 and header[:8] == b"SIGBUS01" and header[256] == 2 and
                struct.unpack_from("<I", header, 160)[0] == pid)

    def counters(self, member="bridge"):
        with open(os.path.join(self.directory, member), "rb") as file:
            count = struct.unpack_from("<I", file.read(512), 120)[0]
            entries = file.read(128 * count)
            result = {}
            for i in range(count):
                entry = entries[i * 128:(i + 1) * 128]
                if struct.unpack_from("<I", entry, 80)[0] == COUNTER:
                    file.seek(struct.unpack_from("<Q", entry, 104)[0])
                    result[entry[:32].split(b"\0")[0].decode()] = struct.unpack("<Q", file.read(8))[0]
            return result

    def begin_load(self, *arguments):
        return self.spawn(os.path.join(self.build, "tests", "llm_load"), *arguments)

    def end_load(self, process, client="load", **expected):
        """Its figures; each request ended once, and in its own answer; these statuses, where some are named."""
        out, _ = process.communicate(timeout=WAIT_S)
        figures = json.loads(out) if out.strip() else None
        assert process.returncode == 0 and figures, (out, self.said(process), self.said(self.bridge))
        assert figures["finals"] == figures["submitted"], figures
        if expected:
            statuses = {name.replace("_", "-"): count for name, count in expected.items()}
            assert figures["statuses"] == statuses, (figures, statuses)
        # What came twice is late for the library, which knows the id no more.
        members = [name for name in os.listdir(self.directory) if name.startswith(client)]
        for name in members:
            counters = self.counters(name)
            assert counters["llm_late"] == counters["llm_invalid"] == 0, (name, counters)
        return figures

    def load(self, prompt, *arguments, **expected):
        return self.end_load(self.begin_load("--prompt", prompt, *arguments), **expected)

    def wait_counter(self, name, least=1):
        wait(lambda: self.counters().get(name, 0) >= least, f"{name} to be {least}", self.bridge)

    def stop(self):
        self.bridge.send_signal(signal.SIGTERM)
        self.bridge.communicate(timeout=WAIT_S)
        assert self.bridge.returncode == 0, (self.bridge.returncode, self.said(self.bridge))

    def kill(self):
        self.bridge.kill()
        self.bridge.wait()
