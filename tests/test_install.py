#!/usr/bin/env python3
"""What `meson install` installs: every file, the systemd units, the completions, the optional busctl.

usage: test_install.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. Nothing is installed into the system.
"""
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile

import tap
from tap import Skip

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
WAIT_S = 240
SYSTEMD_VERBS = ("list status monitor capture tree introspect call emit wait get-property set-property "
                 "help").split()


def run(*command, status=0, **options):
    options = {"capture_output": True, "text": True, "timeout": WAIT_S, **options}
    done = subprocess.run(list(map(str, command)), **options)
    assert status is None or done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def read(path):
    with open(path) as file:
        return file.read()


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


class Stage:
    """An installed copy, made once."""

    root = prefix = None

    @classmethod
    def make(cls):
        if not cls.root:
            cls.root = tempfile.mkdtemp(prefix="signalbus-install-", dir="/dev/shm")
            run("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", cls.root)
            options = json.loads(run("meson", "introspect", "--buildoptions", BUILD).stdout)
            cls.prefix = next(option["value"] for option in options if option["name"] == "prefix")
        return cls.root + cls.prefix

    @classmethod
    def remove(cls):
        if cls.root:
            shutil.rmtree(cls.root)


def installed_files():
    """{destination: source}, of everything that meson knows."""
    plan = json.loads(run("meson", "introspect", "--installed", BUILD).stdout)
    return {path: source for source, path in plan.items()}


def programs():
    return sorted(name for name in os.listdir(os.path.join(Stage.make(), "bin")))


# ---- files ----

def every_file_is_there_and_none_besides():
    Stage.make()
    want = {os.path.normpath(path) for path in installed_files()}
    have = set()
    for directory, directories, files in os.walk(Stage.root):
        assert stat.S_IMODE(os.stat(directory).st_mode) & 0o755 in (0o700, 0o755), directory
        have |= {os.path.join(directory, name)[len(Stage.root):] for name in files}
    links = {path for path in have if os.path.islink(Stage.root + path)}
    assert want - have == set(), sorted(want - have)
    assert have - want <= links, sorted(have - want - links)
    for path in have:
        assert path.startswith(Stage.prefix + "/"), path
        assert os.path.exists(Stage.root + path), f"{path} leads nowhere"
        mode = stat.S_IMODE(os.stat(Stage.root + path).st_mode)
        executable = "/bin/" in path or ".so" in path
        assert mode == (0o755 if executable else 0o644), (path, oct(mode))


def every_program_has_its_manual_and_completion():
    prefix = Stage.make()
    assert len(programs()) >= 5, programs()
    for program in programs():
        assert os.path.exists(f"{prefix}/share/man/man1/{program}.1"), program
        assert os.path.exists(f"{prefix}/share/bash-completion/completions/{program}"), program
        assert program in read(f"{prefix}/share/zsh/site-functions/_signal-bus").split("\n")[0].split(), program
        assert program in re.search(r"^complete .*", read(f"{SOURCE}/tools/completions/signal-bus.bash"), re.M)[0].split()
    assert "busctl" not in programs(), "systemd's busctl must stay what `busctl` means"
    for page in os.listdir(f"{prefix}/share/man/man1") + os.listdir(f"{prefix}/share/man/man7"):
        assert not re.search("@[a-z]+@", read(f"{prefix}/share/man/man{page[-1]}/{page}")), page


def the_programs_run_from_the_stage():
    prefix = Stage.make()
    for program in programs():
        assert run(f"{prefix}/bin/{program}", "--version").stdout.startswith(program), program
    library = next(name for name in os.listdir(f"{prefix}/lib") if os.path.isdir(f"{prefix}/lib/{name}/pkgconfig"))
    done = run("pkg-config", "--cflags", "--libs", "signalbus", env=dict(
        os.environ, PKG_CONFIG_PATH=f"{prefix}/lib/{library}/pkgconfig", PKG_CONFIG_SYSROOT_DIR=Stage.root))
    assert f"-L{prefix}/lib" in done.stdout and "-lsignalbus" in done.stdout, done.stdout


