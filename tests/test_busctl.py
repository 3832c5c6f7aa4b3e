#!/usr/bin/env python3
"""signal-busctl over the real programs, as an operator uses it.

usage: test_busctl.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. Needs the standard library only. No test depends on how fast the machine is.
"""
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tap

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
BUSCTL = os.path.join(BUILD, "tools", "signal-busctl")
MODEL = os.path.join(SOURCE, "kernels", "models", "default.model")
WAIT_S = int(os.environ.get("BUS_TEST_WAIT_S", 240))  # for what must happen, however slow the machine
SYSTEMD_VERBS = ("list status monitor capture tree introspect call emit wait get-property set-property "
                 "help").split()
ENVIRONMENT = dict(os.environ, LC_ALL="C.UTF-8", PATH=":".join(
    [os.path.join(BUILD, part) for part in ("tools", "producers", "consumers")] + [os.environ["PATH"]]))
ENVIRONMENT.pop("SIGNAL_BUS", None)
NOBODY = 65534

PATIENCE = """start_timeout_ms = 600000
stop_timeout_ms = 600000
"""

CHAIN = f"""
[feed]
command = bus-feed --name %{{name}} --synthetic --symbols 4
restart_backoff_ms = 20
{PATIENCE}[infer]
command = bus-infer --name %{{name}} --feed feed --engine scalar
    --model "%{{bus}}.model"
restart_backoff_ms = 20
{PATIENCE}[trader]
command = bus-trader --table never
restart_backoff_ms = 20
{PATIENCE}"""


