#!/usr/bin/env python3
"""signal-busctl isolate and release, as an operator uses them: on a machine of files, and on this one.

usage: test_isolate.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. The tests named real_* change this machine for some seconds and restore it: they need root, two
CPUs, and SIGNAL_BUS_TEST_ISOLATE=1 in the environment, so that nobody runs them by accident.
"""
import collections
import glob
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
from tap import Skip

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
BUSCTL = os.path.join(BUILD, "tools", "signal-busctl")
PROBE = os.path.join(BUILD, "tests", "gap_probe")
ENVIRONMENT = dict(os.environ, LC_ALL="C.UTF-8")
for variable in ("SUDO_UID", "SUDO_GID", "SIGNAL_BUS_SYSTEM_ROOT"):
    ENVIRONMENT.pop(variable, None)
NOBODY = 65534
NAME = "test"


def busctl(*arguments, status=0, **options):
    environment = {**ENVIRONMENT, **options.pop("environment", {})}
    done = subprocess.run([BUSCTL, *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env=environment, **options)
    wanted = status if isinstance(status, tuple) else (status,)
    assert done.returncode in wanted, \
        f"{arguments}: exit {done.returncode}, expected {status}\n{done.stdout}\n{done.stderr}"
    return done


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


class Machine:
    """A machine of files with two CPUs and without cpusets: what the program needs, as it runs itself."""

    FILES = {
        "sys/devices/system/cpu/online": "0-1\n",
        "proc/sys/kernel/random/boot_id": "boot\n",
        "proc/sys/kernel/osrelease": "6.8.0\n",
        "proc/sys/vm/swappiness": "60\n",
        "proc/irq/default_smp_affinity": "3\n",
        "proc/irq/9/smp_affinity_list": "0-1\n",
        "proc/7/task/7/stat": "7 (server) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 77 0 0\n",
        "proc/7/task/7/status": "Name:\tserver\nCpus_allowed_list:\t0-1\n",
        "dev/cpu_dma_latency": "",
    }

    def __enter__(self):
        self.root = tempfile.mkdtemp(prefix="signalbus-isolate-", dir="/dev/shm")
        os.chmod(self.root, 0o755)
        for path, text in self.FILES.items():
            path = os.path.join(self.root, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(text)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root)

    def busctl(self, *arguments, **options):
        return busctl(*arguments, environment={"SIGNAL_BUS_SYSTEM_ROOT": self.root}, **options)

    def read(self, path):
        return read(os.path.join(self.root, path))

    def snapshot(self):
        paths = [path for path in glob.glob(self.root + "/**", recursive=True)
                 if os.path.isfile(path) and "/run/" not in path]
        return {path: read(path) for path in paths}


def wrong_usage_is_status_2_and_points_to_help():
    for arguments in ([], ["--cpus", "x"], ["--cpus", "1", "--irqs", "away"], ["--cpus", "1", "--name", "../x"],
                      ["--cpus", "1", "--name", "house"], ["--cpus", "1", "ls"], ["--cpus", "1", "--user", "root"],
                      ["--cpus", "1", "--siblings", "no"], ["--cpus", "1", "--", "/no/such/program"],
                      ["--cpus", "1", "--user", "nobody-of-that-name", "--", "true"]):
        done = busctl("isolate", "--dry-run", *arguments, status=2)
        assert "see: signal-busctl isolate --help" in done.stderr, done.stderr
    busctl("isolate", "--dry-run", "--cpus", "1", "--nonsense", status=2)
    assert "CPU 0" in busctl("isolate", "--dry-run", "--cpus", "0", status=2).stderr
    for arguments in (["x"], ["--name", "a/b"]):
        assert "--help" in busctl("release", *arguments, status=2).stderr


def files_are_changed_and_restored_byte_for_byte():
    with Machine() as machine:
        before = machine.snapshot()
        report = json.loads(machine.busctl("isolate", "--cpus", 1, "--sysctl", "--json", status=3).stdout)
        assert report["mode"] == "thread affinity" and report["cpus"] == "1" and report["housekeeping"] == "0"
        assert {change["state"] for change in report["changes"]} == {"done"}, report
        assert {"threads", "irqs", "settings"} == {change["stage"] for change in report["changes"]}
        assert any("no cpuset controller" in remark["text"] for remark in report["remarks"])
        assert report["kernel_command_line"].startswith("nohz_full=1 rcu_nocbs=1 ")
        assert machine.read("proc/sys/vm/swappiness") == "1\n"
        assert "list:\t0\n" in machine.read("proc/7/task/7/status")
        journal = os.path.join(machine.root, "run/signal-bus/isolate-bus.journal")
        assert os.stat(journal).st_mode & 0o777 == 0o600
        assert [json.loads(line) for line in read(journal).splitlines()][-1] == {"complete": True}
        report = json.loads(machine.busctl("release", "--dry-run", "--json").stdout)
        assert report["dry_run"] and len(report["changes"]) >= 3
        machine.busctl("release")
        assert machine.snapshot() == before
        assert not os.path.exists(journal)
        assert "nothing to release" in machine.busctl("release").stdout


def a_dry_run_makes_nothing():
    with Machine() as machine:
        before = machine.snapshot()
        text = machine.busctl("isolate", "--cpus", 1, "--dry-run").stdout
        assert "irq/9/smp_affinity_list: '0-1' -> '0'" in text and "nothing is changed" in text, text
        assert machine.snapshot() == before and not os.path.exists(os.path.join(machine.root, "run"))


def a_command_runs_after_it_with_its_own_output():
    with Machine() as machine:
        done = machine.busctl("isolate", "--cpus", 1, "--", "sh", "-c", "echo mine; exit 7", status=7)
        assert done.stdout == "mine\n" and "isolate 'bus'" in done.stderr
        # Held at 0 us by the program itself, which got the descriptor.
        done = machine.busctl("isolate", "--cpus", 1, "--cpu-dma-latency", "--", "sh", "-c",
                              "readlink /proc/self/fd/* 2>&1; ls -l /proc/$$/fd", status=0)
        assert "cpu_dma_latency" in done.stdout, done.stdout
        with open(os.path.join(machine.root, "dev/cpu_dma_latency"), "rb") as file:
            assert file.read() == bytes(4)


def a_command_gives_root_away():
    if os.geteuid() != 0:
        raise Skip("needs root")
    for arguments, environment in ((["--user", "nobody"], {}),
                                   ([], {"SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY)})):
        with Machine() as machine:
            done = busctl("isolate", "--cpus", 1, *arguments, "--", "sh", "-c", "id -u; id -G; echo $USER",
                          environment={"SIGNAL_BUS_SYSTEM_ROOT": machine.root, **environment})
            assert done.stdout.split() == [str(NOBODY), str(NOBODY), "nobody"], done.stdout


def others_than_root_get_the_dry_run():
    if os.geteuid() != 0:
        raise Skip("needs root, to become somebody else")
    online = read("/sys/devices/system/cpu/online").strip()
    if online == "0":
        raise Skip("needs two CPUs")

    def become():
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:  # the build may be where nobody may look
        os.chmod(directory, 0o755)
        copy = shutil.copy(BUSCTL, directory)
        for arguments, status in ((["isolate", "--cpus", "1"], 4), (["release"], 4),
                                  (["isolate", "--cpus", "1", "--dry-run"], 0)):
            done = subprocess.run([copy, *arguments], capture_output=True, text=True, preexec_fn=become,
                                  env=ENVIRONMENT, timeout=120)
            assert done.returncode == status, (arguments, done)
            assert status == 0 or "sudo" in done.stderr, done.stderr


# ---- this machine ----

def need_this_machine():
    if os.environ.get("SIGNAL_BUS_TEST_ISOLATE") != "1":
        raise Skip("changes this machine for some seconds: set SIGNAL_BUS_TEST_ISOLATE=1 to allow it")
    if os.geteuid() != 0:
        raise Skip("needs root")
    if os.sched_getaffinity(0) != set(range(os.cpu_count())) or os.cpu_count() < 2:
        raise Skip("needs two CPUs, and all of them")
    done = busctl("isolate", "--name", NAME, "--cpus", cpu(), "--dry-run", "--json", status=(0, 2, 5))
    report = json.loads(done.stdout)
    if done.returncode or report["mode"] == "thread affinity":
        raise Skip(f"this machine does not allow it: {done.stderr.strip() or 'no cpuset controller'}")


def cpu():
    return os.cpu_count() - 1


ALL = ("--wq", "--sysctl", "--siblings", "ignore")


def threads():
    """pid, tid, start and name of every thread -> the CPUs it may run on."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/task/[0-9]*"):
        try:
            stat, status = read(path + "/stat"), read(path + "/status")
        except (FileNotFoundError, ProcessLookupError):
            continue
        name, rest = re.match(r"\d+ \((.*)\) (.*)", stat, re.S).groups()
        # Interrupt threads follow their interrupt, when it fires next; the dead run nowhere.
        if name.startswith("irq/") or rest[0] in "ZX":
            continue
        found[path.split("/")[2], path.split("/")[4], rest.split()[19], name] = \
            re.search(r"Cpus_allowed_list:\t(.*)", status).group(1)
    return found


def values(paths):
    """Every value that the dry run names, and everything else of its kind."""
    paths = set(paths) | set(glob.glob("/proc/irq/*/smp_affinity_list")) | set(
        glob.glob("/sys/fs/cgroup/cpuset/cpuset.*")) | {"/proc/irq/default_smp_affinity"}
    found = {}
    for path in sorted(paths):
        if not path.endswith("/status") and os.path.isfile(path) and not re.search(r"effective|pressure", path):
            try:
                found[path] = read(path)
            except OSError as error:
                found[path] = str(error)
    found["cgroups"] = sorted(glob.glob("/sys/fs/cgroup/*signal-bus*") + glob.glob("/sys/fs/cgroup/*/signal-bus*"))
    return found


class Restored:
    """Releases in the end, and compares every value and the affinity of every thread that is still there."""

    def __enter__(self):
        done = busctl("isolate", "--name", NAME, "--cpus", cpu(), *ALL, "--dry-run", "--json", status=(0, 5))
        if done.returncode:
            raise Skip(f"somebody else took the CPU meanwhile: {done.stderr.strip()}")
        report = json.loads(done.stdout)
        self.paths = [change["path"] for change in report["changes"]]
        self.values, self.threads = values(self.paths), threads()
        return self

    def compare(self):
        now, now_threads = values(self.paths), threads()
        for path, value in self.values.items():
            assert now.get(path) == value, f"{path}: was {value!r}, is {now.get(path)!r}"
        changed = {thread: (cpus, now_threads[thread]) for thread, cpus in self.threads.items()
                   if thread in now_threads and now_threads[thread] != cpus}
        # Unbound workers are of the pool that the kernel puts them into, not of ours.
        changed = {thread: cpus for thread, cpus in changed.items() if not thread[3].startswith("kworker/u")}
        assert not changed, changed
        return len(self.values), len(set(self.threads) & set(now_threads))

    def __exit__(self, *_):
        done = subprocess.run([BUSCTL, "release", "--name", NAME], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 0, done.stdout + done.stderr
        print("# {} values and the affinity of {} threads are as they were".format(*self.compare()))


def others_on_the_cpu():
    """User threads that may run on the isolated CPU and are not in the isolation."""
    found = []
    for (pid, tid, _, name), cpus in threads().items():
        first_last = [part.split("-") for part in cpus.split(",") if part]
        if not any(int(part[0]) <= cpu() <= int(part[-1]) for part in first_last):
            continue
        try:
            flags = int(read(f"/proc/{pid}/task/{tid}/stat").rsplit(")", 1)[1].split()[6])
            cgroup = read(f"/proc/{pid}/cgroup")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if not flags & 0x200000 and f"signal-bus-{NAME}" not in cgroup:
            found.append((pid, tid, name, cpus))
    return found


def real_round_trip_restores_every_value():
    need_this_machine()
    with Restored() as machine:
        report = json.loads(busctl("isolate", "--name", NAME, "--cpus", cpu(), *ALL, "--json", status=(0, 3)).stdout)
        print("#", report["mode"], collections.Counter(change["state"] for change in report["changes"]))
        for remark in report["remarks"]:
            print("#", remark["level"], remark["text"])
        assert not others_on_the_cpu(), others_on_the_cpu()
        assert set(change["path"] for change in report["changes"]) <= set(machine.paths) | set(
            change["path"] for change in report["changes"] if change["kind"] == "affinity"), "not in the dry run"
        again = json.loads(busctl("isolate", "--name", NAME, "--cpus", cpu(), *ALL, "--json", status=(0, 3)).stdout)
        redone = [change for change in again["changes"]
                  if change["kind"] != "affinity" and change["state"] not in ("already", "failed")]
        assert not redone, redone


def real_kill_at_any_moment_then_release():
    need_this_machine()
    with Restored():
        began = time.monotonic()
        busctl("isolate", "--name", NAME, "--cpus", cpu(), *ALL, status=(0, 3))
        whole_ms = (time.monotonic() - began) * 1000
    for part in range(1, 11):
        delay_ms = whole_ms * part / 10
        with Restored():
            process = subprocess.Popen([BUSCTL, "isolate", "--name", NAME, "--cpus", str(cpu()), *ALL],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
            time.sleep(delay_ms / 1000)
            process.send_signal(signal.SIGKILL)
            status = process.wait()
            path = f"/run/signal-bus/isolate-{NAME}.journal"
            changes = read(path).count("kind") if os.path.exists(path) else 0
            print(f"# killed after {delay_ms:.0f} ms, {changes} changes in the journal: exit {status}")


def real_gaps_confined_and_unconfined():
    need_this_machine()
    seconds = "3"
    load = [subprocess.Popen([PROBE, "60"], stdout=subprocess.DEVNULL) for _ in range(2 * os.cpu_count())]
    try:
        with Restored():
            unconfined = json.loads(subprocess.run([PROBE, seconds, str(cpu())], capture_output=True, text=True,
                                                   check=True).stdout)
            process = subprocess.Popen([BUSCTL, "isolate", "--name", NAME, "--cpus", str(cpu()), *ALL,
                                        "--cpu-dma-latency", "--", PROBE, seconds], stdout=subprocess.PIPE,
                                       stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT)
            while process.poll() is None and os.readlink(f"/proc/{process.pid}/exe") != PROBE:
                time.sleep(0.01)
            assert process.returncode is None, f"isolate ended with {process.returncode}"
            assert "/dev/cpu_dma_latency" in [os.readlink(path) for path in glob.glob(f"/proc/{process.pid}/fd/*")]
            others = others_on_the_cpu()
            refused = busctl("release", "--name", NAME, status=5).stderr
            assert f"gap_probe, pid {process.pid}" in refused, refused
            confined = json.loads(process.communicate()[0])
            assert process.returncode == 0 and not others, others
    finally:
        for process in load:
            process.kill()
            process.wait()
    assert confined["cpus"] == 1 and confined["cpu"] == cpu(), confined
    ratio = confined["gaps"] / max(unconfined["gaps"], 1)
    verdict = "at most a fifth" if ratio <= 0.2 else "MORE THAN A FIFTH: see what else ran (steal time?)"
    print(f"# gaps >= 1 ms in {seconds} s under load: unconfined {unconfined['gaps']}, confined {confined['gaps']}, "
          f"ratio {ratio:.3f}, {verdict}; longest {unconfined['gap_ns_max'] / 1e6:.1f} and "
          f"{confined['gap_ns_max'] / 1e6:.1f} ms")


TESTS = [wrong_usage_is_status_2_and_points_to_help, files_are_changed_and_restored_byte_for_byte,
         a_dry_run_makes_nothing, a_command_runs_after_it_with_its_own_output, a_command_gives_root_away,
         others_than_root_get_the_dry_run, real_round_trip_restores_every_value,
         real_kill_at_any_moment_then_release, real_gaps_confined_and_unconfined]


if __name__ == "__main__":
    tap.main(TESTS, sys.argv[3:])