def another_prefix_is_respected():
    with tempfile.TemporaryDirectory() as build:
        run("meson", "setup", build, SOURCE, "--prefix=/opt/bus", "-Dtests=false", "-Dbusctl_wrapper=true")
        paths = json.loads(run("meson", "introspect", "--installed", build).stdout).values()
        assert len(paths) > 40 and all(path.startswith("/opt/bus/") for path in paths), paths
        assert "/opt/bus/bin/busctl" in paths
        assert "ours='/opt/bus/bin/signal-busctl'" in read(f"{build}/tools/busctl")
        unit = read(f"{build}/tools/systemd/signal-bus-member@.service")
        assert "ExecStart=/opt/bus/bin/signal-busctl run %i /opt/bus/etc/signal-bus/signal-bus.ini\n" in unit, unit
    with tempfile.TemporaryDirectory() as build:
        done = run("meson", "setup", build, SOURCE, "--prefix=/usr", "-Dtests=false", "-Dbusctl_wrapper=true",
                   status=None)
        assert done.returncode != 0 and "/usr/bin/busctl is systemd's" in done.stdout, done.stdout


# ---- systemd ----

def need(program, package):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed (package {package})")


def stage_units(directory):
    """The units as systemd would see them: with the paths of the staged programs."""
    prefix, paths = Stage.make(), []
    for name in sorted(os.listdir(f"{prefix}/lib/systemd/system")):
        text = read(f"{prefix}/lib/systemd/system/{name}")
        assert "@bindir@" not in text and BUILD not in text, name
        write(f"{directory}/{name}", re.sub(rf"{Stage.prefix}/(?=bin/signal-busctl)", f"{prefix}/", text))
        instance = {"signal-bus-member@.service": "feed", "signal-bus-isolate@.service": "2-3"}.get(name)
        paths.append(f"{directory}/{name.replace('@.', f'@{instance}.')}")
    return paths


def verify(directory, paths):
    done = run("systemd-analyze", "--man=no", "--recursive-errors=yes", "verify", *paths, status=None,
               env=dict(os.environ, SYSTEMD_UNIT_PATH=f"{directory}:"))
    return done.returncode, "\n".join(line for line in done.stderr.splitlines() if directory in line or
                                      "signal" in line)


def the_units_are_valid():
    need("systemd-analyze", "systemd")
    with tempfile.TemporaryDirectory() as directory:
        paths = stage_units(directory)
        assert len(paths) == 7, paths
        assert verify(directory, paths) == (0, "")


def a_wrong_unit_would_be_found():
    need("systemd-analyze", "systemd")
    for wrong, right in (("WatchdogSecs=10", "WatchdogSec=10"), ("Type=notifies", "Type=notify"),
                         ("/bin/signal-busctll run", "/bin/signal-busctl run"), ("RestartSec=x", "RestartSec=500ms")):
        with tempfile.TemporaryDirectory() as directory:
            paths = stage_units(directory)
            path = f"{directory}/signal-bus-member@.service"
            text = read(path)
            assert right in text, right
            write(path, text.replace(right, wrong))
            assert verify(directory, paths) != (0, ""), wrong


def the_units_refer_to_what_there_is():
    """Units, manuals, verbs of signal-busctl and their options."""
    prefix, missing = Stage.make(), set()
    units = os.listdir(f"{prefix}/lib/systemd/system")
    verbs = set(re.findall(r"^  ([a-z][a-z-]*) ", run(f"{prefix}/bin/signal-busctl", "--help").stdout, re.M))
    for unit in units:
        text = read(f"{prefix}/lib/systemd/system/{unit}")
        for name in re.findall(r"\b((?:signal-bus|dev-shm)[\w@-]*\.(?:service|target|mount))", text):
            if "%" not in name and "#" not in name:
                assert re.sub("@.*[.]", "@.", name) in units, (unit, name)
        for page, section in re.findall(r"man:([\w-]+)\((\d)\)", text):
            assert os.path.exists(f"{prefix}/share/man/man{section}/{page}.{section}"), (unit, page)
        for verb, arguments in re.findall(r"bin/signal-busctl (\S+)(.*)", text):
            if verb in verbs:
                options = set(re.findall(r"--[a-z-]+", arguments))
                assert options <= set(help_of("signal-busctl", verb)), (unit, verb, options)
            else:
                missing.add(verb)
    member = read(f"{prefix}/lib/systemd/system/signal-bus-member@.service")
    for setting in ("Type=notify", "WatchdogSec=10", "LimitMEMLOCK=infinity", "LimitRTPRIO=99", "Restart=on-failure",
                    "User=signal-bus"):
        assert f"\n{setting}\n" in member, setting
    assert "\nPrivateDevices" not in member, "it hides a mount below /dev/shm"
    if missing:
        raise Skip(f"signal-busctl was built without the verbs {sorted(missing)}; the rest holds")