def busctl(*arguments, status=0, **options):
    done = subprocess.run([BUSCTL, *map(str, arguments)], capture_output=True, text=True, timeout=WAIT_S,
                          env=ENVIRONMENT, **options)
    assert done.returncode == status, \
        f"{arguments}: exit {done.returncode}, expected {status}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def until(what, condition):
    """The first true value of condition()."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"never: {what}")


def down(directory, *arguments):
    return busctl("down", "--timeout", WAIT_S, "--bus", directory, *arguments)


class Bus:
    """A bus directory of its own, with processes that never outlive it."""

    def __init__(self, make=True):
        self.root = tempfile.mkdtemp(prefix="signalbus-busctl-", dir="/dev/shm")
        os.chmod(self.root, 0o755)
        self.directory = os.path.join(self.root, "bus")
        self.processes = []
        os.symlink(MODEL, self.directory + ".model")
        if make:
            busctl("create", "--bus", self.directory)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:  # a supervisor takes its members with it
            if process.poll() is None:
                process.kill()
            process.communicate()
        end = time.monotonic() + WAIT_S
        while os.path.isdir(self.directory) and time.monotonic() < end:
            done = subprocess.run([BUSCTL, "down", "--bus", self.directory], capture_output=True, text=True,
                                  timeout=WAIT_S)
            if done.stderr.endswith("living members:\n  none\n") or "no supervisor" not in done.stderr:
                break
            time.sleep(0.02)
        shutil.rmtree(self.root)

    def start(self, *command, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
        process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, **options)
        self.processes.append(process)
        return process

    def up(self, text=CHAIN, *arguments):
        """A supervisor that has started all; its log is read while it runs."""
        self.log_path = os.path.join(self.root, "log")
        path = self.write("bus.ini", text)
        with open(self.log_path, "w") as log:
            process = self.start(BUSCTL, "up", path, "--bus", self.directory, *arguments, stdout=log,
                                 stderr=subprocess.STDOUT)
        until("all members started", lambda: "members started" in self.log() or process.poll() is not None)
        assert process.poll() is None, self.log()
        return process

    def log(self):
        with open(self.log_path) as file:
            return file.read()

    def write(self, name, text):
        path = os.path.join(self.root, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def info(self):
        """{name: member}; one that is being created is not there yet."""
        done = subprocess.run([BUSCTL, "info", "--json", "--bus", self.directory], capture_output=True, text=True,
                              timeout=WAIT_S)
        bus = json.loads(done.stdout)
        assert all(problem["error"] == "not ready" for problem in bus["problems"]), bus["problems"]
        assert bus["directory"] == self.directory and done.returncode == (3 if bus["problems"] else 0), done
        return {member["name"]: member for member in bus["members"]}


class Chain(Bus):
    """One with the chain at work."""

    def __init__(self):
        super().__init__(make=False)

    def __enter__(self):
        self.supervisor = self.up()
        return super().__enter__()

    def stop(self):
        down(self.directory)
        finish(self.supervisor)


def finish(process, status=0):
    out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == status, f"exit {process.returncode}, expected {status}\n{out}"
    return out


def in_order(text, *parts):
    at = 0
    for part in parts:
        at = text.find(part, at)
        assert at >= 0, f"'{part}' is missing or too early in:\n{text}"
        at += len(part)


# ---- the program's face ----

def verbs_of_systemd_are_refused_with_a_pointer():
    for verb in SYSTEMD_VERBS:
        out, err = busctl(verb, status=2)
        assert not out and f"'{verb}' is a verb of systemd's busctl" in err and f"/usr/bin/busctl {verb}" in err
    out = busctl("--help")[0]
    ours = re.findall(r"^  ([a-z]+) ", out, re.M)
    with open(os.path.join(SOURCE, "tools", "busctl.h")) as file:
        declared = re.findall(r"^int busctl_(\w+)\(int argc, char \*\*argv\);", file.read(), re.M)
    assert len(declared) >= 7 and sorted(ours) == sorted(declared), (ours, declared)
    assert not set(ours) & set(SYSTEMD_VERBS)


def wrong_usage_is_status_2_and_points_to_help():
    assert "no verb 'frobnicate'" in busctl("frobnicate", status=2)[1]
    assert "no verb '?[2J'" in busctl("\x1b[2J", status=2)[1]
    assert "Usage" in busctl(status=2)[1]  # systemd's lists with no arguments: ours never acts
    for arguments in (("info", "a", "b"), ("down", "--timeout", "0"), ("top", "--interval-ms", "9"),
                      ("top", "--count", "x"), ("create", "--mode", "999"), ("create", "--mode", "0070"),
                      ("up",), ("up", "a", "b"), ("up", "a", "--wait-ready", "-1"), ("destroy", "x"),
                      ("run", "a"), ("create", "x"), ("top", "x"), ("down", "x"), ("metrics", "x"),
                      ("metrics", "--interval-ms", "1"), ("metrics", "--listen", ":9480"),
                      ("metrics", "--listen", "*:9480"), ("metrics", "--listen", "host.example:9480"),
                      ("metrics", "--listen", "127.0.0.1:65536"), ("metrics", "--listen", "::1:9480"),
                      ("metrics", "--listen", "127.0.0.1:"), ("metrics", "--listen", "")):
        assert f"see: signal-busctl {arguments[0]} --help" in busctl(*arguments, status=2)[1]
    for verb in ("create", "destroy", "info", "top", "metrics", "up", "run", "down"):
        assert f"signal-busctl {verb}: unrecognized option" in busctl(verb, "--nonsense", status=2)[1]
    assert re.match(r"signal-busctl \(signal-bus\) \d", busctl("--version")[0])


# ---- the directory ----

def create_and_destroy():
    with Bus(make=False) as bus:
        out = busctl("create", "--bus", bus.directory)[0]
        in_order(out, f"bus {bus.directory}: created", "mode 0750", "memory: a file of 2048 KiB gets", "space:",
                 f"next: signal-busctl up CONF --bus {bus.directory}")
        assert os.stat(bus.directory).st_mode & 0o7777 == 0o750
        assert os.listdir(bus.directory) == []
        assert "already there" in busctl("create", "--bus", bus.directory)[0]
        busctl("create", "--bus", bus.directory, "--mode", "2770", "--group", os.getgid())
        assert os.stat(bus.directory).st_mode & 0o7777 == 0o2770
        assert "no such group" in busctl("create", "--bus", bus.directory, "--group", "no.such", status=1)[1]
        assert "0 members" in busctl("info", "--bus", bus.directory)[0]
        assert json.loads(busctl("info", "--json", "--bus", bus.directory)[0]) == {
            "directory": bus.directory, "members": [], "problems": []}
        assert "directory removed" in busctl("destroy", "--bus", bus.directory)[0]
        assert not os.path.exists(bus.directory)
        err = busctl("create", "--bus", os.path.join(bus.root, "no", "bus"), status=1)[1]
        assert f"its parent {bus.root}/no does not exist" in err, err
        with open(bus.directory, "w"):
            pass
        assert "not a directory" in busctl("create", "--bus", bus.directory, status=1)[1]


def no_such_bus():
    with Bus(make=False) as bus:
        for verb in ("info", "top", "down", "destroy"):
            err = busctl(verb, "--bus", bus.directory, status=1)[1]
            assert f"{bus.directory}: no bus there; create it with: signal-busctl create --bus" in err, err
        path = bus.write("file", "x")
        assert "not a directory" in busctl("info", "--bus", path, status=1)[1]
        err = busctl("up", bus.write("c.ini", "[bus]\ncreate=no\n[a]\ncommand=true\n"), "--bus", bus.directory,
                     status=1)[1]
        assert bus.directory in err and "signal-busctl create" in err, err
        assert "longer than" in busctl("info", "--bus", "/" + "x" * 300, status=1)[1]


def no_permission():
    """As a user who may not, with a copy of the program where that user can reach it."""
    with Bus() as bus:
        os.chmod(bus.directory, 0o700)
        options = {}
        if os.geteuid() == 0:
            options = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        else:
            os.chmod(bus.directory, 0)
        program = os.path.join(bus.root, "bin", "signal-busctl")
        os.makedirs(os.path.join(bus.root, "shm"))
        os.makedirs(os.path.dirname(program))
        shutil.copy(BUSCTL, program)
        for name in os.listdir(os.path.join(BUILD, "shm")):
            if name.startswith("libsignalbus.so") and not os.path.isdir(os.path.join(BUILD, "shm", name)):
                shutil.copy(os.path.join(BUILD, "shm", name), os.path.join(bus.root, "shm", name))
        config = bus.write("c.ini", "[a]\ncommand=true\n")

        def refused(*arguments):
            done = subprocess.run([program, *arguments], capture_output=True, text=True, cwd="/",
                                  timeout=WAIT_S, env=ENVIRONMENT, **options)
            assert done.returncode == 1, (arguments, done)
            return done.stderr

        owner = f"uid {os.geteuid()}, gid "
        for verb in ("info", "top", "down", "destroy"):
            err = refused(verb, "--bus", bus.directory)
            assert f"{bus.directory}: permission denied; it belongs to {owner}" in err, err
            assert "join that group, or run as that user" in err, err
        err = refused("up", config, "--bus", bus.directory)
        assert "denied" in err.lower() and bus.directory in err, err
        os.chmod(bus.directory, 0o755)
        if os.geteuid() == 0:
            out = subprocess.run([program, "info", "--bus", bus.directory], capture_output=True, text=True,
                                 cwd="/", env=ENVIRONMENT, **options)
            assert out.returncode == 0 and "0 members" in out.stdout, out
            err = refused("create", "--bus", os.path.join(bus.root, "new"))
            assert f"cannot be made as uid {NOBODY}; {bus.root} belongs to {owner}" in err, err
            err = refused("create", "--bus", bus.directory, "--mode", "0777")
            assert f"its mode cannot be set as uid {NOBODY}; {bus.directory} belongs to {owner}" in err, err
            done = subprocess.run([program, "destroy", "--bus", bus.directory], capture_output=True, text=True,
                                  cwd="/", env=ENVIRONMENT, **options)
            assert done.returncode == 3 and "not removed" in done.stderr, done
            feed = bus.start(os.path.join(BUILD, "producers", "bus-feed"), "--bus", bus.directory)
            until("the feed runs", lambda: bus.info().get("feed", {}).get("state") == "run")
            out = subprocess.run([program, "info", "--bus", bus.directory], capture_output=True, text=True,
                                 cwd="/", env=ENVIRONMENT, **options)
            assert out.returncode == 3 and "not a member: feed:" in out.stdout, out
            assert "permission denied; owner uid 0" in out.stdout and "join that group" in out.stdout, out
            feed.send_signal(signal.SIGTERM)
            finish(feed)


def foreign_files_are_named_and_left_alone():
    with Bus() as bus:
        path = bus.directory
        with open(os.path.join(path, "notes.txt"), "w") as file:
            file.write("remember the milk\n")
        with open(os.path.join(path, "zeal"), "wb") as file:
            file.write(b"\x7fELF" + bytes(4092))
        with open(os.path.join(path, "bad\x1b[2Jname"), "w") as file:
            file.write("x")
        os.mkdir(os.path.join(path, "folder"))
        os.mkfifo(os.path.join(path, "fifo"))
        os.symlink("/etc/passwd", os.path.join(path, "link"))
        os.symlink("nowhere", os.path.join(path, ".hidden"))
        with open(os.path.join(path, "empty"), "w"):
            pass
        names = sorted(os.listdir(path))
        out, _ = busctl("info", "--bus", path, status=3)
        assert "\x1b" not in out and "bad?[2Jname" in out, out
        listed = json.loads(busctl("info", "--json", "--bus", path, status=3)[0])
        assert listed["members"] == []
        assert sorted(p["file"].replace("?", "\x1b") for p in listed["problems"]) == names
        assert all(problem["reason"] for problem in listed["problems"])
        out, err = busctl("create", "--bus", path, "--mode", "0777", status=3)
        assert "left as it is" in out and "notes.txt" in err and "\x1b" not in err
        assert os.stat(path).st_mode & 0o7777 == 0o750
        busctl("top", "--once", "--interval-ms", "10", "--bus", path)
        out, err = busctl("destroy", "--bus", path, status=3)
        assert "\x1b" not in err and f"left {len(names) - 1}".split()[1] in out, out
        assert sorted(os.listdir(path)) == [name for name in names if name != "empty"]
        with open(os.path.join(path, "notes.txt")) as file:
            assert file.read() == "remember the milk\n"


# ---- up, kill, down ----

def a_chain_is_started_restarted_and_stopped():
    with Bus(make=False) as bus:
        supervisor = bus.up()
        in_order(bus.log(), "feed: started", "infer: started", "trader: started", "all 3 members started")
        members = bus.info()
        assert sorted(members) == ["busctl", "feed", "infer", "trader"]
        for name in members:  # one that got no processor for a while is stalled
            member = until(f"{name} is seen alive", lambda: (lambda member: member if member["status"] == "alive"
                                                             else None)(bus.info()[name]))
            assert (member["state"], member["epoch"], member["next_step"]) == ("run", 1, None), member
        assert members["busctl"]["kind"] == "supervisor" and members["busctl"]["pid"] == supervisor.pid
        for name in ("feed", "infer", "trader"):
            until(f"{name} runs after its restart", lambda: bus.info()[name]["state"] == "run")
            before = bus.info()[name]
            os.kill(before["pid"], signal.SIGKILL)
            # While it is taken over its file cannot be read, and is no member's.
            after = until(f"{name} restarted", lambda: (lambda member: member if member
                                                        and member["epoch"] > before["epoch"]
                                                        and member["status"] == "alive" else None)(bus.info().get(name)))
            assert after["epoch"] == before["epoch"] + 1 and after["pid"] != before["pid"], after
            until("the log tells", lambda: f"{name}: restarted, pid {after['pid']}" in bus.log())
            in_order(bus.log(), f"{name}: killed by signal 9", f"{name}: restarted, pid {after['pid']}")
        until("all run again", lambda: all(member["state"] == "run" for member in bus.info().values()))
        counters = {counter["name"]: counter["value"] for counter in bus.info()["busctl"]["counters"]}
        assert counters["restarts.feed"] == counters["restarts.infer"] == counters["restarts.trader"] == 1
        assert counters["failed_exits"] == 3
        err = busctl("destroy", "--bus", bus.directory, status=1)[1]
        assert "members are alive" in err and f"signal-busctl down --bus {bus.directory}" in err
        # Another one on the same bus.
        err = busctl("up", os.path.join(bus.root, "bus.ini"), "--bus", bus.directory, status=1)[1]
        assert str(supervisor.pid) in err, err
        out = down(bus.directory)[0]
        in_order(out, f"supervisor, pid {supervisor.pid}: asked to stop", f"bus {bus.directory}: down")
        finish(supervisor)
        in_order(bus.log(), "stopping: Terminated", "trader: stopping", "trader: exited with status 0",
                 "infer: stopping", "infer: exited with status 0", "feed: stopping", "feed: exited with status 0")
        for member in bus.info().values():
            assert (member["status"], member["state"]) == ("dead", "halt"), member
            assert "it ended in order; start the bus again: signal-busctl up " + bus.root in member["next_step"]
        assert "no supervisor runs this bus" in busctl("down", "--bus", bus.directory, status=1)[1]
        assert "4 files deleted, directory removed" in busctl("destroy", "--bus", bus.directory)[0]


def a_killed_member_is_shown_dead_with_epoch_and_next_step():
    with Bus(make=False) as bus:
        # Restarted after an hour: dead as long as it takes to look.
        slow = CHAIN.replace("restart_backoff_ms = 20",
                             "restart_backoff_ms = 3600000\nrestart_backoff_ms_max = 3600000")
        supervisor = bus.up(slow.replace("[trader]", "[trader]\nrestart = never"))
        for name in ("trader", "infer", "feed"):
            os.kill(bus.info()[name]["pid"], signal.SIGKILL)
            until("the supervisor has seen it", lambda: f"{name}: killed by signal 9" in bus.log())
            member = until(f"{name} dead", lambda: (lambda member: member if member["status"] == "dead" else None)
                           (bus.info()[name]))
            assert member["state"] == "run" and member["epoch"] == 1
            text = busctl("info", "--bus", bus.directory, name)[0]
            in_order(text, f"{name} ({name}): dead, state run, pid {member['pid']}, epoch 1",
                     f"next: {member['next_step']}")
            assert "it died without leaving the bus" in member["next_step"]
            if name == "trader":
                assert f"the supervisor (pid {supervisor.pid}) leaves it (killed by signal 9" in member["next_step"]
                assert f"signal-busctl up {bus.root}/bus.ini --bus {bus.directory}" in member["next_step"]
            else:
                assert f"the supervisor (pid {supervisor.pid}) starts it again: restart 1 in 3600000 ms" \
                    in member["next_step"], member["next_step"]
        supervisor.send_signal(signal.SIGINT)
        finish(supervisor, 1)
        # The supervisor too.
        supervisor = bus.up()
        assert bus.info()["feed"]["epoch"] == 2
        supervisor.kill()
        finish(supervisor, -signal.SIGKILL)
        until("its members have ended", lambda: all(m["status"] == "dead" for m in bus.info().values()))
        member = bus.info()["busctl"]
        assert member["state"] == "run" and f"signal-busctl up {bus.root}/bus.ini" in member["next_step"], member


def members_started_by_hand():
    with Bus() as bus:
        def feed():
            process = bus.start("bus-feed", "--bus", bus.directory, "--policy", "overwrite")
            until("the feed runs", lambda: (lambda member: member.get("pid") == process.pid and
                                            member["state"] == "run")(bus.info().get("feed", {})))
            return process
        first = feed()
        os.kill(first.pid, signal.SIGSTOP)
        member = until("stalled", lambda: (lambda m: m if m["status"] == "stalled" else None)(bus.info()["feed"]))
        assert f"ps -o pid,stat,wchan,cmd -p {first.pid}" in member["next_step"]
        err = busctl("destroy", "--bus", bus.directory, status=1)[1]
        assert f"feed: stalled, pid {first.pid}" in err, err
        os.kill(first.pid, signal.SIGCONT)
        until("alive again", lambda: bus.info()["feed"]["status"] == "alive")
        first.kill()
        finish(first, -signal.SIGKILL)
        out = busctl("info", "--bus", bus.directory)[0]
        in_order(out, "feed (feed): dead, state run", f"pid {first.pid}, epoch 1", "next: it died without leaving",
                 f"start it again with --name feed --bus {bus.directory}",
                 f"signal-busctl destroy --force --bus {bus.directory}")
        second = feed()
        assert bus.info()["feed"]["epoch"] == 2
        err = busctl("down", "--bus", bus.directory, status=1)[1]
        in_order(err, "no supervisor runs this bus; living members:", f"feed: alive, pid {second.pid}")
        assert second.poll() is None
        # Dead neighbours go, the living stay.
        dead = bus.start("bus-feed", "--bus", bus.directory, "--name", "other", "--messages", "1")
        finish(dead)
        busctl("destroy", "--force", "--bus", bus.directory, status=3)
        assert sorted(bus.info()) == ["feed"] and second.poll() is None
        second.send_signal(signal.SIGTERM)
        finish(second)
        assert bus.info()["feed"]["next_step"].startswith("it ended in order; start it again with")


def mistakes_in_the_configuration_carry_file_and_line():
    with Bus(make=False) as bus:
        path = bus.write("bad.ini", "[a]\ncommand = true\n\ncore = many\n")
        err = busctl("up", path, "--bus", bus.directory, status=1)[1]
        assert err == f"signal-busctl up: {path}:4: core 'many': use a whole number from -1 to 1023\n", err
        assert not os.path.exists(bus.directory)  # nothing was begun
        err = busctl("up", path + "x", status=1)[1]
        assert f"{path}x: opening the configuration" in err
        path = bus.write("gone.ini", "[a]\ncommand = bus-nothing\n")
        err = busctl("up", path, "--bus", bus.directory, status=1)[1]
        in_order(err, "a: cannot run 'bus-nothing' (check command= in line 1, and PATH)",
                 "signal-busctl up: a could not be started")
        path = bus.write("slow.ini", "[a]\ncommand = sleep 1000\nstart_timeout_ms = 100\n")
        err = busctl("up", path, "--bus", bus.directory, status=1)[1]
        in_order(err, "a: runs, but", "(--name %{name})", "a was not ready within start_timeout_ms=100")
        path = bus.write("all.ini", "[a]\ncommand = sleep 1000\n")
        err = busctl("up", path, "--bus", bus.directory, "--wait-ready", "1", status=1)[1]
        in_order(err, "a was not ready within the time for all")


def down_waits_and_gives_up():
    with Bus(make=False) as bus:
        supervisor = bus.up("[a]\ncommand = sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'\n"
                            "start_wait = none\nstop_timeout_ms = 3600000\n")
        until("the shell has set its trap", lambda: any(
            int(line.split()[1], 16) & 1 << signal.SIGTERM - 1
            for child in open(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read().split()
            for line in open(f"/proc/{child}/status") if line.startswith("SigIgn")))
        out, err = busctl("down", "--timeout", "1", "--bus", bus.directory, status=1)
        in_order(out, "asked to stop", "waiting for:", f"busctl: alive, pid {supervisor.pid}")
        assert f"a second signal to the supervisor, pid {supervisor.pid}, kills the members at once" in err
        down(bus.directory)
        finish(supervisor, 1)
        in_order(bus.log(), "a: stopping", "Terminated again: killing all at once", "a: killed by signal 9")


def the_example_that_ships_works():
    with Bus(make=False) as bus:
        with open(os.path.join(SOURCE, "tools", "signal-bus.ini")) as file:
            text = file.read()
        assert text.count("--feed feed\n") == 1
        # The only changes: the model is not installed yet, and the machine may be slow.
        supervisor = bus.up(re.sub(r"^(start|stop)_timeout_ms.*\n", "", text, flags=re.M)
                            .replace("--feed feed\n", "--feed feed --model %{bus}.model\n")
                            .replace("\nrestart = ", f"\n{PATIENCE}restart = "))
        members = bus.info()
        assert sorted(members) == ["busctl", "feed", "infer", "trader"]
        for name in ("feed", "infer", "trader"):
            section = text[text.index(f"[{name}]"):]
            assert all(f"\n{key} = " in section.split("\n[")[0] for key in ("core", "numa_node", "restart"))
        until("signals", lambda: [c["value"] for c in bus.info()["trader"]["counters"] if c["name"] == "signals"][0])
        down(bus.directory)
        finish(supervisor)


# ---- info and top ----

MEMBER_KEYS = ("name kind status state pid epoch heartbeat_age_ns core numa_node backing huge_kib file_bytes "
               "next_step rings positions counters histograms boards symbols texts").split()


def info_and_top_are_valid_and_agree():
    with Bus(make=False) as bus:
        supervisor = bus.up()
        until("signals", lambda: [c["value"] for c in bus.info()["trader"]["counters"] if c["name"] == "signals"][0])
        members = bus.info()
        for member in members.values():
            assert sorted(member) == sorted(MEMBER_KEYS), sorted(member)
        ring = members["feed"]["rings"][0]
        assert ring["name"] == "features" and ring["consumer"] == "infer" and ring["policy"] == "wait"
        assert ring["record_bytes"] == 128 and ring["depth_records"] == 16384
        assert 0 <= ring["lag_records"] <= ring["depth_records"] and ring["committed_records"] > 0
        assert members["infer"]["positions"][0]["producer"] == "feed" and members["infer"]["positions"][0]["joined"]
        assert members["infer"]["boards"][0]["signals"], members["infer"]["boards"]
        assert {text["name"]: text["text"] for text in members["busctl"]["texts"]}["state.feed"] == "running"
        histogram = next(h for h in members["trader"]["histograms"] if h["name"] == "total_ns")
        assert 0 < histogram["count"] and histogram["p50"] <= histogram["p90"] <= histogram["p99"] \
            <= histogram["p99_9"] <= histogram["maximum"], histogram
        text = busctl("info", "--bus", bus.directory, "infer")[0]
        in_order(text, f"bus {bus.directory}: 1 members", "infer (infer): alive, state run",
                 "reads features of feed: position", "board feed:", "symbol 0: direction")
        err = busctl("info", "--bus", bus.directory, "nobody", status=1)[1]
        assert "no member 'nobody'" in err
        views = [json.loads(line) for line in
                 busctl("top", "--json", "--count", "2", "--interval-ms", "100", "--bus", bus.directory)[0].splitlines()]
        assert len(views) == 2
        once = json.loads(busctl("top", "--once", "--json", "--interval-ms", "200", "--bus", bus.directory)[0])
        for view in views + [once]:
            assert sorted(view) == ["classes", "counters_changed", "directory", "histograms", "interval_ns", "members",
                                    "positions", "rings", "servers"]
            assert view["interval_ns"] >= 100_000_000
            assert [member["name"] for member in view["members"]] == ["busctl", "feed", "infer", "trader"]
            assert {(ring["member"], ring["name"]) for ring in view["rings"]} == \
                {("feed", "features"), ("infer", "signals")}
            for ring in view["rings"]:
                assert ring["rate_records_per_s"] >= 0
            for item in view["histograms"]:
                for span in ("since_start", "interval"):
                    figures = item[span]
                    assert figures["p50"] <= figures["p99"] <= max(figures["maximum"], figures["p99"])
                assert item["interval"]["count"] <= item["since_start"]["count"]
        text = busctl("top", "--once", "--interval-ms", "100", "--bus", bus.directory)[0]
        assert "\x1b" not in text
        in_order(text, f"bus {bus.directory}", "MEMBER", "feed", "infer", "trader", "RING", "feed/features",
                 "infer/signals", "LATENCY", "trader/total_ns", "COUNTER that changed", "trader/signals")
        down(bus.directory)
        finish(supervisor)


def top_goes_on_while_members_come_and_go():
    with Bus() as bus:
        top = bus.start(BUSCTL, "top", "--json", "--interval-ms", "20", "--bus", bus.directory,
                        stderr=subprocess.PIPE)

        def view(what, condition):
            until(what, lambda: condition({m["name"]: m for m in json.loads(top.stdout.readline())["members"]}))
        view("empty", lambda members: not members)
        feed = bus.start("bus-feed", "--bus", bus.directory, "--policy", "overwrite")
        view("alive", lambda members: members.get("feed", {}).get("state") == "run")
        feed.kill()
        finish(feed, -signal.SIGKILL)
        view("dead", lambda members: members["feed"]["status"] == "dead")
        feed = bus.start("bus-feed", "--bus", bus.directory, "--policy", "overwrite")
        view("again", lambda members: members["feed"]["status"] == "alive" and members["feed"]["epoch"] == 2)
        feed.send_signal(signal.SIGTERM)
        finish(feed)
        busctl("destroy", "--bus", bus.directory)
        _, err = top.communicate(timeout=WAIT_S)  # the bus is gone: it ends, and says so
        assert top.returncode == 1 and "no bus there" in err, err
        # Ctrl-C, and a reader who has seen enough.
        busctl("create", "--bus", bus.directory)
        top = bus.start(BUSCTL, "top", "--json", "--interval-ms", "20", "--bus", bus.directory)
        top.stdout.readline()
        top.send_signal(signal.SIGINT)
        finish(top)
        top = bus.start(BUSCTL, "top", "--json", "--interval-ms", "20", "--bus", bus.directory,
                        stderr=subprocess.PIPE)
        top.stdout.readline()
        top.stdout.close()
        assert top.wait(timeout=WAIT_S) == 0, top.stderr.read()


# ---- quickstart ----

def quickstart(bus, *arguments, **options):
    """On a bus of its own, so that others may run theirs."""
    ENVIRONMENT.update(SIGNAL_BUS_BUILD=BUILD, SIGNAL_BUS_QUICKSTART=bus.directory + "-quick")
    process = bus.start(os.path.join(SOURCE, "tools", "quickstart"), *arguments, stderr=subprocess.PIPE,
                        **options)
    return process


REPORT = "tick received -> signal visible"
MISSED = r"(?m)^quickstart: the trader missed [1-9]\d* signals; "


def member_of(directory, name):
    return json.loads(busctl("info", "--json", "--bus", directory, name)[0])["members"][0]


def counter_of(directory, member, name):
    return next(c["value"] for c in member_of(directory, member)["counters"] if c["name"] == name)


def quickstart_ends_with_its_source():
    with Bus() as bus:
        process = quickstart(bus, "--seconds", "1")
        out, err = process.communicate(timeout=WAIT_S)
        missed = re.search(MISSED, err)  # with so little time, on a machine that stands still
        assert process.returncode == (1 if missed else 0), out + err
        assert out.count(REPORT) == 1 and re.search(r"^[1-9]\d* signals: ", out, re.M), out
        # Which of feed and trader the supervisor sees first is chance: the trader ends on the feed's last record.
        ends = {"feed": 0, "trader": 3 if missed else 0, "infer": 0}
        for name, status in ends.items():
            in_order(err, f"{name}: started", f"{name}: exited with status {status}", "directory removed")
        in_order(err, "trader: exited with status", "infer: stopping")
        assert not os.path.exists(bus.directory + "-quick")


def quickstart_plays_a_capture_with_an_odd_name():
    with Bus() as bus:
        path = os.path.join(bus.root, "a 'capture\" ; %{x}")
        made = subprocess.run([os.path.join(BUILD, "producers", "bus-feed"), "--help"], capture_output=True)
        assert made.returncode == 0
        stamp = 1700000000000000000
        with open(path, "w") as file:
            for i in range(2000):
                message = {"stream": "btcusdt@bookTicker", "data": {
                    "u": 1000 + i, "s": "BTCUSDT", "b": f"{50000 + i % 7}.00000000", "B": "1.00000000",
                    "a": f"{50001 + i % 7}.00000000", "A": "2.00000000"}}
                file.write(f"{stamp + i * 1000000} {json.dumps(message, separators=(',', ':'))}\n")
        process = quickstart(bus, "--capture", path, "--speed", "20")
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, out + err
        assert out.count(REPORT) == 1 and out.count("2000 signals: ") == 1, out + err


def quickstart_stops_in_reverse_on_ctrl_c():
    with Bus() as bus:
        process = quickstart(bus, "--seconds", "0", start_new_session=True)
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "members started" in line:
                break
        quick = bus.directory + "-quick"
        until("signals", lambda: counter_of(quick, "trader", "signals"))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=WAIT_S)
        err = "".join(lines) + err
        missed = re.search(MISSED, err)
        assert process.returncode == (1 if missed else 0), out + err
        assert out.count(REPORT) == 1, out
        in_order(err, "stopping: Interrupt", "feed: stopping", "feed: exited with status 0", "infer: stopping",
                 "infer: exited with status 0", "directory removed")
        in_order(err, "stopping: Interrupt", f"trader: exited with status {3 if missed else 0}", "infer: stopping")


def quickstart_says_that_signals_were_missed():
    with Bus() as bus:
        process = quickstart(bus, "--seconds", "0", "--speed", "100", start_new_session=True)
        for line in process.stderr:
            if "members started" in line:
                break
        quick = bus.directory + "-quick"
        until("signals", lambda: counter_of(quick, "trader", "signals"))
        trader = member_of(quick, "trader")["pid"]
        os.kill(trader, signal.SIGSTOP)

        def committed():
            return next(ring["committed_records"] for ring in member_of(quick, "infer")["rings"])
        end = committed() + 3 * 65536
        until("more signals than the ring holds", lambda: committed() > end)
        os.kill(trader, signal.SIGCONT)
        until("the trader has seen it", lambda: counter_of(quick, "trader", "signals_lost"))
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 1, out + err
        assert len(re.findall(MISSED, err)) == 1 and out.count(REPORT) == 1, out + err
        in_order(err, "trader: exited with status 3", "signal-busctl up: 1 of 3 members did not end in order, trader",
                 "quickstart: the trader missed", "directory removed")


def quickstart_fails_when_a_member_does():
    with Bus() as bus:
        path = os.path.join(bus.root, "cut.gz")
        with open(path, "wb") as file:
            file.write(gzip.compress(b"".join(b"1 {}\n" for _ in range(100000)))[:-20])
        process = quickstart(bus, "--capture", path)
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 1, out + err
        assert not os.path.exists(bus.directory + "-quick")
        for arguments in (("--speed", "1 2"), ("--nonsense",), ("--seconds",)):
            process = quickstart(bus, *arguments)
            process.communicate(timeout=WAIT_S)
            assert process.returncode == 2, arguments


TESTS = [verbs_of_systemd_are_refused_with_a_pointer, wrong_usage_is_status_2_and_points_to_help,
         create_and_destroy, no_such_bus, no_permission, foreign_files_are_named_and_left_alone,
         a_chain_is_started_restarted_and_stopped, a_killed_member_is_shown_dead_with_epoch_and_next_step,
         members_started_by_hand, mistakes_in_the_configuration_carry_file_and_line, down_waits_and_gives_up,
         the_example_that_ships_works, info_and_top_are_valid_and_agree,
         top_goes_on_while_members_come_and_go, quickstart_ends_with_its_source,
         quickstart_plays_a_capture_with_an_odd_name, quickstart_stops_in_reverse_on_ctrl_c,
         quickstart_says_that_signals_were_missed, quickstart_fails_when_a_member_does]


if __name__ == "__main__":
    tap.main(TESTS, sys.argv[3:])
