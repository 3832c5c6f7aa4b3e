#!/usr/bin/env python3
"""bus-ask as a user runs it, against a bridge without servers (fake_bridge.c).

usage: test_ask.py BUILD_DIRECTORY SOURCE_DIRECTORY

Prints TAP.
"""
import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tap

BUILD = os.path.abspath(sys.argv[1])
STATUSES = {2: (3, "length"), 3: (4, "rejected-queue"), 4: (4, "rejected-deadline"), 5: (7, "expired"),
            6: (8, "cancelled"), 7: (4, "backend-down"), 8: (5, "upstream-4xx"), 9: (6, "upstream-5xx"),
            10: (3, "truncated"), 11: (5, "bad-request"), 12: (6, "bridge-restart")}


class Bus:
    def __init__(self, client="ask", *arguments):
        self.directory = tempfile.mkdtemp(prefix="signalbus-ask-", dir="/dev/shm")
        self.bridge = None
        self.arguments = (client, *arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.directory)

    def start(self):
        self.bridge = subprocess.Popen([os.path.join(BUILD, "tests", "fake_bridge"), self.directory, *self.arguments],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.bridge.stdout.readline() == "ready\n"

    def stop(self):
        if self.bridge:
            self.bridge.communicate()
            assert self.bridge.returncode == 0
            self.bridge = None

    def command(self, *arguments):
        return [os.path.join(BUILD, "consumers", "bus-ask"), "--bus", self.directory, *arguments]

    def ask(self, *arguments, status=0, text=None):
        done = subprocess.run(self.command(*arguments), input=text, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stdout, done.stderr


def test_prints_the_answer():
    with Bus() as bus:
        bus.start()
        assert bus.ask("--class", "echo", "is the answer whole?") == ("is the answer whole?\n", "")
        assert bus.ask("--class", "echo", "--no-stream", "x\n") == ("x\n", "")
        assert bus.ask("--class", "echo", "-", text="from standard input") == ("from standard input\n", "")
        words = "of some slots " * 5000
        assert bus.ask("--class", "echo", text=words) == (words + "\n", "")


def test_copes_with_pieces_that_do_not_fit():
    with Bus() as bus:
        bus.start()
        assert bus.ask("--class", "lossy", "all of it is there") == ("all of it is there\n", "")
        out, err = bus.ask("--class", "restart", "the second attempt")
        assert out == "this one fails\nthe second attempt\n" and "failed" in err, (out, err)


def test_says_how_it_ended():
    with Bus() as bus:
        bus.start()
        for number, (status, name) in STATUSES.items():
            out, err = bus.ask("--class", f"status-{number}", "x", status=status)
            assert f"bus-ask: {name} by fake, HTTP 418, again in 1500 ms" in err, err
            assert "because" in (out if number in (2, 5, 6, 10) else err), (out, err)


def test_writes_json():
    with Bus() as bus:
        bus.start()
        answer = json.loads(bus.ask("--class", "echo", "--json", "quo\"ted")[0])
        assert answer["status"] == "ok" and answer["text"] == "quo\"ted" and answer["backend"] == "fake", answer
        assert answer["prompt_tokens"] == 3 and answer["completion_tokens"] == 5 and answer["done_ms"] >= 0, answer
        answer = json.loads(bus.ask("--class", "embed", "--embedding", "--json", "x")[0])
        assert answer["embedding"] == [1, 2.5, -3], answer
        assert bus.ask("--class", "embed", "--embedding", "x")[0] == "1\n2.5\n-3\n"


def test_waits_for_a_bridge_that_comes_later():
    with Bus() as bus:
        asking = subprocess.Popen(bus.command("--class", "echo", "hello"), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        assert "waiting for the bridge" in asking.stderr.readline()
        bus.start()
        out, _ = asking.communicate(timeout=120)
        assert (asking.returncode, out) == (0, "hello\n"), (asking.returncode, out)


def test_gives_up_by_itself():
    with Bus() as bus:
        _, err = bus.ask("--class", "echo", "--deadline", "50", "x", status=7)
        assert "local-timeout" in err, err


def test_is_taken_back_by_a_signal():
    with Bus() as bus:
        bus.start()
        asking = subprocess.Popen(bus.command("--class", "silent", "hello"), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        while not os.path.exists(os.path.join(bus.directory, "ask")):
            assert asking.poll() is None
        while True:  # until the signal finds its handler there
            asking.send_signal(signal.SIGCONT)
            with open(f"/proc/{asking.pid}/status", encoding="utf-8") as file:
                caught = int(next(line for line in file if line.startswith("SigCgt")).split()[1], 16)
            if caught >> (signal.SIGINT - 1) & 1:
                break
        asking.send_signal(signal.SIGINT)
        _, err = asking.communicate(timeout=120)
        assert asking.returncode == 8 and "cancelled" in err, (asking.returncode, err)


def test_takes_another_size_of_slots():
    with Bus("me", "192") as bus:
        bus.start()
        assert bus.ask("--name", "me", "--record-bytes", "192", "--class", "echo", "w" * 500)[0] == "w" * 500 + "\n"


def replay(verb, *arguments):
    done = subprocess.run([os.path.join(BUILD, "tools", "bus-replay"), verb, *arguments], capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, (verb, done.returncode, done.stdout, done.stderr)
    return done.stdout


class Recorder:
    def __init__(self, bus, output):
        self.process = subprocess.Popen([os.path.join(BUILD, "consumers", "bus-record"), "--bus", bus, "--output", output,
                                         "--from-oldest", "--block-size", "65536"], stdout=subprocess.PIPE, text=True)

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        assert " 0 records missing" in self.process.communicate(timeout=120)[0]
        assert self.process.returncode == 0


def wait_until(condition):
    while not condition():
        time.sleep(0.01)


def test_what_was_said_is_recorded_and_replayed():
    prompt = 'is "a\\b" w\u00f6rth it? ' + "and more " * 3000
    with Bus() as bus, tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        capture, again, table = (os.path.join(place, name) for name in ("capture", "again", "table"))
        bus.start()
        bus.ask("--class", "echo", "--no-stream", prompt)
        bus.ask("--class", "embed", "--embedding", "x")
        recorder = Recorder(bus.directory, capture)
        wait_until(lambda: os.path.exists(os.path.join(capture, "bridge.replies.ask.000000.npy")))
        recorder.stop()
        assert "llm-reply of 16384 bytes, 3 records" in replay("info", capture)
        replay("verify", capture)
        replay("export", "--format", "csv", capture, table)
        with open(os.path.join(table, "ask.llm.requests.csv"), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class_name"] for row in rows] == ["echo", "echo", "embed"], rows
        assert "".join(row["text"] for row in rows[:2]) == prompt.replace("\\", "\\\\")
        assert rows[0]["text_bytes"] == str(len(prompt.encode())) and rows[2]["text"] == "x"
        with open(os.path.join(table, "bridge.replies.ask.csv"), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["backend"] for row in rows] == ["fake"] * 3 and rows[2]["text_bytes"] == "12"
        assert rows[2]["text"].encode().decode("unicode_escape").encode("latin1") == struct.pack("<3f", 1, 2.5, -3)

        lab = os.path.join(place, "lab")
        os.mkdir(lab)
        replay("play", "--bus", lab, "--max", "--consumer", "none", capture)
        recorder = Recorder(lab, again)
        wait_until(lambda: os.path.exists(os.path.join(again, "bridge.replies.ask.000000.npy")))
        recorder.stop()
        assert replay("hash", capture) == replay("hash", again)
        assert "different" not in replay("diff", capture, again)


def test_refuses_with_a_reason():
    with Bus() as bus:
        for arguments, words in ((("--deadline", "0", "x"), "--deadline"), (("--temperature", "-1", "x"), "0 or more"),
                                 (("a", "b"), "quote"), (("--name", "a" * 24, "x"), "1..23"),
                                 (("--class", "c" * 24, "x"), "class"), (("--nonsense",), "--help"),
                                 (("--record-bytes", "200", "x"), "multiple of 64")):
            _, err = bus.ask(*arguments, status=2)
            assert words in err, (arguments, err)
        _, err = bus.ask("--bus", "/nonexistent", "x", status=1)
        assert "/nonexistent" in err, err


if __name__ == "__main__":
    tap.main(tap.named(globals()), sys.argv[3:])