def a_member_is_confined():
    need("systemd-analyze", "systemd")
    with tempfile.TemporaryDirectory() as directory:
        stage_units(directory)
        unit = f"{directory}/signal-bus-member@feed.service"
        os.rename(f"{directory}/signal-bus-member@.service", unit)
        done = run("systemd-analyze", "security", "--offline=yes", "--threshold=35", "--no-pager", unit, status=None)
        exposure = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
        assert exposure and done.returncode == 0, done.stdout[-300:] + done.stderr
        print(f"# exposure level {exposure.group(1)}")


def the_user_and_the_directory_are_made():
    need("systemd-sysusers", "systemd")
    need("systemd-tmpfiles", "systemd")
    if os.geteuid():
        raise Skip("systemd-tmpfiles --root needs root to give files away")
    prefix = Stage.make()
    with tempfile.TemporaryDirectory() as root:
        for kind in ("sysusers.d", "tmpfiles.d"):
            write(f"{root}/usr/lib/{kind}/signal-bus.conf", read(f"{prefix}/lib/{kind}/signal-bus.conf"))
        os.makedirs(f"{root}/etc")
        os.makedirs(f"{root}/dev/shm")
        for _ in range(2):  # the second time changes nothing
            run("systemd-sysusers", f"--root={root}", "signal-bus.conf")
            run("systemd-tmpfiles", f"--root={root}", "--create", "signal-bus.conf")
        users = [line.split(":") for line in read(f"{root}/etc/passwd").splitlines()]
        groups = [line.split(":") for line in read(f"{root}/etc/group").splitlines()]
        uid, gid, home, shell = next((int(user[2]), int(user[3]), user[5], user[6]) for user in users
                                     if user[0] == "signal-bus")
        assert 0 < uid < 1000 and shell.endswith("nologin") and home == "/", users
        assert [int(group[2]) for group in groups if group[0] == "signal-bus"] == [gid], groups
        status = os.stat(f"{root}/dev/shm/signals")
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (uid, gid, 0o750), status


# ---- completions ----

def complete(*words, completions=None, **environment):
    """What bash offers for the last word."""
    source = completions or f"{Stage.make()}/share/bash-completion/completions/signal-busctl"
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
              'f=$(complete -p "${1##*/}"); f=${f#*-F }; "${f%% *}" "$1" "${@: -1}" "${@: -2:1}"; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    path = f"{Stage.make()}/bin:{os.environ['PATH']}"
    done = run("bash", "--norc", "-c", script, "bash", source, *words, env=dict(os.environ, PATH=path, **environment))
    assert not done.stderr, done.stderr
    return done.stdout.split()


def help_of(*command):
    text = run(*command[:-1], command[-1], "--help", env=dict(
        os.environ, PATH=f"{Stage.make()}/bin:{os.environ['PATH']}")).stdout
    lines = re.findall(r"^ +((?:--[a-z-]+(?:, )?)+)", text, re.M)
    return sorted({option for line in lines for option in re.findall(r"--[a-z-]+", line)})


def calls():
    """Every program, and every verb of those that have verbs."""
    for program in programs():
        verbs = complete(program, "")
        yield [program]
        if verbs and not verbs[0].startswith("-"):
            yield from ([program, verb] for verb in verbs)


def bash_completes_every_option():
    need("bash", "bash")
    found = list(calls())
    assert ["signal-busctl", "run"] in found and ["bus-bench", "ring"] in found, found
    for call in found:
        assert sorted(complete(*call, "--")) == help_of(*call), call


