#!/usr/bin/env python3
"""The circle: recorded, replayed, and recorded from the replay, a market is the same market.

usage: test_circle.py BUILD_DIRECTORY SOURCE_DIRECTORY DATA_DIRECTORY [TEST..]

Prints TAP. Needs the standard library only. No test depends on how fast the machine is.
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tap
from test_record import BUILD, FEED, INFER, MODEL, RECORD, SPOT, WAIT_S, Bus, Skip, Stream, finish, kill, stop

REPLAY = os.path.join(BUILD, "tools", "bus-replay")
SYNTHETIC = ("--synthetic", "--symbols", 2, "--seed", 11)


def replay(*arguments, status=0):
    done = subprocess.run([REPLAY, *map(str, arguments)], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == status, done
    return done.stdout


def hashes(capture):
    return {stream["name"]: stream["xxh3_128"] for stream in json.loads(replay("hash", "--json", capture))["streams"]}


class Chain:
    """A source of features, bus-infer and bus-record on a bus of their own; `capture` is what was recorded."""

    def __init__(self, bus, capture):
        self.bus, self.capture = bus, capture
        os.makedirs(capture, exist_ok=True)
        self.infer = bus.start(INFER, "--model", MODEL, "--ring-depth", 131072)
        bus.wait_running("infer", self.infer)
        self.start_recorder()

    def start_recorder(self):
        self.record = self.bus.record("--flush", 0.01, block=65536, output=self.capture)

    def feed(self, *arguments):
        self.run(self.bus.start(FEED, "--ring-depth", 65536, *arguments))

    def play(self, *arguments, disturb=None):
        play = subprocess.Popen([REPLAY, "play", "--bus", self.bus.directory, *map(str, arguments)],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.bus.processes.append(play)
        self.run(play, disturb)

    def run(self, source, disturb=None):
        """Waits for the source, and for all that it published to be recorded; then ends the others."""
        if disturb:
            disturb(self, source)
        finish(source)
        features = max(self.bus.ring("feed", "features")) + 1
        self.bus.wait(lambda: len(self.bus.ring("infer", "signals")) == features, "the signals")
        stop(self.infer)
        stop(self.record)


def record_market(output, *arguments):
    with Bus() as bus:
        Chain(bus, output).feed(*arguments)


def record_replay(output, capture, *arguments, disturb=None):
    with Bus() as bus:
        chain = Chain(bus, output)
        chain.play("--stream", "feed.features", *arguments, capture, disturb=disturb)


def expect_equal(capture, other):
    assert hashes(capture) == hashes(other), (hashes(capture), hashes(other))
    replay("verify", other)
    told = replay("diff", capture, other)
    assert told.count(": equal, ") == 2, told


def prove(capture):
    replay("verify", capture)
    proof = json.loads(replay("verify", "--infer", MODEL, "--json", capture))["infer"]
    assert proof["different"] == 0 and proof["signals"] > 1000, proof


class Directory:
    """For captures."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="signalbus-circle-")
        return lambda name: os.path.join(self.path, name)

    def __exit__(self, *_):
        shutil.rmtree(self.path)


def test_a_recorded_market_is_the_same_at_every_pace():
    if not os.path.exists(SPOT):
        raise Skip(f"no recorded capture at {SPOT}")
    with Directory() as path:
        record_market(path("market"), "--capture", SPOT, "--market", "spot", "--speed", "max")
        prove(path("market"))
        assert set(hashes(path("market"))) == {"feed.features", "infer.signals"}
        for name, pace in (("ten", ("--speed", 10)), ("max", ("--max",)), ("lockstep", ("--lockstep",))):
            record_replay(path(name), path("market"), *pace)
            expect_equal(path("market"), path(name))
        prove(path("max"))
        record_replay(path("again"), path("ten"), "--max")  # a replay of the replay
        expect_equal(path("market"), path("again"))


