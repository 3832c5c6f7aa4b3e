#!/usr/bin/env python3
"""The programs as services: what they tell a service manager, and the units that ship.

usage: test_services.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. The manager is a datagram socket here, as systemd's is.
"""
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import tap

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
BUSCTL = os.path.join(BUILD, "tools", "signal-busctl")
FEED = os.path.join(BUILD, "producers", "bus-feed")
INFER = os.path.join(BUILD, "consumers", "bus-infer")
TRADER = os.path.join(BUILD, "consumers", "bus-trader")
MODEL = os.path.join(SOURCE, "kernels", "models", "default.model")
WAIT_S = 240  # for what must happen, however slow the machine
WATCHDOG_S = 8  # a sign of life is due after a quarter, must be there after a half
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if name not in ("SIGNAL_BUS", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM")}
ENVIRONMENT["PATH"] = ":".join([os.path.dirname(path) for path in (BUSCTL, FEED, INFER)] + [os.environ["PATH"]])


class Service:
    """A process with a manager of its own."""

    def __init__(self, place, name, *command, watchdog_s=WATCHDOG_S, abstract=False, **options):
        path = os.path.join(place.root, name + ".socket")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + path if abstract else path)
        environment = dict(ENVIRONMENT, NOTIFY_SOCKET="@" + path if abstract else path,
                           WATCHDOG_USEC=str(watchdog_s * 1000000))
        # As systemd does: the watchdog is for this pid, which stays when the process executes another program.
        shell = 'export WATCHDOG_PID=$$; exec "$@"'
        self.log_path = os.path.join(place.root, name + ".log")
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(["bash", "-c", shell, name, *map(str, command)], env=environment,
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options)
        place.services.append(self)

    def log(self):
        with open(self.log_path) as file:
            return file.read()

    def take(self, timeout_s):
        """The next message as a dictionary, None when none comes in time."""
        if not select.select([self.socket], [], [], timeout_s)[0]:
            return None
        message = self.socket.recv(65536).decode()
        assert message.endswith("\n"), repr(message)
        return dict(line.split("=", 1) for line in message.splitlines())

    def until(self, key, value="1"):
        """The first message with it."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            message = self.take(0.2)
            if message and message.get(key) == value:
                return message
            assert message or self.process.poll() is None, self.log()
        raise AssertionError(f"never: {key}={value}\n{self.log()}")

    def end(self, number=signal.SIGTERM, status=0):
        self.process.send_signal(number)
        self.process.wait(WAIT_S)
        assert self.process.returncode == status, (self.process.returncode, self.log())


class Place:
    """A bus directory of its own, with processes that never outlive it."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="signalbus-services-", dir="/dev/shm")
        self.bus = os.path.join(self.root, "bus")
        self.services = []
        os.mkdir(self.bus, 0o750)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for service in self.services:
            if service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
                service.process.terminate()
                try:
                    service.process.wait(30)
                except subprocess.TimeoutExpired:
                    service.process.kill()
                    service.process.wait()
            service.socket.close()
        shutil.rmtree(self.root)

    def write(self, name, text):
        path = os.path.join(self.root, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def state(self, name):
        """Of the member's file, as info reads it."""
        done = subprocess.run([BUSCTL, "info", "--json", "--bus", self.bus, name], capture_output=True, text=True,
                              timeout=WAIT_S)
        return re.search(r'"state": "(\w+)"', done.stdout).group(1)

    def configuration(self):
        return self.write("bus.ini", f"""[bus]
directory = {self.bus}
[feed]
command = bus-feed --bus %{{bus}} --name %{{name}} --core %{{core}}
    --synthetic --symbols 2
core = 0
[infer]
command = bus-infer --bus %{{bus}} --name %{{name}} --engine scalar
    --model {self.link_model()}
[trader]
command = bus-trader --bus %{{bus}} --name %{{name}} --table never
[job]
command = sleep 1000
start_wait = none
""")

    def link_model(self):
        path = os.path.join(self.root, "model")
        if not os.path.exists(path):
            os.symlink(MODEL, path)
        return path

    def members(self):
        """All four kinds of process under a manager each."""
        ini = self.configuration()
        two = self.write("two.ini", f"""[bus]
directory = {self.bus}
[other]
command = bus-feed --bus %{{bus}} --name %{{name}} --synthetic
[third]
command = sleep 1000
start_wait = none
""")
        return {name: Service(self, name, BUSCTL, "run", name, ini, abstract=name == "infer")
                for name in ("feed", "infer", "trader")} | {"busctl": Service(self, "busctl", BUSCTL, "up", two)}


# ---- what the processes say ----

def ready_comes_after_run_and_stopping_at_the_end():
    with Place() as place:
        services = place.members()
        for name, service in services.items():
            message = service.until("READY")
            assert place.state(name) == "run", (name, place.state(name))
            want = r"all 2 members started" if name == "busctl" else rf"member {name} of {place.bus}, epoch 1"
            assert re.fullmatch(want, message["STATUS"]), message
        for name, service in services.items():
            service.process.terminate()
            service.until("STOPPING")
            service.process.wait(WAIT_S)
            assert service.process.returncode in ((0, 3) if name == "trader" else (0,)), service.log()


def signs_of_life_come_twice_within_the_watchdogs_time_and_end_with_a_stopped_process():
    with Place() as place:
        services = place.members()
        for service in services.values():
            service.until("READY")
            service.until("WATCHDOG")
            service.times = [time.monotonic()]
        end = time.monotonic() + WAIT_S
        while any(len(service.times) < 4 for service in services.values()) and time.monotonic() < end:
            ready = select.select([service.socket for service in services.values()], [], [], 1)[0]
            for service in services.values():
                if service.socket in ready and "WATCHDOG" in service.take(0):
                    service.times.append(time.monotonic())
        for name, service in services.items():
            gaps = [after - before for before, after in zip(service.times, service.times[1:])]
            assert len(gaps) >= 3 and max(gaps) <= WATCHDOG_S / 2, (name, gaps)
        for service in services.values():
            service.process.send_signal(signal.SIGSTOP)
            while open(f"/proc/{service.process.pid}/stat").read().rsplit(")", 1)[1].split()[0] != "T":
                time.sleep(0.01)
            while service.take(0):
                pass
        time.sleep(WATCHDOG_S / 2)
        for name, service in services.items():
            message = service.take(0)
            assert message is None, (name, message)
            service.process.send_signal(signal.SIGCONT)
            service.until("WATCHDOG")


def a_feed_that_waits_for_its_consumer_still_shows_life():
    """Its ring full, with nobody who reads it: held back, not hung."""
    with Place() as place:
        service = Service(place, "feed", FEED, "--bus", place.bus, "--synthetic", "--speed", "max", "--ring-depth", "4",
                          watchdog_s=1)
        service.until("READY")
        for _ in range(8):
            service.until("WATCHDOG")


def a_restarted_member_says_its_epoch():
    with Place() as place:
        ini = place.configuration()
        for epoch in (1, 2):
            service = Service(place, f"infer{epoch}", BUSCTL, "run", "infer", ini)
            assert service.until("READY")["STATUS"].endswith(f"epoch {epoch}")
            service.end(signal.SIGKILL, -signal.SIGKILL)


def the_supervisor_says_what_happens_and_its_members_nothing():
    with Place() as place:
        ini = place.write("bus.ini", f"[bus]\ndirectory = {place.bus}\n[feed]\ncommand = bus-feed --synthetic\n"
                          "restart_backoff_ms = 1\nstart_timeout_ms = 600000\n")
        service = Service(place, "busctl", BUSCTL, "up", ini)
        service.until("READY")
        pid = int(re.search(r"feed: started, pid (\d+)", service.log()).group(1))
        environment = open(f"/proc/{pid}/environ").read()
        assert "NOTIFY_SOCKET" not in environment and "WATCHDOG" not in environment, environment
        os.kill(pid, signal.SIGKILL)
        message = service.take(WAIT_S)
        while "STATUS" not in message:
            message = service.take(WAIT_S)
        assert message["STATUS"].startswith("feed: restart"), message
        while "restarted, pid" not in service.log():
            time.sleep(0.01)
        service.end()


def a_manager_that_is_gone_or_unknown_harms_nobody():
    with Place() as place:
        for number, address in enumerate(("/nonexistent/socket", "vsock:2:1", "relative")):
            log = os.path.join(place.root, f"log{number}")
            with open(log, "w") as file:
                done = subprocess.run([FEED, "--bus", place.bus, "--messages", "1000", "--speed", "max", "--synthetic",
                                       "--consumer", "none", "--policy", "drop-newest"],
                                      env=dict(ENVIRONMENT, NOTIFY_SOCKET=address), stderr=file, timeout=WAIT_S)
            text = open(log).read()
            assert done.returncode == 0, text
            assert ("NOTIFY_SOCKET" in text) == (address[0] != "/"), text


def lines_carry_a_priority_under_the_journal():
    with Place() as place:
        path = place.write("journal", "")
        for stream, mark in ((None, ""), ("same", "<3>"), ("other", "")):
            with open(path, "w") as file:
                status = os.fstat(file.fileno())
                environment = dict(ENVIRONMENT)
                if stream:
                    inode = status.st_ino + (stream == "other")
                    environment["JOURNAL_STREAM"] = f"{status.st_dev}:{inode}"
                for command in ([FEED, "--bus", "/nonexistent"], [INFER, "--bus", "/nonexistent", "--model", MODEL],
                                [TRADER, "--bus", "/nonexistent"], [BUSCTL, "info", "--bus", "/nonexistent"]):
                    done = subprocess.run(command, env=environment, stderr=file, stdout=subprocess.DEVNULL,
                                          timeout=WAIT_S)
                    assert done.returncode == 1, command
            lines = open(path).read().splitlines()
            assert len(lines) == 4 and all(re.match(mark + r"(bus-|signal-busctl)", line) for line in lines), lines


# ---- one section of the configuration ----

def run_is_the_member_itself():
    """Same pid, pinned, standard input closed off, environment set."""
    with Place() as place:
        service = Service(place, "feed", BUSCTL, "run", "feed", place.configuration())
        service.until("READY")
        proc = f"/proc/{service.process.pid}"
        assert os.readlink(f"{proc}/exe") == os.path.realpath(FEED)
        assert os.sched_getaffinity(service.process.pid) == {0}
        assert os.readlink(f"{proc}/fd/0") == "/dev/null"
        arguments = open(f"{proc}/cmdline").read().split("\0")
        assert arguments[:7] == ["bus-feed", "--bus", place.bus, "--name", "feed", "--core", "0"], arguments
        assert f"SIGNAL_BUS={place.bus}" in open(f"{proc}/environ").read().split("\0")
        service.end()
        other = os.path.join(place.root, "made")
        service = Service(place, "feed2", BUSCTL, "run", "feed", place.configuration(), "--bus", other)
        service.until("READY")
        assert os.path.exists(os.path.join(other, "feed"))
        service.end()


def run_stands_in_for_a_program_that_is_no_member():
    with Place() as place:
        service = Service(place, "job", BUSCTL, "run", "job", place.configuration())
        assert service.until("READY")["WATCHDOG_USEC"] == "0"
        while os.path.basename(os.readlink(f"/proc/{service.process.pid}/exe")) == "signal-busctl":
            time.sleep(0.01)
        assert "NOTIFY_SOCKET" not in open(f"/proc/{service.process.pid}/environ").read()
        service.end(status=-signal.SIGTERM)


def run_refuses_with_the_next_step():
    with Place() as place:
        ini = place.configuration()
        missing = place.write("missing.ini", "[a]\ncommand = /nonexistent/program\n[b]\ncommand = true\ncore = 1000\n")
        for arguments, text in (((ini,), "give a section and a configuration file"),
                                (("feeed", ini), "no section [feeed]; there are: feed, infer, trader, job"),
                                (("feed", "/nonexistent"), "/nonexistent: opening the configuration"),
                                (("a", missing), "cannot run '/nonexistent/program' (check command= in line 1"),
                                (("b", missing), "core=1000: cannot be pinned there")):
            done = subprocess.run([BUSCTL, "run", *arguments, "--bus", place.bus], env=ENVIRONMENT, capture_output=True,
                                  text=True, timeout=WAIT_S)
            assert done.returncode == (2 if len(arguments) == 1 else 1) and text in done.stderr, done


TESTS = [ready_comes_after_run_and_stopping_at_the_end,
         signs_of_life_come_twice_within_the_watchdogs_time_and_end_with_a_stopped_process,
         a_feed_that_waits_for_its_consumer_still_shows_life, a_restarted_member_says_its_epoch,
         the_supervisor_says_what_happens_and_its_members_nothing, a_manager_that_is_gone_or_unknown_harms_nobody,
         lines_carry_a_priority_under_the_journal, run_is_the_member_itself,
         run_stands_in_for_a_program_that_is_no_member, run_refuses_with_the_next_step]


if __name__ == "__main__":
    tap.main(TESTS, sys.argv[3:])