def bash_completes_verbs_words_members_and_files():
    verbs = re.findall(r"^  ([a-z][a-z-]*) ", run(f"{Stage.make()}/bin/signal-busctl", "--help").stdout, re.M)
    assert complete("signal-busctl", "") == verbs
    assert complete("signal-busctl", "cr") == ["create"]
    assert complete("signal-busctl", "nonsense", "") == []
    with tempfile.TemporaryDirectory() as directory:
        write(f"{directory}/bus/feed", "")
        write(f"{directory}/bus/infer", "")
        ini = write(f"{directory}/x.ini", "[bus]\ncreate = yes\n[feed]\ncommand = true\n[infer]\ncommand = true\n")
        assert complete("signal-busctl", "info", "f", SIGNAL_BUS=f"{directory}/bus") == ["feed"]
        assert sorted(complete("signal-busctl", "info", "--bus", f"{directory}/bus", "")) == ["feed", "infer"]
        assert sorted(complete("bus-infer", "--feed", "", SIGNAL_BUS=f"{directory}/bus")) == ["feed", "infer"]
        assert complete("signal-busctl", "up", ini[:-2]) == [ini]
        assert complete("signal-busctl", "run", "feed", ini[:-2]) == [ini]
        assert complete("bus-feed", "--capture", ini[:-2]) == [ini]
        assert complete("signal-busctl", "create", "--bus", f"{directory}/b") == [f"{directory}/bus"]
    assert "root" in complete("signal-busctl", "create", "--group", "ro")


def bash_reads_any_help_of_that_form():
    """Of a program that is not ours, with all forms of options and verbs."""
    with tempfile.TemporaryDirectory() as directory:
        write(f"{directory}/signal-busctl", """#!/bin/sh
case $1 in
--help) printf 'Usage: signal-busctl VERB\\n\\n  pages   of memory\\n  isolate  CPUs\\n\\n  --version  x\\n' ;;
pages) printf 'Usage: signal-busctl pages show [--json]\\n       signal-busctl pages reserve [--n N]\\n\\n  --n N  x\\n' ;;
isolate) printf '  --irqs move|keep   x\\n  --siblings include|ignore\\n            x\\n  --wq  a|b\\n  --help, --quiet\\n' ;;
esac
""", 0o755)
        program = f"{directory}/signal-busctl"
        assert complete(program, "") == ["pages", "isolate"]
        assert complete(program, "pages", "") == ["show", "reserve"]
        assert complete(program, "pages", "--") == ["--n"]
        assert complete(program, "isolate", "--irqs", "") == ["move", "keep"]
        assert complete(program, "isolate", "--siblings", "i") == ["include", "ignore"]
        assert complete(program, "isolate", "--") == ["--irqs", "--siblings", "--wq", "--help", "--quiet"]


def the_words_of_options_are_taken():
    """Each word that completion offers is one that the program knows."""
    checked = 0
    for call in calls():
        for option in help_of(*call):
            for word in complete(*call, option, "") if call[0] != "bus-bench" else []:
                if option in ("--group", "--owner", "--bus") or os.path.exists(word) or word.startswith("-"):
                    continue
                done = run(f"{Stage.make()}/bin/{call[0]}", *call[1:], option, word, "--nonsense", status=2)
                assert "nonsense" in done.stderr and f"'{word}'" not in done.stderr, (call, option, word, done.stderr)
                checked += 1
    assert checked >= 15, checked


def zsh_completes_every_option():
    need("zsh", "zsh")
    path = f"{Stage.make()}/share/zsh/site-functions/_signal-bus"
    run("zsh", "-n", path)
    # Without the last line, which completes: what it would offer.
    functions = read(path).replace('\n_signal_bus "$@"\n', "\n")
    environment = dict(os.environ, PATH=f"{Stage.make()}/bin:{os.environ['PATH']}")
    with tempfile.TemporaryDirectory() as directory:
        source = write(f"{directory}/functions", functions)
        for call in calls():
            done = run("zsh", "-f", "-c", f'source {source}; _signal_bus_options "$@"', "zsh", *call, env=environment)
            have = sorted({line.split(" ")[0] for line in done.stdout.splitlines()})
            assert have == help_of(*call), (call, have)
        done = run("zsh", "-f", "-c", f"source {source}; _signal_bus_verbs signal-busctl", env=environment)
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == complete("signal-busctl", "")


# ---- busctl ----

