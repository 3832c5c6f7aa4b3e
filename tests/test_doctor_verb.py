#!/usr/bin/env python3
"""signal-busctl doctor: every check in both outcomes, and every remedy run as it is printed.

usage: test_doctor_verb.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. The machine is made of files; its /proc and /sys are put over the real ones, in a mount namespace of
its own, while a remedy runs under sh. What a remedy needs from the system (systemctl, apt-get, ..) is played by
scripts that do to the files what the real ones do to a machine.
"""
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree

import tap
from tap import Skip

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
BUSCTL = os.path.join(BUILD, "tools", "signal-busctl")
CPU = "/sys/devices/system/cpu"
NODE = "/sys/devices/system/node"
THP = "/sys/kernel/mm/transparent_hugepage"
CLOCK = "/sys/devices/system/clocksource/clocksource0"
PAGES = "hugepages/hugepages-2048kB"
GROUP = "/sys/fs/cgroup/bus"
GPU = "0000:65:00.0"
UID = 12345  # no system user
ALLOWED_CPU = max(os.sched_getaffinity(0))  # once: others may change it meanwhile
MEMLOCK = "Limit                     Soft Limit           Hard Limit           Units\n" \
          "Max locked memory         {:<20} {:<20} bytes"


def good_files():
    """CPUs 0-7, of which 2 and 3 are the members', all as it should be."""
    files = {
        "/proc/sys/kernel/osrelease": "6.8.0-45-generic",
        "/proc/version": "Linux version 6.8.0-45-generic (buildd@x) (x86_64-linux-gnu-gcc (Ubuntu 13.2.0))",
        "/proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu constant_tsc nonstop_tsc hypervisor\n",
        "/proc/cmdline": "root=/dev/vda nohz_full=2-3 isolcpus=managed_irq,2-3",
        "/proc/stat": "cpu  9 0 9 900 0 0 0 0 0 0\n" + "".join(f"cpu{n} 9 0 9 900 0 0 0 0 0 0\n" for n in range(8)),
        "/proc/swaps": "Filename\tType\tSize\tUsed\tPriority",
        "/proc/self/limits": MEMLOCK.format("unlimited", "unlimited"),
        "/proc/irq/default_smp_affinity": "f3",
        "/proc/sys/kernel/sched_rt_runtime_us": "-1",
        "/proc/sys/kernel/numa_balancing": "0",
        "/proc/sys/kernel/io_uring_disabled": "0",
        "/proc/sys/kernel/random/boot_id": "b0",
        "/proc/sys/vm/stat_interval": "120",
        "/proc/sys/vm/zone_reclaim_mode": "0",
        "/proc/sys/vm/swappiness": "60",
        "/proc/1/comm": "systemd",
        "/proc/77/comm": "systemd-logind",
        "/proc/78/comm": "nvidia-persiste",
        "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release",
        f"/proc/driver/nvidia/gpus/{GPU}/information": "Model: x",
        f"/sys/bus/pci/devices/{GPU}/numa_node": "0",
        f"{CLOCK}/current_clocksource": "tsc",
        f"{CLOCK}/available_clocksource": "tsc hpet acpi_pm",
        f"{CPU}/online": "0-7",
        f"{CPU}/isolated": "",
        f"{CPU}/nohz_full": "2-3",
        "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu",
        f"{GROUP}/cpuset.cpus": "2-3",
        f"{GROUP}/cpuset.cpus.effective": "2-3",
        f"{GROUP}/cpuset.cpus.partition": "isolated",
        "/sys/fs/cgroup/other/cpuset.cpus.partition": "member",
        "/sys/devices/virtual/workqueue/cpumask": "f3",
        f"{THP}/enabled": "always [madvise] never",
        f"{THP}/defrag": "always defer [madvise] never",
        f"{THP}/shmem_enabled": "always within_size [advise] never deny force",
        "/sys/kernel/mm/ksm/run": "0",
        "/dev/none": "", "/run/none": "", "/etc/security/limits.d/none": "",
        "/etc/systemd/logind.conf": "[Login]\n#RemoveIPC=yes\nRemoveIPC=no",
    }
    for node, cpus in ((0, "0-3"), (1, "4-7")):
        files[f"{NODE}/node{node}/cpulist"] = cpus
        for name, value in (("nr_hugepages", "32"), ("free_hugepages", "32"), ("surplus_hugepages", "0")):
            files[f"{NODE}/node{node}/{PAGES}/{name}"] = value
    for cpu in range(8):
        files[f"{CPU}/cpu{cpu}/cpufreq/scaling_governor"] = "performance"
        files[f"{CPU}/cpu{cpu}/topology/thread_siblings_list"] = "2-3" if cpu in (2, 3) else str(cpu)
        if cpu:
            files[f"{CPU}/cpu{cpu}/online"] = "1"
        for state, latency, disable in ((0, 0, 0), (1, 2, 0), (2, 170, 1)):
            files[f"{CPU}/cpu{cpu}/cpuidle/state{state}/latency"] = str(latency)
            files[f"{CPU}/cpu{cpu}/cpuidle/state{state}/disable"] = str(disable)
    for irq, cpus in ((24, "0-1"), (31, "4-7"), (32, "0-7")):
        files[f"/proc/irq/{irq}/smp_affinity_list"] = cpus
        files[f"/proc/irq/{irq}/effective_affinity_list"] = "5" if irq == 32 else "0"
    return files


