"""Servers for language models as processes of a test: the double, and the real ones."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

WAIT_S = 120


def wait(condition, what, process=None):
    end = time.monotonic() + WAIT_S
    while not (result := condition()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{what}: the process ended with {process.returncode}")
        if time.monotonic() > end:
            raise AssertionError(f"waited {WAIT_S} s for {what}")
        time.sleep(0.005)
    return result


class DoubleProcess:
    """A double of its own port and log; the port stays when it is started again."""

    wait = staticmethod(wait)

    def __init__(self, flavor="vllm", key=None, tls=None, options=()):
        self.flavor, self.arguments = flavor, ["--flavor", flavor]
        self.arguments += ["--key", key] if key else []
        self.arguments += ["--tls", *tls] if tls else []
        self.arguments += ["--set", *options] if options else []
        self.port = self.control = 0
        self.process = self.connection = None
        handle, self.log = tempfile.mkstemp(prefix="llm-double-", suffix=".jsonl")
        os.close(handle)
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        os.unlink(self.log)

    def start(self):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llm_double.py")
        self.process = subprocess.Popen(
            [sys.executable, script, "--port", str(self.port), "--control", str(self.control), "--log", self.log,
             *self.arguments], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, "the double did not start"
        ports = json.loads(line)
        self.port, self.control = ports["port"], ports["control"]

    def command(self, **words):
        """Tells the double something over its control port; returns its figures."""
        with socket.create_connection(("127.0.0.1", self.control)) as connection:
            connection.settimeout(WAIT_S)
            with connection.makefile("rw") as file:
                file.write(json.dumps(words) + "\n")
                file.flush()
                return json.loads(file.readline())

    def events(self, kind):
        with open(self.log, encoding="utf-8") as file:
            events = [json.loads(line) for line in file if line.endswith("\n")]
        return [event for event in events if event["event"] == kind]

    def requests(self):
        """What was asked, less the bridge's own one-token canaries."""
        return [event for event in self.events("request") if "@" in event["body"]]

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class RealServer:
    """A server of somebody else's with a tiny model, on a port of its own; `command` gets that port behind it."""

    def __init__(self, flavor, command, environment, log):
        self.flavor, self.log = flavor, log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with open(log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=file, stderr=file,
                                            env={**os.environ, **environment})

    def __enter__(self):
        try:
            wait(self.answers, f"the server of {self.log}", self.process)
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5) as reply:
                return reply.status == 200
        except OSError:
            return False
