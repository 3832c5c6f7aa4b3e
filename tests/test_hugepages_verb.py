#!/usr/bin/env python3
"""signal-busctl hugepages: over files that stand for a machine, and over this machine where it allows that.

usage: test_hugepages_verb.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. What this machine had is put back.
"""
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile

import tap
from tap import Skip

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
BUSCTL = os.path.join(BUILD, "tools", "signal-busctl")
MIB = 1 << 20
NODE0 = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB"


def run(*command, status=0, root=None, **options):
    environment = dict(os.environ, LC_ALL="C.UTF-8")
    environment.pop("SIGNAL_BUS", None)
    if root:
        environment["SIGNAL_BUS_SYSTEM_ROOT"] = root
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, env=environment,
                          **options)
    assert done.returncode == status, f"{command}: exit {done.returncode}, not {status}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Machine:
    """/proc and /sys of files. A plain file takes any number: the kernel's refusals are in test_hugepages.c."""

    def __init__(self, nodes=2):
        self.root = tempfile.mkdtemp(prefix="signalbus-machine-", dir="/dev/shm")
        for node in range(nodes):
            for name in ("nr_hugepages", "free_hugepages", "surplus_hugepages"):
                self.put(f"{NODE0.replace('node0', f'node{node}')}/{name}", 0)
        self.put("/proc/sys/kernel/random/boot_id", "b0")
        self.put("/run/none", "")

    def put(self, path, text):
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        with open(self.root + path, "w") as file:
            file.write(f"{text}\n")

    def get(self, path):
        with open(self.root + path) as file:
            return file.read().strip()

    def pages(self, node):
        return int(self.get(f"{NODE0.replace('node0', f'node{node}')}/nr_hugepages"))

    def hugepages(self, *arguments, **options):
        return run(BUSCTL, "hugepages", *arguments, root=self.root, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root)


def reserves_and_releases_what_was_found():
    with Machine() as machine:
        machine.put(f"{NODE0}/nr_hugepages", 3)
        machine.hugepages("reserve", "--pages", 32, "--node", "0-1")
        assert (machine.pages(0), machine.pages(1)) == (32, 32)
        shown = json.loads(machine.hugepages("show", "--json"))
        assert [node["reserved_here"] for node in shown["nodes"]] == [29, 32], shown
        assert "has 32 huge pages already" in machine.hugepages("reserve", "--pages", 32, "--node", 0)
        machine.hugepages("reserve", "--pages", 40, "--node", 0)
        machine.hugepages("release", "--node", 0)
        assert (machine.pages(0), machine.pages(1)) == (3, 32)
        machine.hugepages("release")
        assert (machine.pages(0), machine.pages(1)) == (3, 0)
        assert "nothing to release" in machine.hugepages("release")


def what_somebody_else_changed_is_left_alone():
    with Machine(nodes=1) as machine:
        machine.hugepages("reserve", "--pages", 8)
        machine.put(f"{NODE0}/nr_hugepages", 50)
        assert "drifted from the 8" in machine.hugepages("release", status=3)
        assert machine.pages(0) == 50
        assert "nothing to release" in machine.hugepages("release")


def a_killed_reservation_is_released():
    with Machine(nodes=1) as machine:
        for now, after in ((8, 2), (5, 2), (2, 2)):  # after the write, short of it, before it
            machine.put("/run/signal-bus/hugepages", "boot b0\nnode 0 found 2 set 8")
            machine.put(f"{NODE0}/nr_hugepages", now)
            machine.hugepages("release")
            assert machine.pages(0) == after, (now, machine.pages(0))


def wrong_usage_is_refused():
    with Machine() as machine:
        for arguments in ((), ("list",), ("show", "more"), ("reserve",), ("reserve", "--node", "2"),
                          ("reserve", "--node", ""), ("reserve", "--node", "0", "--pages", "0"),
                          ("reserve", "--node", "0", "--pages", "-3"), ("reserve", "--size", "2M"),
                          ("reserve", "--node", "0", "--tries", "0"), ("show", "--pages", "3"),
                          ("mount", "--size", "3M", "--min-size", "4M"), ("mount", "--size", "0"),
                          ("mount", "--size", "1M"), ("mount", "--size", "-2M"), ("mount", "--mode", "2770"),
                          ("mount", "--mode", "0070"), ("mount", "--group", "no-such-group"),
                          ("mount", "--owner", "no-such-user"), ("mount", "--size", "2M", "--min-size", "4M"),
                          ("mount", "--size", "99999999999999999999G")):
            machine.hugepages(*arguments, status=2)
        assert "nodes 0-1" in machine.hugepages("reserve", status=2)
        assert (machine.pages(0), machine.pages(1)) == (0, 0)


def two_at_once_are_refused():
    with Machine(nodes=1) as machine:
        machine.put("/run/signal-bus/hugepages", "")
        with open(machine.root + "/run/signal-bus/hugepages") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert "at work" in machine.hugepages("reserve", status=1)
        machine.hugepages("reserve")
        assert machine.pages(0) == 32