# Each plays its program on the files of $ROOT.
STAND_INS = {
    "systemctl": """
case "$*" in
'disable --now irqbalance') rm -r "$ROOT/proc/90" ;;
'enable --now nvidia-persistenced') mkdir "$ROOT/proc/91"; echo nvidia-persiste > "$ROOT/proc/91/comm" ;;
'restart systemd-logind') ;;
*) exit 1 ;;
esac""",
    "swapoff": """
[ "$*" = -a ] || exit 1
echo 'Filename Type Size Used Priority' > "$ROOT/proc/swaps\"""",
    "apt-get": """
case "$*" in
update) ;;
'install -y linux-image-generic' | 'install -y linux-image-amd64' | 'install -y linux-image-arm64')
  echo 6.8.0-99-generic > "$ROOT/proc/sys/kernel/osrelease" ;; # and the reboot
*) exit 1 ;;
esac""",
    "signal-busctl": f"""
group="$ROOT{GROUP}"
case "$1" in
release) rm -rf "$group" ;;
isolate)
  [ "$2" = --cpus ] && [ $# -eq 3 ] || exit 2
  mkdir -p "$group"
  echo "$3" > "$group/cpuset.cpus"
  echo "$3" > "$group/cpuset.cpus.effective"
  echo isolated > "$group/cpuset.cpus.partition" ;;
*)
  {BUSCTL} "$@" || exit
  for node in "$ROOT"{NODE}/node*/{PAGES}; do cp "$node/nr_hugepages" "$node/free_hugepages"; done ;;
esac""",
}


class Machine:
    def __init__(self, changes=None):
        self.root = tempfile.mkdtemp(prefix="signalbus-doctor-", dir="/dev/shm")
        os.chmod(self.root, 0o755)
        self.bus = self.root + "/bus"
        os.mkdir(self.bus)
        files = good_files()
        for path, text in (changes or {}).items():
            if text is None:
                files = {name: files[name] for name in files if not f"{name}/".startswith(f"{path}/")}
            else:
                files[path] = text
        for path, text in files.items():
            self.put(path, text)
        for name, text in STAND_INS.items():
            self.put(f"/bin/{name}", f"#!/bin/sh\n{text}")
            os.chmod(f"{self.root}/bin/{name}", 0o755)
        self.environment = dict(os.environ, LC_ALL="C.UTF-8", ROOT=self.root, SIGNAL_BUS_SYSTEM_ROOT=self.root,
                                PATH=f"{self.root}/bin:{os.environ['PATH']}")

    def put(self, path, text):
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        with open(self.root + path, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode() + b"\n")

    def doctor(self, *arguments, cpus="2-3"):
        arguments = [*(("--cpus", cpus) if cpus else ()), "--bus", self.bus, *arguments]
        return subprocess.run([BUSCTL, "doctor", *arguments], capture_output=True, text=True, timeout=60,
                              env=self.environment)

    def checks(self, cpus="2-3"):
        done = self.doctor("--json", cpus=cpus)
        assert not done.stderr, done.stderr
        found = json.loads(done.stdout)
        checks = {check["key"]: check for check in found["checks"]}
        assert len(checks) == len(found["checks"]) == sum(found["counts"].values()), found
        status = 1 if found["counts"]["fail"] else 3 if found["counts"]["warn"] else 0
        assert done.returncode == status, (done.returncode, found["counts"])
        return checks

    def remedy(self, text):
        """Runs it as it is printed, with this machine's files where it looks for the kernel's."""
        mounts = "".join(f"mount --bind {self.root}{path} {path}; "
                         for path in ("/etc/systemd", "/etc/security", "/sys", "/proc"))
        # A shell's own limits cannot all be raised here: its ulimit is played too.
        play = """ulimit() { [ "$1 $2" = "-S -l" ] && printf 'Max locked memory %s %s bytes' \\
          "$([ "$3" = unlimited ] && echo "$3" || echo $(($3 * 1024)))" x > "$ROOT/proc/self/limits"; }; """
        done = subprocess.run(["unshare", "-m", "sh", "-ec", mounts + 'exec sh -c "$0"', play + text],
                              capture_output=True, text=True, timeout=60, env=self.environment)
        assert done.returncode == 0, f"{text}\nexit {done.returncode}: {done.stdout}{done.stderr}"
        assert "not found" not in done.stderr and "rror" not in done.stderr, done.stderr

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root)