def disturb_by_stops(seed):
    choose = random.Random(seed)

    def disturb(chain, source):
        while source.poll() is None:
            victim = choose.choice((source, chain.infer, chain.record))
            victim.send_signal(signal.SIGSTOP)
            time.sleep(choose.uniform(0.001, 0.04))
            victim.send_signal(signal.SIGCONT)
            time.sleep(choose.uniform(0.001, 0.02))

    return disturb


def disturb_by_kills(seed, killed):
    choose = random.Random(seed)

    def disturb(chain, source):
        while source.poll() is None:
            time.sleep(choose.uniform(0.01, 0.1))
            kill(chain.record)
            killed.append(seed)
            chain.start_recorder()

    return disturb


def test_stops_and_kills_do_not_show():
    with Directory() as path:
        record_market(path("market"), *SYNTHETIC, "--interval-us", 100, "--messages", 8000)
        prove(path("market"))
        for seed in range(3):
            record_replay(path(f"stops{seed}"), path("market"), *(("--lockstep",) if seed == 2 else ("--speed", 1)),
                          disturb=disturb_by_stops(seed))
            expect_equal(path("market"), path(f"stops{seed}"))
        killed = []
        for seed in range(3):
            record_replay(path(f"kills{seed}"), path("market"), "--speed", 0.5,
                          disturb=disturb_by_kills(seed, killed))
            expect_equal(path("market"), path(f"kills{seed}"))
        print(f"# {len(killed)} kills of the recorder")
        assert len(killed) >= 3, killed


def test_a_short_recording_knows_its_symbols():
    """They come to bus-infer with the feed, after its own description was first read."""
    with Directory() as path:
        record_market(path("market"), *SYNTHETIC, "--interval-us", 1, "--messages", 2000)
        for name in ("feed.features", "infer.signals"):
            meta = Stream(path("market"), name).metas[-1]
            assert len(meta["symbols"]) == 2 and meta["symbols"][0]["name"], (name, meta)
        assert Stream(path("market"), "infer.signals").metas[-1]["inputs"] == [{"member": "feed", "ring": "features"}]


def test_another_capture_of_a_bus_begins_at_the_beginning():
    with Directory() as path, Bus() as bus:
        finish(bus.feed("--policy", "overwrite", "--ring-depth", 4096, "--interval-us", 1, "--messages", 1000))
        count = len(bus.ring("feed", "features"))

        def record():
            return finish(bus.start(RECORD, "--output", path("capture"), "--small-pages", "--duration", 0.05))

        out, err = record()
        assert out.startswith(f"{count} records") and not err, (out, err)
        out, err = record()
        assert out.startswith("0 records") and "goes on where the recorder before this one stopped" in err, (out, err)
        shutil.move(path("capture"), path("first"))
        out, err = record()
        assert out.startswith(f"{count} records") and not err, (out, err)
        expect = Stream(path("first"), "feed.features").records
        assert Stream(path("capture"), "feed.features").records == expect and len(expect) == count
        out, err = finish(bus.start(RECORD, "--output", path("other"), "--small-pages", "--duration", 0.05))
        assert out.startswith(f"{count} records") and not err, (out, err)
        assert Stream(path("other"), "feed.features").records == expect


def test_an_empty_capture_has_a_reason():
    with Directory() as path, Bus() as bus:
        def record(*arguments):
            out, err = finish(bus.start(RECORD, "--output", path("capture"), "--small-pages", "--duration", 0.05,
                                        *arguments))
            assert out.startswith("0 records"), out
            return err

        assert "had no ring" in record() and bus.directory in record()
        assert "none of the rings that --ring names" in record("--ring", "feed.features")
        finish(bus.feed("--policy", "overwrite", "--messages", 100))
        assert "--from-now" in record("--from-now", "--name", "late")
        with open(bus.path("feed"), "r+b") as file:  # a file of a version that is to come
            file.seek(8)
            file.write(b"\x63")
        assert "'feed' is not recorded" in record("--name", "new")


if __name__ == "__main__":
    tap.main(tap.named(globals()), sys.argv[4:])