def another_user_is_told_whom_to_be():
    if os.geteuid() != 0:
        raise Skip("needs root, to become somebody else")
    with Machine(nodes=1) as machine:
        os.chmod(machine.root, 0o755)
        said = machine.hugepages("reserve", status=1, user=65534, group=65534, extra_groups=[])
        assert "as root" in said, said
        assert machine.pages(0) == 0
        machine.hugepages("show", user=65534, group=65534, extra_groups=[])


def nothing_is_mounted_under_another_root():
    with Machine(nodes=1) as machine, tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        assert "SIGNAL_BUS_SYSTEM_ROOT" in machine.hugepages("mount", "--bus", directory, status=1)


def the_fragment_is_valid():
    path = os.path.join(SOURCE, "hugepages.conf")
    with open(path) as file:
        lines = [line.strip() for line in file if line.strip() and line[0] not in "#;"]
    assert lines == ["vm.nr_hugepages = 32"], lines
    if not shutil.which("unshare") or not shutil.which("sysctl") or os.geteuid() != 0:
        raise Skip("needs root, unshare (util-linux) and sysctl (procps)")
    with Machine(nodes=1) as machine:  # what sysctl(8) makes of it, on a file in the kernel's place
        machine.put("/proc/sys/vm/nr_hugepages", 0)
        run("unshare", "-m", "sh", "-ec",
            f"mount --bind {machine.root}/proc/sys/vm /proc/sys/vm; sysctl -p {path}")
        assert machine.get("/proc/sys/vm/nr_hugepages") == "32"


def this_machine():
    if os.geteuid() != 0 or not os.access(f"{NODE0}/nr_hugepages", os.W_OK):
        raise Skip("needs root and a kernel with 2 MiB pages")
    nodes = json.loads(run(BUSCTL, "hugepages", "show", "--json"))["nodes"]
    node = next(node for node in nodes if node["node"] == 0)
    if node["reserved_here"]:
        raise Skip("this machine has reserved pages with signal-busctl: they are not touched")
    return node["total"] - node["surplus"]


def give_back():
    run(BUSCTL, "hugepages", "release")
    os.unlink("/run/signal-bus/hugepages")  # it was empty or not there
    if not os.listdir("/run/signal-bus"):
        os.rmdir("/run/signal-bus")


def this_machine_round_trip():
    found = this_machine()
    with open(f"{NODE0}/nr_hugepages") as file:
        text = file.read()
    try:
        run(BUSCTL, "hugepages", "reserve", "--pages", found + 4, "--node", 0)
        with open(f"{NODE0}/nr_hugepages") as file:
            assert int(file.read()) == int(text) + 4
    finally:
        give_back()
    with open(f"{NODE0}/nr_hugepages") as file:
        assert file.read() == text


MOUNT = """
mount --make-rprivate /
mkdir $D
"$B" hugepages mount --bus $D/bus --size 8M --min-size 4M --owner 12 --group 34 --mode 0770
grep " $D/bus hugetlbfs " /proc/mounts
stat -c 'owner %u %g mode %a' $D/bus
stat -f -c 'blocks %b of %S' $D/bus
cat /sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages
"$B" hugepages mount --bus $D/bus --size 8M
"$B" create --bus $D/bus
"$B" hugepages umount --bus $D/bus
stat -f -c 'then %T' $D/bus
"$B" hugepages umount --bus $D/bus
touch $D/bus/file
! "$B" hugepages mount --bus $D/bus 2>&1 || exit 9
rm $D/bus/file
! "$B" hugepages mount --bus $D/bus --size 4G --min-size 4G 2>&1 || exit 9
! "$B" hugepages mount --bus $D/new --size 4G --min-size 4G 2>&1 || exit 9
ls $D
"""


def this_machine_mounts_the_bus():
    found = this_machine()
    if not shutil.which("unshare"):
        raise Skip("needs unshare (util-linux)")
    directory = tempfile.mktemp(prefix="signalbus-mount-", dir="/dev/shm")
    try:
        run(BUSCTL, "hugepages", "reserve", "--pages", found + 4, "--node", 0)
        said = run("unshare", "-m", "env", f"B={BUSCTL}", f"D={directory}", "sh", "-ec", MOUNT)
    finally:
        give_back()
        shutil.rmtree(directory, ignore_errors=True)
    for part in ("pagesize=2M", "owner 12 34 mode 770", "blocks 4 of 2097152", "\n2\n", "a hugetlbfs already",
                 "gets hugetlb", "then tmpfs", "no hugetlbfs is mounted", "a mount would hide them",
                 "cannot reserve 2048 huge pages for it, 4 are free; next: signal-busctl hugepages reserve"):
        assert part in said, f"not '{part}' in:\n{said}"
    assert said.endswith("\nbus\n"), said  # what it made for a mount that failed is gone


TESTS = [reserves_and_releases_what_was_found, what_somebody_else_changed_is_left_alone,
         a_killed_reservation_is_released, wrong_usage_is_refused,
         two_at_once_are_refused, another_user_is_told_whom_to_be, nothing_is_mounted_under_another_root,
         the_fragment_is_valid, this_machine_round_trip, this_machine_mounts_the_bus]


if __name__ == "__main__":
    tap.main(TESTS, sys.argv[3:])