def own_bus(machine):
    os.chown(machine.bus, UID, -1)


# key, what is wrong, its status, the kind of the remedy, and what else is done to the machine. The remedies of
# kind command, shell and reboot are run; after those of kind boot the kernel's answer is put in place.
WRONG = [
    ("kernel_version", {"/proc/sys/kernel/osrelease": "6.12.81-amd64"}, "fail", "reboot"),
    ("kernel_version", {"/proc/sys/kernel/osrelease": "6.9.0"}, "fail", "reboot"),
    ("kernel_version", {"/proc/sys/kernel/osrelease": "6.17.13-1-x", "/proc/version": "Debian",
                        f"{GROUP}/cpuset.cpus.partition": "member"}, "warn", "reboot"),
    ("kernel_version", {"/proc/sys/kernel/osrelease": "6.19.12", "/proc/version": "Fedora"}, "fail", "elsewhere"),
    ("kernel_version", {"/proc/sys/kernel/osrelease": "5.15.0-100-generic"}, "warn", "elsewhere"),
    ("clock_source", {f"{CLOCK}/current_clocksource": "hpet"}, "fail", "command"),
    ("clock_source", {f"{CLOCK}/current_clocksource": "kvm-clock"}, "warn", "command"),
    ("clock_source", {f"{CLOCK}/current_clocksource": "acpi_pm", f"{CLOCK}/available_clocksource": "acpi_pm"},
     "fail", "boot"),
    ("invariant_tsc", {"/proc/cpuinfo": "processor: 0\nflags\t: constant_tsc nonstop_tsc_s3 hypervisor"}, "warn",
     "elsewhere"),
    ("invariant_tsc", {"/proc/cpuinfo": "processor: 0\nflags\t: fpu\nbugs\t: constant_tsc nonstop_tsc"}, "warn",
     "elsewhere"),
    ("partition", {f"{GROUP}/cpuset.cpus.partition": "isolated invalid (Cpu list in cpuset.cpus not exclusive)"},
     "fail", "command"),
    ("partition", {f"{GROUP}/cpuset.cpus.partition": "member"}, "warn", "command"),
    ("partition", {f"{GROUP}/cpuset.cpus.effective": "2"}, "warn", "command"),
    ("smt_siblings", {f"{CPU}/cpu2/topology/thread_siblings_list": "2,6",
                      f"{CPU}/cpu3/topology/thread_siblings_list": "3,7"}, "warn", "command"),
    ("smt_siblings", {f"{CPU}/cpu2/topology/thread_siblings_list": "0,2"}, "warn", "elsewhere"),
    ("workqueues", {"/sys/devices/virtual/workqueue/cpumask": "ff"}, "warn", "command"),
    ("nohz_full", {f"{CPU}/nohz_full": "(null)"}, "warn", "boot"),
    ("nohz_full", {f"{CPU}/nohz_full": "3"}, "warn", "boot"),
    ("nohz_full", {f"{CPU}/nohz_full": None}, "warn", "elsewhere"),
    ("rcu_nocbs", {f"{CPU}/nohz_full": "", "/proc/cmdline": "quiet rcu_nocbs=3"}, "warn", "boot"),
    ("managed_irqs", {"/proc/cmdline": "quiet"}, "warn", "boot"),
    ("managed_irqs", {"/proc/cmdline": "isolcpus=2-3"}, "warn", "boot"),
    ("irqs", {"/proc/irq/31/smp_affinity_list": "2-7", "/proc/irq/31/effective_affinity_list": "3",
              "/proc/irq/32/effective_affinity_list": ""}, "warn", "command"),
    ("irq_default", {"/proc/irq/default_smp_affinity": "ff"}, "warn", "command"),
    ("irqbalance", {"/proc/90/comm": "irqbalance"}, "warn", "command"),
    ("rt_throttling", {"/proc/sys/kernel/sched_rt_runtime_us": "950000"}, "warn", "command"),
    ("numa_balancing", {"/proc/sys/kernel/numa_balancing": "1"}, "warn", "command"),
    ("vm_stat_interval", {"/proc/sys/vm/stat_interval": "1"}, "warn", "command"),
    ("zone_reclaim", {"/proc/sys/vm/zone_reclaim_mode": "1"}, "warn", "command"),
    ("ksm", {"/sys/kernel/mm/ksm/run": "1"}, "warn", "command"),
    ("governor", {f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave"}, "warn", "command"),
    ("c_states", {f"{CPU}/cpu3/cpuidle/state2/disable": "0"}, "warn", "command"),
    ("steal_time", {"/proc/stat": "cpu 1 0 0 1 0 0 0 0 0\ncpu2 1 0 9 980 0 0 0 10 0 0\n"}, "warn", "elsewhere"),
    ("thp", {f"{THP}/enabled": "[always] madvise never"}, "warn", "command"),
    ("thp_defrag", {f"{THP}/defrag": "[always] defer madvise never"}, "warn", "command"),
    ("thp_shmem", {f"{THP}/shmem_enabled": "always advise never [deny] force"}, "warn", "command"),
    ("swap", {"/proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 8 0 -2"}, "warn", "command"),
    ("swappiness", {"/proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 8 0 -2"}, "warn",
     "command"),
    ("huge_pages", {f"{NODE}/node0/{PAGES}/nr_hugepages": "0", f"{NODE}/node0/{PAGES}/free_hugepages": "0"}, "warn",
     "command"),
    ("memlock", {"/proc/self/limits": MEMLOCK.format(8 << 20, 16 << 20)}, "warn", "command"),
    ("memlock", {"/proc/self/limits": MEMLOCK.format(8 << 20, "unlimited")}, "warn", "shell"),
    ("memlock", {"/proc/self/limits": MEMLOCK.format(0, 64 << 20)}, "warn", "shell"),
    ("remove_ipc", {"/etc/systemd/logind.conf": "[Login]"}, "fail", "command", own_bus),
    ("remove_ipc", {"/run/systemd/logind.conf.d/9.conf": "[Login]\nRemoveIPC = yes"}, "fail", "command", own_bus),
    ("io_uring", {"/proc/sys/kernel/io_uring_disabled": "2"}, "warn", "command"),
    ("io_uring", {"/proc/sys/kernel/io_uring_disabled": "1"}, "warn", "command"),
    ("gpu_driver", {f"/proc/driver/nvidia/gpus/{GPU}": None}, "fail",
     "elsewhere"),
    ("gpu_persistence", {"/proc/78/comm": "bash"}, "warn", "command"),
    ("gpu_numa", {f"/sys/bus/pci/devices/{GPU}/numa_node": "1"}, "warn", "command"),
    ("gpu_numa", {f"/sys/bus/pci/devices/{GPU}/numa_node": "1", f"{GROUP}/cpuset.cpus.partition": "member"}, "warn",
     "command"),
]
# Tested on this machine alone, below.
REAL = {"bus_backing"}


def after_boot(machine, words):
    """What the kernel makes of the words on its command line."""
    for word in words.split():
        assert re.fullmatch(r"(nohz_full|rcu_nocbs)=[0-9,-]+|isolcpus=managed_irq,[0-9,-]+|clocksource=tsc|"
                            r"tsc=reliable", word), word
        key, value = word.split("=")
        if key == "nohz_full":
            machine.put(f"{CPU}/nohz_full", value)
        elif key == "clocksource":
            machine.put(f"{CLOCK}/current_clocksource", value)
    machine.put("/proc/cmdline", f"quiet {words}")


def log_in(machine):
    """What pam_limits makes of the file, for root and others."""
    path = machine.root + "/etc/security/limits.d/60-signal-bus.conf"
    if os.path.exists(path):
        with open(path) as file:
            assert file.read() == "* - memlock unlimited\nroot - memlock unlimited\n"
        machine.put("/proc/self/limits", MEMLOCK.format("unlimited", "unlimited"))


def a_good_machine_passes():
    with Machine() as machine:
        own_bus(machine)
        checks = machine.checks()
        bad = {key: check["found"] for key, check in checks.items() if check["status"] != "pass"}
        assert not bad, bad
        assert all(check["remedy"] == "" and check["remedy_kind"] == "none" for check in checks.values())
        assert all(len(check["why"]) > 20 and check["found"] for check in checks.values()), checks
        assert machine.doctor().returncode == 0
        assert set(checks) == {case[0] for case in WRONG} | REAL, set(checks) ^ {case[0] for case in WRONG}


def every_check_is_in_the_manual():
    with open(os.path.join(SOURCE, "tools", "man", "signal-busctl-doctor.1")) as file:
        section = re.search(r"^\.SH CHECKS$(.*?)^\.SH", file.read(), re.M | re.S).group(1)
    listed = re.findall(r"^([a-z_0-9]+(?:, [a-z_0-9]+)*)(?:  |$)", section, re.M)
    with Machine() as machine:
        assert {key for keys in listed for key in keys.split(", ")} == set(machine.checks()), listed
        with open(os.path.join(SOURCE, "README.md")) as file:
            assert f"{len(machine.checks())} checks, each with" in file.read()


def wrong(case):
    key, changes, status, kind, *also = case

    def test():
        with Machine(changes) as machine:
            for action in also:
                action(machine)
            check = machine.checks()[key]
            assert (check["status"], check["remedy_kind"]) == (status, kind), check
            assert (check["remedy"] == "") == (kind == "none"), check
            shown = machine.doctor().stdout
            assert f"{status.upper()}  {key} " in shown and check["why"] in shown and check["remedy"] in shown, shown
            if kind == "elsewhere":
                return
            if kind == "boot":
                after_boot(machine, check["remedy"])
            else:
                if os.geteuid() != 0 or not shutil.which("unshare"):
                    raise Skip("running the remedy needs root and unshare (util-linux)")
                machine.remedy(check["remedy"])
                log_in(machine)
            now = machine.checks(cpus="6-7" if key == "gpu_numa" else "2-3")[key]
            assert now["status"] == "pass", f"after '{check['remedy']}': {now}"
    test.__name__ = f"{key}_{status}_{kind}_{WRONG.index(case)}"
    return test


def what_is_not_there_is_skipped():
    gone = dict.fromkeys(("/proc/driver", "/sys/kernel/mm", "/proc/sys/kernel/numa_balancing", "/proc/irq",
                          CLOCK, "/proc/stat", "/proc/cpuinfo", "/sys/devices/virtual",
                          *(f"{CPU}/cpu{cpu}/cpufreq" for cpu in range(8))))
    with Machine(gone) as machine:
        checks = machine.checks()
        for key in ("gpu_driver", "gpu_numa", "gpu_persistence", "thp", "ksm", "numa_balancing", "irqs", "clock_source",
                    "steal_time", "invariant_tsc", "workqueues", "governor"):
            assert checks[key]["status"] == "skip" and checks[key]["found"], checks[key]
        assert checks["gpu_driver"]["found"] == "no NVIDIA driver"


def without_cpus_it_asks_for_them():
    with Machine({GROUP: None}) as machine:
        checks = machine.checks(cpus=None)
        assert "--cpus" in checks["nohz_full"]["found"] and checks["nohz_full"]["status"] == "skip"
        assert checks["partition"]["remedy"] == "signal-busctl isolate --cpus 7", checks["partition"]
    with Machine({f"{CPU}/online": "0", GROUP: None}) as machine:
        assert machine.checks(cpus=None)["partition"]["status"] == "skip"


def the_isolated_cpus_are_the_members():
    with Machine() as machine:
        assert json.loads(machine.doctor("--json", cpus=None).stdout)["cpus"] == "2-3"
    with Machine({GROUP: None, f"{CPU}/isolated": "5"}) as machine:
        assert json.loads(machine.doctor("--json", cpus=None).stdout)["cpus"] == "5"
    v1 = {"/sys/fs/cgroup/cgroup.controllers": None, GROUP: None,
          "/sys/fs/cgroup/cpuset/cpuset.sched_load_balance": "0",
          "/sys/fs/cgroup/cpuset/bus/cpuset.cpu_exclusive": "1", "/sys/fs/cgroup/cpuset/bus/cpuset.cpus": "4"}
    with Machine(v1) as machine:
        assert json.loads(machine.doctor("--json", cpus=None).stdout)["cpus"] == "4"


def wake_up_latency_that_is_held_counts():
    with Machine({f"{CPU}/cpu3/cpuidle/state2/disable": "0", "/dev/cpu_dma_latency": struct.pack("i", 0)}) as machine:
        assert machine.checks()["c_states"]["status"] == "pass"


def versions_are_read_as_they_come():
    for version, status in (("6.12.82", "pass"), ("6.13.1", "fail"), ("6.18.22-fc", "fail"), ("6.18.23", "pass"),
                            ("6.19.13", "pass"), ("7.0.0", "pass"), ("6.1.0-18-amd64", "pass"), ("6.8", "pass"),
                            ("6.10-rc1", "fail"), ("x", "skip"), ("", "skip")):
        with Machine({"/proc/sys/kernel/osrelease": version}) as machine:
            check = machine.checks()["kernel_version"]
            assert check["status"] == status, (version, check)


def hostile_files_reach_neither_terminal_nor_shell():
    evil = "$(touch /x) `id` \x1b[31m'; rm -rf /"
    good = good_files()
    for path in good:
        if not path.startswith("/etc") and "/online" not in path:
            with Machine({path: evil}) as machine:
                for check in machine.checks().values():
                    assert "touch" not in check["remedy"] and "\x1b" not in check["found"], (path, check)
    with Machine({path: "9" * 100000 for path in good if not path.endswith("/online")}) as machine:
        machine.checks()


def wrong_usage_is_refused():
    with Machine() as machine:
        for cpus in ("0-7", "9", "x", "", "2-", "3-2"):
            done = machine.doctor(cpus=None) if cpus is None else \
                subprocess.run([BUSCTL, "doctor", "--cpus", cpus], capture_output=True, text=True,
                               env=machine.environment)
            assert done.returncode == 2 and "--cpus" in done.stderr, (cpus, done)
        assert machine.doctor("more").returncode == 2


def memlock_on_this_machine():
    """The shell's real limit, where its hard one leaves room."""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if hard != resource.RLIM_INFINITY and hard < 64 << 20:
        raise Skip(f"the hard limit of this session is {hard} bytes")
    show = f"{BUSCTL} doctor --json"
    remedy = f"ulimit -S -l {'unlimited' if hard == resource.RLIM_INFINITY else hard // 1024}"
    for script, status, kind, text in ((f"ulimit -S -l 64; {show}", "warn", "shell", remedy),
                                       (f"ulimit -S -l 64; {remedy}; {show}", "pass", "none", "")):
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
        check = next(check for check in json.loads(done.stdout)["checks"] if check["key"] == "memlock")
        assert (check["status"], check["remedy_kind"], check["remedy"]) == (status, kind, text), check


def this_machine_is_examined():
    done = subprocess.run([BUSCTL, "doctor", "--json"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1, 3) and json.loads(done.stdout)["checks"], done
    if os.geteuid() == 0:
        done = subprocess.run([BUSCTL, "doctor", "--json"], capture_output=True, text=True, timeout=60, user=65534,
                              group=65534, extra_groups=[])
        assert done.returncode in (0, 1, 3) and json.loads(done.stdout)["checks"], done


def measures_the_gaps_of_a_core():
    with tempfile.TemporaryDirectory() as directory:
        svg = directory + "/gaps.svg"
        command = [BUSCTL, "doctor", "--measure", "1", "--cpu", str(ALLOWED_CPU)]
        done = subprocess.run([*command, "--json", "--svg", svg], capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1, 3) and not done.stderr, done
        found = json.loads(done.stdout)
        measure = found["measure"]
        assert measure["cpu"] == ALLOWED_CPU and measure["asked_seconds"] == 1, measure
        assert measure["elapsed_ns"] >= 10**9 and measure["threshold_ns"] == 1000, measure
        assert sum(bucket["count"] for bucket in measure["buckets"]) == measure["readings"] > 1000, measure
        assert all(bucket["count"] and bucket["ns_min"] < bucket["ns_max"] for bucket in measure["buckets"])
        # The threshold lies in the bucket from 512 ns on.
        long, maybe = (sum(bucket["count"] for bucket in measure["buckets"] if bucket["ns_min"] >= least)
                       for least in (1024, 512))
        assert long <= measure["gaps"] <= maybe, measure
        worst = [gap["ns"] for gap in measure["worst"]]
        assert worst == sorted(worst, reverse=True) and len(worst) == min(16, measure["gaps"]), worst
        assert not worst or worst[0] == measure["gap_ns_max"]
        assert abs(measure["stolen_percent"] - 100 * measure["stolen_ns"] / measure["measured_ns"]) < 1e-6
        assert sum(worst) <= measure["stolen_ns"] <= measure["measured_ns"] <= measure["elapsed_ns"]
        assert {"interrupts", "schedules", "switches_involuntary", "real_time", "joined_cgroup"} <= set(measure)
        texts = [node.text for node in xml.etree.ElementTree.parse(svg).iter() if node.tag.endswith("text")]
        assert f"CPU {ALLOWED_CPU}, " in texts[0] and len(texts) == 3 + 2 * len(measure["buckets"]), texts
        done = subprocess.run([*command, "--json", "--ordinary"], capture_output=True, text=True, timeout=120)
        measure = json.loads(done.stdout)["measure"]
        assert not measure["real_time"] and measure["measured_ns"] == measure["elapsed_ns"], measure
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert re.search(r"^ +\d+ ns - +\d+ ns +\d+  #+$", shown.stdout, re.M) and not shown.stderr, shown


def a_measurement_that_is_ended_shows_what_it_has():
    process = subprocess.Popen([BUSCTL, "doctor", "--measure", "3600", "--cpu", str(ALLOWED_CPU), "--json"],
                               stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    while time.monotonic() < end:  # it has begun when its process is there
        with open(children) as file:
            if file.read().strip():
                break
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    shown = process.communicate(timeout=60)[0]
    measure = json.loads(shown)["measure"]
    assert process.returncode in (0, 1, 3) and measure["elapsed_ns"] < 3600 * 10**9, measure


def a_measurement_dies_with_its_parent():
    process = subprocess.Popen([BUSCTL, "doctor", "--measure", "3600", "--cpu", str(ALLOWED_CPU)],
                               stdout=subprocess.DEVNULL)
    end, child = time.monotonic() + 60, ""
    while not child and time.monotonic() < end:
        with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
            child = file.read().strip()
        time.sleep(0.02)
    time.sleep(0.5)
    process.kill()
    process.wait()
    while os.path.exists(f"/proc/{child}"):
        assert time.monotonic() < end, child
        time.sleep(0.02)


def progress_is_for_terminals():
    leader, follower = pty.openpty()
    done = subprocess.run([BUSCTL, "doctor", "--measure", "1", "--cpu", str(ALLOWED_CPU)], stdout=subprocess.PIPE,
                          stderr=follower, text=True, timeout=120)
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert f"CPU {ALLOWED_CPU}: " in shown and "longest gap" in shown and "\r" not in done.stdout, shown


def wrong_measurements_are_refused():
    for arguments in (("--measure", "1"), ("--cpu", "0"), ("--svg", "x"), ("--ordinary",),
                      ("--measure", "0", "--cpu", "0"),
                      ("--measure", "x", "--cpu", "0"), ("--measure", "1", "--cpu", "1023"),
                      ("--measure", "1", "--cpu", "-1"), ("--measure", "99999999", "--cpu", "0")):
        done = subprocess.run([BUSCTL, "doctor", *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and done.stderr, (arguments, done)
    done = subprocess.run([BUSCTL, "doctor", "--measure", "1", "--cpu", str(ALLOWED_CPU), "--svg", "/none/x.svg"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "/none/x.svg" in done.stderr, done


class Cpuset:
    """A cgroup v1 cpuset, gone at the end."""

    def __init__(self, name, cpus):
        self.path = f"/sys/fs/cgroup/cpuset/signalbus-{name}-{os.getpid()}"
        try:
            os.mkdir(self.path)
            for file, value in (("mems", "0"), ("cpus", cpus)):
                with open(f"{self.path}/cpuset.{file}", "w") as handle:
                    handle.write(str(value))
        except OSError as error:
            if os.path.isdir(self.path):
                os.rmdir(self.path)
            raise Skip(f"no cpuset of cgroup v1 can be made here: {error}")

    def enter(self):
        with open(self.path + "/cgroup.procs", "w") as file:
            file.write("0")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.rmdir(self.path)


def joins_the_group_that_has_the_cpu():
    if os.geteuid() != 0 or not os.path.isdir("/sys/fs/cgroup/cpuset") or not {0, 1} <= os.sched_getaffinity(0):
        raise Skip("needs root, two CPUs and cpusets of cgroup v1")
    command = [BUSCTL, "doctor", "--measure", "1", "--cpu", "1", "--json"]
    with Cpuset("house", 0) as house, Cpuset("members", 1) as members, \
            Machine({"/sys/fs/cgroup/cgroup.controllers": None, GROUP: None,
                     "/sys/fs/cgroup/cpuset/cpuset.sched_load_balance": "0"}) as machine:
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=house.enter, timeout=120)
        assert done.returncode == 1 and "CPU 1 is not for this process" in done.stderr, done
        # Elsewhere the root would have to stop balancing: here it is a file, around the real group.
        try:
            with open(members.path + "/cpuset.cpu_exclusive", "w") as file:
                file.write("1")
        except OSError as error:
            raise Skip(f"another cpuset has CPU 1: {error}")
        at = machine.root + "/sys/fs/cgroup/cpuset/members"
        os.mkdir(at)
        done = subprocess.run(["unshare", "-m", "sh", "-ec", 'mount --bind "$0" "$1"; shift; exec "$@"', members.path,
                               at, *command], capture_output=True, text=True, preexec_fn=house.enter, timeout=120,
                              env=machine.environment)
        assert done.returncode in (0, 1, 3) and not done.stderr, done
        measure = json.loads(done.stdout)["measure"]
        assert measure["joined_cgroup"] and measure["readings"] > 1000, measure


def put_bus_on_huge_pages(parent, status):
    """A member in small pages; the remedy, with the real programs, in a mount namespace."""
    real = f"{NODE}/node0/{PAGES}/nr_hugepages"
    if os.geteuid() != 0 or not os.access(real, os.W_OK) or not shutil.which("unshare"):
        raise Skip("needs root, unshare and a kernel with 2 MiB pages")
    with open(real) as file:
        before = file.read()
    root = tempfile.mkdtemp(prefix="signalbus-doctor-", dir=parent)
    bus = root + "/it's a bus"
    os.mkdir(bus, 0o750)
    environment = dict(os.environ, LC_ALL="C.UTF-8", PATH=f"{BUILD}/tools:{os.environ['PATH']}")
    environment.pop("SIGNAL_BUS", None)
    try:
        feed = subprocess.Popen([f"{BUILD}/producers/bus-feed", "--bus", bus, "--synthetic", "--small-pages"],
                                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        command = [BUSCTL, "doctor", "--json", "--bus", bus]
        while time.monotonic() < end:
            shown = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
            if "1 members, 1 of them not wholly" in shown:
                break
            time.sleep(0.02)
        feed.send_signal(signal.SIGKILL)
        feed.wait()
        found = json.loads(subprocess.run(command, capture_output=True, text=True, env=environment).stdout)
        check = next(check for check in found["checks"] if check["key"] == "bus_backing")
        assert (check["status"], check["remedy_kind"]) == (status, "command"), check
        script = 'mount --make-rprivate /; sh -c "$0" >&2; exec "$@"'
        done = subprocess.run(["unshare", "-m", "sh", "-ec", script, check["remedy"], *command], capture_output=True,
                              text=True, env=environment)
        assert done.stdout, (check, done.stderr)
        after = next(check for check in json.loads(done.stdout)["checks"] if check["key"] == "bus_backing")
        assert after["status"] == "pass" and "hugetlbfs" in after["found"], (check, after, done.stderr)
    finally:
        subprocess.run([BUSCTL, "hugepages", "release"], env=environment, capture_output=True)
        if os.path.exists("/run/signal-bus/hugepages"):
            os.unlink("/run/signal-bus/hugepages")
        if os.path.isdir("/run/signal-bus") and not os.listdir("/run/signal-bus"):
            os.rmdir("/run/signal-bus")
        shutil.rmtree(root)
    end = time.monotonic() + 60  # the kernel takes a namespace's mounts down behind our back
    while True:
        with open(real) as file:
            now = file.read()
        if now == before:
            return
        assert time.monotonic() < end, (before, now)
        time.sleep(0.02)


def a_bus_in_small_pages_is_put_on_huge_ones():
    put_bus_on_huge_pages("/dev/shm", "warn")


def a_bus_on_a_disk_is_put_on_huge_pages():
    for parent in (BUILD, "/var/tmp"):
        kind = subprocess.run(["stat", "-f", "-c", "%T", parent], capture_output=True, text=True).stdout.strip()
        if kind not in ("tmpfs", "ramfs"):
            put_bus_on_huge_pages(parent, "fail")
            return
    raise Skip("no disk here")


TESTS = [a_good_machine_passes, every_check_is_in_the_manual, *map(wrong, WRONG),
         what_is_not_there_is_skipped, without_cpus_it_asks_for_them,
         the_isolated_cpus_are_the_members, wake_up_latency_that_is_held_counts, versions_are_read_as_they_come,
         hostile_files_reach_neither_terminal_nor_shell, wrong_usage_is_refused, memlock_on_this_machine,
         this_machine_is_examined, measures_the_gaps_of_a_core,
         a_measurement_that_is_ended_shows_what_it_has, a_measurement_dies_with_its_parent, progress_is_for_terminals,
         wrong_measurements_are_refused, joins_the_group_that_has_the_cpu,
         a_bus_in_small_pages_is_put_on_huge_ones, a_bus_on_a_disk_is_put_on_huge_pages]


if __name__ == "__main__":
    tap.main(TESTS, sys.argv[3:])
