#!/usr/bin/env python3
"""signal-busctl top on a terminal: an emulator shows what it draws, keys are pressed, the window changes.

usage: test_top.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. Needs pyte, of PyPI: tests/make-venv fetches it. No test depends on how fast the machine is.
"""
import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import python_venv

python_venv.enter(os.path.abspath(sys.argv[1]))

import pyte  # noqa: E402  (only there now)
import tap  # noqa: E402
import test_busctl  # noqa: E402
from test_busctl import BUSCTL, ENVIRONMENT, WAIT_S, Bus, Chain, finish  # noqa: E402


class Terminal:
    """`top` on a terminal of its own; the emulator is that of TERM=linux."""

    def __init__(self, bus, rows=40, columns=120, arguments=(), **environment):
        self.master, slave = pty.openpty()
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.set_size(rows, columns)
        self.process = subprocess.Popen(
            [BUSCTL, "top", "--interval-ms", "50", "--bus", bus.directory, *arguments], stdin=slave, stdout=slave,
            stderr=slave, env={**ENVIRONMENT, "TERM": "linux", **environment}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        bus.processes.append(self.process)
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def set_size(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows, columns):
        self.screen.resize(rows, columns)
        self.screen.reset()
        self.set_size(rows, columns)

    def read(self, seconds=0.02):
        """Feeds the emulator what has come; false at the end."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.raw += data
            self.stream.feed(data)
            seconds = 0
        return True

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def see(self, what, condition):
        """The first true value of condition(text of the screen)."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            going = self.read()
            value = condition(self.text())
            if value:
                return value
            assert going, f"ended: {what}\n{self.text()}"
        raise AssertionError(f"never: {what}\n{self.text()}")

    def press(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        end = time.monotonic() + WAIT_S
        while self.read(0.05) and self.process.poll() is None:
            assert time.monotonic() < end
        return self.process.wait(timeout=WAIT_S)


def rows_of(text, title):
    """The first words of the rows below a title, to the next title."""
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(title))
    names = []
    for line in lines[at + 1:]:
        if not line or re.match(r"(MEMBER|RING|READER|LATENCY|COUNTER) ", line):
            break
        names.append(line.split()[0])
    return names


def has_chain(text):
    return re.search(r"(?m)^trader +trader +alive +run", text) and re.search(r"(?m)^feed/features +[1-9]", text)


def shows_a_running_bus_and_ends_on_q():
    with Chain() as bus, Terminal(bus) as top:
        text = top.see("the chain", lambda text: has_chain(text) and "COUNTER that changed" in text and text)
        assert text.startswith(f"bus {bus.directory}  "), text
        assert re.search(r"[34] of 4 members alive", text.splitlines()[0]), text
        assert rows_of(text, "MEMBER") == ["busctl", "feed", "infer", "trader"], text
        assert rows_of(text, "RING") == ["feed/features", "infer/signals"], text
        assert "trader/total_ns" in rows_of(text, "LATENCY"), text
        assert re.search(r"(?m)^trader/total_ns +now +\d[\d.]*[num]?s ", text), text
        assert "q quit" in text.splitlines()[-1]
        # The figures live.
        figure = r"(?m)^trader/signals +(\d+)"
        first = int(top.see("a counter", lambda text: re.search(figure, text)).group(1))
        top.see("it rises", lambda text: (found := re.search(figure, text)) and int(found.group(1)) > first)
        before = termios.tcgetattr(top.master)[3]
        top.press("q")
        assert top.end() == 0
        # The terminal is as it was: it echoes, the other screen is left, the cursor is back.
        assert termios.tcgetattr(top.master)[3] & termios.ECHO and not before & termios.ECHO
        assert not top.screen.cursor.hidden
        bus.stop()


def keys_sort_pause_switch_and_help():
    with Chain() as bus, Terminal(bus) as top:
        top.see("the chain", has_chain)
        top.press("s")
        top.see("sorted by rate", lambda text: "s sort: rate" in text)

        def falling(text):
            rates = [int(value) for value in re.findall(r"(?m)^\w+/\w+ +\d+ +(\d+) (?:bytes|messages|signals)", text)]
            return len(rates) > 3 and rates == sorted(rates, reverse=True)
        top.see("counters by falling rate", falling)
        top.press("s")
        top.see("sorted by delay", lambda text: "s sort: delay" in text)
        top.press("t")
        text = top.see("totals", lambda text: "t figures: total" in text and re.search(r"(?m)^RING .* records ", text)
                       and text)
        assert re.search(r"(?m)^trader/total_ns +all ", text), text
        assert int(re.search(r"(?m)^feed/features +(\d+)", text).group(1)) > 0, text
        top.press("t")
        top.see("rates again", lambda text: re.search(r"(?m)^RING .* records/s ", text))
        top.press("p")
        frozen = top.see("paused", lambda text: "PAUSED" in text.splitlines()[0] and text)
        end = time.monotonic() + 0.5  # ten views
        while time.monotonic() < end:
            top.read()
            assert top.text() == frozen
        top.press("s")  # sorting goes on while it is paused
        top.see("sorted by name, paused", lambda text: "s sort: name" in text and "PAUSED" in text)
        top.press(" ")
        top.see("goes on", lambda text: "PAUSED" not in text and text != frozen)
        top.press("h")
        top.see("help", lambda text: "page up, page down" in text and "MEMBER" not in text)
        top.press("?")
        top.see("back", has_chain)
        top.press("q")
        assert top.end() == 0
        bus.stop()


def scrolls_in_a_small_window():
    with Chain() as bus, Terminal(bus, rows=10, columns=70) as top:
        def first_line(number):
            return lambda text: f"lines {number}-" in text
        top.see("the top", lambda text: "MEMBER" in text.splitlines()[1])
        # A foot that does not fit is cut: its end is in a wider window.
        top.resize(10, 100)
        top.see("line 1", first_line(1))
        top.press("p")  # or counters that come and go would change the length
        top.see("paused", lambda text: "PAUSED" in text)
        while int(re.search(r"of (\d+)$", top.text()).group(1)) < 25:  # the chain was not at work in that interval
            top.press("pp")
            top.read(0.2)
        top.see("paused", lambda text: "PAUSED" in text)
        top.press("\x1b[B")
        top.see("line 2", lambda text: "lines 2-" in text and "MEMBER" not in text)
        top.press("j")
        top.see("line 3", first_line(3))
        top.press("\x1b[6~")
        top.see("a page on", first_line(11))
        top.press("\x1b[5~\x1b[A")
        top.see("back", first_line(2))
        top.press("\x1b[4~")
        top.see("the end", lambda text: (found := re.search(r"lines (\d+)-(\d+) of (\d+)", text)) and
                found.group(2) == found.group(3) and int(found.group(1)) > 1)
        top.press("\x1b[B" * 5)  # not beyond it
        top.press("\x1b[1~")
        top.see("line 1", first_line(1))
        top.press("q")
        assert top.end() == 0
        bus.stop()


def fits_any_terminal_and_follows_its_size():
    with Chain() as bus, Terminal(bus) as top:
        top.see("the chain", has_chain)
        for rows, columns in ((24, 80), (60, 200), (8, 30), (2, 10), (1, 1), (30, 60), (40, 120)):
            top.resize(rows, columns)
            if columns >= 30:
                text = top.see(f"{rows}x{columns}", lambda text: text.startswith("bus ") and
                               re.search(r"(?m)^MEMBER +.*STATUS", text) and "q quit" in text.splitlines()[-1] and text)
                if columns in (60, 120):
                    assert re.search(r"(?m)^trader +(trader +)?(alive|stalled)", text), text
                assert ("PID" in text) == (columns >= 80), text
                assert ("CORE" in text) == (columns >= 60), text
            else:
                top.read(0.2)
            assert top.process.poll() is None
        top.see("all again", has_chain)
        os.kill(top.process.pid, signal.SIGTERM)
        assert top.end() == 0
        bus.stop()


def colours_only_where_there_are_some():
    with Chain() as bus:
        def seen(**environment):
            with Terminal(bus, **environment) as top:
                top.see("the chain", lambda text: re.search(r"(?m)^trader +trader +alive +run", text))
                colours = {character.fg for line in top.screen.buffer.values() for character in line.values()}
                top.press("q")
                assert top.end() == 0
                return colours, top.raw
        assert "green" in seen()[0]
        assert seen(NO_COLOR="1")[0] == {"default"}
        colours, raw = seen(TERM="vt100")
        assert colours == {"default"} and not re.search(rb"\x1b\[[0-9;]*3[0-7]m", raw)
        with Terminal(bus, TERM="no-such-terminal") as top:
            assert top.end() == 1 and "set TERM, or take --once or --json" in " ".join(top.text().split()), top.text()
        bus.stop()


def a_member_that_dies_is_shown():
    slow = test_busctl.CHAIN.replace("restart_backoff_ms = 20",
                                     "restart_backoff_ms = 3600000\nrestart_backoff_ms_max = 3600000")
    with Bus(make=False) as bus:
        supervisor = bus.up(slow)
        with Terminal(bus) as top:
            top.see("the chain", has_chain)
            os.kill(bus.info()["infer"]["pid"], signal.SIGKILL)
            top.see("infer is dead", lambda text: re.search(r"(?m)^infer +infer +dead +run", text) and
                    re.search(r"[0-3] of 4 members alive", text))
            row = next(y for y, line in enumerate(top.screen.display) if line.startswith("infer "))
            at = top.screen.display[row].index("dead")
            assert top.screen.buffer[row][at].fg == "red" and top.screen.buffer[row][at].bold
            # The feed cannot pass on what nobody reads: the ring fills, and says so.
            top.see("the ring is full", lambda text: re.search(r"(?m)^feed/features .* 100\.00 +16384 ", text))
            top.press("q")
            assert top.end() == 0
        supervisor.send_signal(signal.SIGINT)
        finish(supervisor, 1)
        with Terminal(bus) as top:
            top.see("all dead", lambda text: " 0 of 4 members alive" in text)
            test_busctl.busctl("destroy", "--bus", bus.directory)
            assert top.end() == 1  # the bus is gone
            assert "no bus there" in " ".join(top.text().split()), top.text()


def never_writes_to_the_bus():
    """Its mappings and descriptors are for reading; and where nobody else writes, no byte and no time changes."""
    with Chain() as bus:
        with Terminal(bus) as top:
            top.see("the chain", has_chain)
            with open(f"/proc/{top.process.pid}/maps") as file:
                mappings = [line.split() for line in file if bus.directory in line]
            assert len({mapping[5] for mapping in mappings}) == 4, mappings
            assert all(mapping[1][:2] == "r-" and mapping[1][2] == "-" for mapping in mappings), mappings
            for fd in os.listdir(f"/proc/{top.process.pid}/fd"):
                if os.readlink(f"/proc/{top.process.pid}/fd/{fd}").startswith(bus.directory):
                    with open(f"/proc/{top.process.pid}/fdinfo/{fd}") as file:
                        flags = int(re.search(r"flags:\s+(\d+)", file.read()).group(1), 8)
                    assert flags & os.O_ACCMODE == os.O_RDONLY, (fd, oct(flags))
            top.press("q")
            assert top.end() == 0
        bus.stop()

        def state():
            entries = {}
            for name in sorted(os.listdir(bus.directory)):
                path = os.path.join(bus.directory, name)
                status = os.stat(path)
                with open(path, "rb") as file:
                    entries[name] = (hashlib.sha256(file.read()).hexdigest(), status.st_mtime_ns, status.st_ctime_ns,
                                     status.st_size, status.st_ino)
            return entries, os.stat(bus.directory).st_mtime_ns
        before = state()
        with Terminal(bus) as top:
            top.see("all dead", lambda text: " 0 of 4 members alive" in text)
            for key in "stph?p":
                top.press(key)
            top.see("some views", lambda text: "s sort: rate" in text)
            top.press("q")
            assert top.end() == 0
        test_busctl.busctl("top", "--once", "--interval-ms", "10", "--bus", bus.directory)
        test_busctl.busctl("top", "--count", "3", "--json", "--interval-ms", "10", "--bus", bus.directory)
        assert state() == before


def count_ends_it_on_a_terminal_too():
    with Bus() as bus, Terminal(bus, arguments=("--count", "2")) as top:
        assert top.end() == 0
    with Bus() as bus, Terminal(bus, arguments=("--once",)) as top:
        assert top.end() == 0 and b"\x1b" not in top.raw, top.raw


TESTS = [shows_a_running_bus_and_ends_on_q, keys_sort_pause_switch_and_help, scrolls_in_a_small_window,
         fits_any_terminal_and_follows_its_size, colours_only_where_there_are_some,
         a_member_that_dies_is_shown, never_writes_to_the_bus, count_ends_it_on_a_terminal_too]


if __name__ == "__main__":
    tap.main(TESTS, sys.argv[3:])