class Wrapper:
    def __enter__(self):
        self.directory = tempfile.mkdtemp()
        text = read(f"{SOURCE}/tools/busctl.in").replace("@bindir@", f"{Stage.make()}/bin")
        self.path = write(f"{self.directory}/local/busctl", text, 0o755)
        self.systemd = write(f"{self.directory}/systemd/busctl", '#!/bin/sh\necho "systemd($#): $*"\nexit 7\n', 0o755)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.directory)

    def run(self, *arguments, status, path=None, systemd=None):
        return run(path or self.path, *arguments, status=status,
                   env=dict(os.environ, SIGNAL_BUS_SYSTEMD_BUSCTL=systemd or self.systemd))


def busctl_runs_our_verbs_and_systemds_rest():
    with Wrapper() as wrapper:
        for verb in complete("signal-busctl", ""):
            help_text = run(f"{Stage.make()}/bin/signal-busctl", verb, "--help").stdout
            assert wrapper.run(verb, "--help", status=0).stdout == help_text, verb
        assert wrapper.run("create", "--mode", "9", status=2).stderr.startswith("signal-busctl create")
        for verb in SYSTEMD_VERBS:
            assert wrapper.run(verb, "a  b", status=7).stdout == f"systemd(2): {verb} a  b\n"
        assert wrapper.run(status=7).stdout == "systemd(0): \n"
        for arguments in (["--user", "list"], ["--help"], ["--version"], ["frobnicate"], [""], [".*"], ["-e"]):
            assert wrapper.run(*arguments, status=7).stdout == f"systemd({len(arguments)}): {' '.join(arguments)}\n"


def busctl_finds_itself():
    with Wrapper() as wrapper:
        link, hard = f"{wrapper.directory}/link", f"{wrapper.directory}/hard"
        os.symlink(wrapper.path, link)
        os.link(wrapper.path, hard)
        for itself in (wrapper.path, link, hard):
            for path in (wrapper.path, link, hard):
                done = wrapper.run("list", status=1, path=path, systemd=itself)
                assert "is this wrapper of signal-bus itself" in done.stderr and not done.stdout, done
        copy = shutil.copy(wrapper.path, f"{wrapper.directory}/copy")  # a second wrapper, which finds itself
        assert "itself" in wrapper.run("list", status=1, systemd=copy).stderr
        assert wrapper.run("info", "--help", status=0, systemd=wrapper.path).stdout.startswith("Usage")
        assert "is not here" in wrapper.run("list", status=127, systemd="/nonexistent").stderr


def busctl_in_the_place_of_systemds():
    if os.geteuid():
        raise Skip("a mount namespace of its own needs root")
    if not os.path.exists("/usr/bin/busctl"):
        raise Skip("/usr/bin/busctl is not there (package systemd)")
    with Wrapper() as wrapper:
        environment = {name: value for name, value in os.environ.items() if name != "SIGNAL_BUS_SYSTEMD_BUSCTL"}
        script = f"mount --bind {wrapper.path} /usr/bin/busctl && exec timeout 60 /usr/bin/busctl list"
        done = run("unshare", "--mount", "sh", "-c", script, status=None, env=environment)
        if "unshare failed" in done.stderr or "permission denied" in done.stderr:
            raise Skip(done.stderr.strip())
        assert done.returncode == 1 and "/usr/bin/busctl is this wrapper of signal-bus itself" in done.stderr, done
        assert run(wrapper.path, "--version", env=environment).stdout.startswith("systemd ")


TESTS = [every_file_is_there_and_none_besides, every_program_has_its_manual_and_completion,
         the_programs_run_from_the_stage, another_prefix_is_respected, the_units_are_valid,
         a_wrong_unit_would_be_found, the_units_refer_to_what_there_is, a_member_is_confined,
         the_user_and_the_directory_are_made, bash_completes_every_option,
         bash_completes_verbs_words_members_and_files, bash_reads_any_help_of_that_form, the_words_of_options_are_taken, zsh_completes_every_option,
         busctl_runs_our_verbs_and_systemds_rest, busctl_finds_itself, busctl_in_the_place_of_systemds]


if __name__ == "__main__":
    status = tap.run(TESTS, sys.argv[3:])
    Stage.remove()
    sys.exit(status)
