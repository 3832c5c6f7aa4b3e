#!/usr/bin/env python3
"""bus-replay play, stats and verify --infer with the real programs around them.

usage: test_replay_play.py BUILD_DIRECTORY SOURCE_DIRECTORY DATA_DIRECTORY [TEST..]

Prints TAP. A synthetic market is the input: its features are written by bus-feed, the reference signals come from
bus-infer with bus-feed in front of it. No test depends on how fast the machine is.
"""
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree

import tap
from end_to_end import (BUILD, FEED, MODEL, SIGNAL, TRADER, WAIT_S, Bus, engine_runs, finish, read_signals, stop)

REPLAY = os.path.join(BUILD, "tools", "bus-replay")
PACK = os.path.join(BUILD, "tests", "pack_capture")
MARKET = ["--synthetic", "--seed", "5", "--messages", "4000", "--interval-us", "100", "--symbols", "1"]
ROUNDS = 10
FEATURE_BYTES = 128
GAPS, CORRUPT, LOST = 3, 4, 5


class Material:
    """A capture of a few thousand features and their signals, made once."""
    made = None

    def __init__(self):
        self.holder = tempfile.TemporaryDirectory(prefix="signalbus-play-")
        self.features = self.path("features")
        self.signals = self.path("signals")
        subprocess.run([FEED, *MARKET, "--output", self.features], check=True, capture_output=True)
        self.capture = self.pack("features-only", self.features)
        self.reference = self.live()
        signals, status = chain(self.capture, "--max", output=self.signals)
        assert status == 0 and signals == self.reference
        self.both = self.pack("both", self.features, self.signals)
        self.count = os.path.getsize(self.features) // FEATURE_BYTES
        assert len(self.reference) == self.count > 3900
        assert [s[0] for s in self.reference] == list(range(self.count))

    @staticmethod
    def live():
        """The signals with bus-feed in front of bus-infer."""
        with Bus() as bus:
            infer = bus.infer()
            bus.wait_running("infer")
            watcher = watch(bus, bus.path(".live"))
            finish(bus.start(FEED, *MARKET, "--speed", "max"))
            finish(watcher)
            stop(infer)
            return read_signals(bus.path(".live"))

    def path(self, name):
        return os.path.join(self.holder.name, name)

    def pack(self, name, *files):
        subprocess.run([PACK, self.path(name), *files], check=True)
        return self.path(name)

    def part(self, name, begin, end):
        """A capture of the features begin..end-1 alone."""
        with open(self.features, "rb") as file:
            data = file.read()
        with open(self.path(name + ".bin"), "wb") as file:
            file.write(data[begin * FEATURE_BYTES:end * FEATURE_BYTES])
        return self.pack(name, self.path(name + ".bin"))


def material():
    if Material.made is None:
        Material.made = Material()
    return Material.made


def replay(bus, *arguments, **options):
    return subprocess.Popen([REPLAY, "play", "--bus", bus.directory, *map(str, arguments)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def watch(bus, output):
    return bus.start(TRADER, "--table", "never", "--feed", "feed", "--from-oldest", "--observe-only", "--output",
                     output)


def chain(capture, *arguments, output=None, disturb=None, infer_arguments=()):
    """capture -> bus-replay -> bus-infer -> an observer; the canonical signals and play's exit status."""
    with Bus() as bus:
        output = output or bus.path(".signals")
        processes = {"infer": bus.infer(*infer_arguments)}
        bus.wait_running("infer")
        watcher = watch(bus, output)
        play = replay(bus, "--stream", "feed.features", *arguments, capture)
        bus.processes.append(play)
        if disturb:
            disturb(bus, play, processes)
        out, err = play.communicate(timeout=WAIT_S)
        assert play.returncode in (0, GAPS), (play.returncode, out, err)
        finish(watcher)
        stop(processes["infer"])
        return read_signals(output), play.returncode


def equal_signals(got, reference):
    assert len(got) == len(reference), (len(got), len(reference))
    for one, other in zip(got, reference):
        assert one == other, (one, other)


def hash_of(have, signals, *arguments):
    """The canonical hashes of a capture of these signals, as bus-replay hash has them."""
    with tempfile.TemporaryDirectory() as directory:
        capture = os.path.join(directory, "capture")
        subprocess.run([PACK, capture, have.features, signals], check=True)
        done = subprocess.run([REPLAY, "hash", "--json", *arguments, capture], capture_output=True, text=True,
                              timeout=WAIT_S)
    assert done.returncode == 0, done
    return [(stream["name"], stream["xxh3_128"]) for stream in json.loads(done.stdout)["streams"]]


def test_same_signals_at_every_pace():
    have = material()
    short = have.part("short", 0, 1000)
    output = have.path("pace")
    hashes = {}
    for number in range(ROUNDS):
        for arguments, capture in ((["--speed", 1], have.capture), (["--speed", 10], have.capture), (["--max"], have.capture),
                                   (["--lockstep"], short), (["--max", "--shift-now"], short)):
            signals, status = chain(capture, *arguments, output=output)
            assert status == 0
            equal_signals(signals, have.reference[:len(signals)])
            assert len(signals) == (1000 if capture == short else have.count), (number, arguments, len(signals))
            hashes.setdefault(capture, set()).add(str(hash_of(have, output, "--no-time")))
            if "--shift-now" not in arguments:
                hashes.setdefault(capture + " with times", set()).add(str(hash_of(have, output)))
    assert len(hashes) == 4 and all(len(seen) == 1 for seen in hashes.values()), hashes


def stop_at_random(seed):
    choose = random.Random(seed)

    def disturb(_, play, processes):
        victims = [play, processes["infer"]]
        for _ in range(12):
            victim = choose.choice(victims)
            if play.poll() is not None:
                return
            victim.send_signal(signal.SIGSTOP)
            time.sleep(choose.uniform(0.0005, 0.02))
            victim.send_signal(signal.SIGCONT)
            time.sleep(choose.uniform(0.0005, 0.01))

    return disturb


def test_same_signals_with_stops_at_random():
    have = material()
    for number in range(ROUNDS):
        pace = (["--speed", 0.3], ["--speed", 1], ["--lockstep"])[number % 3]
        signals, _ = chain(have.capture, *pace, disturb=stop_at_random(number))
        equal_signals(signals, have.reference)


def test_a_killed_consumer_loses_nothing():
    have = material()
    kills = 0

    def disturb(bus, play, processes):
        nonlocal kills
        choose = random.Random(3)
        for _ in range(8):
            time.sleep(choose.uniform(0.005, 0.04))
            if play.poll() is not None:
                return
            processes["infer"].kill()
            processes["infer"].wait()
            time.sleep(choose.uniform(0, 0.02))
            processes["infer"] = bus.infer()
            kills += 1

    signals, _ = chain(have.capture, "--speed", 0.2, disturb=disturb)
    equal_signals(signals, have.reference)
    assert kills > 2, kills


def test_a_consumer_that_does_not_come_back_has_its_own_status():
    have = material()
    with Bus() as bus:
        play = replay(bus, "--max", "--consumer-timeout", 0.3, have.capture)
        _, err = finish(play, LOST)
        assert "'infer' is not on the bus" in err, err
        infer = bus.infer()
        bus.wait_running("infer")
        play = replay(bus, "--speed", 0.02, "--consumer-timeout", 0.3, "--json", have.capture)
        bus.wait_running("feed")
        time.sleep(0.1)
        infer.kill()
        infer.wait()
        out, err = finish(play, LOST)
        assert "'infer' is dead" in err, err
        assert json.loads(out)["lost_consumer"] is True, out


def test_play_waits_for_a_consumer_that_comes_late():
    have = material()
    with Bus() as bus:
        play = replay(bus, "--max", have.capture)
        time.sleep(1.3)
        assert play.poll() is None
        output = bus.path(".signals")
        infer = bus.infer()
        bus.wait_running("infer")
        watcher = watch(bus, output)
        _, err = finish(play)
        assert "waiting for consumer 'infer'" in err, err
        finish(watcher)
        stop(infer)
        equal_signals(read_signals(output), have.reference)


def read_ring(path, ring):
    """The records that a member's ring holds, oldest first, by the layout in shm/ABI.md."""
    with open(path, "rb") as file:
        image = file.read()
    for i in range(struct.unpack_from("<I", image, 120)[0]):
        at = 512 + i * 128
        kind, _, size = struct.unpack_from("<III", image, at + 80)
        if kind != 1 or image[at:at + 32].split(b"\0")[0].decode() != ring:
            continue
        depth, offset = struct.unpack_from("<QQ", image, at + 96)
        slots = [image[offset + 256 + j * size:offset + 256 + (j + 1) * size] for j in range(depth)]
        records = [(struct.unpack_from("<Q", slot, size - 8)[0], slot) for slot in slots]
        first = struct.unpack_from("<Q", image, offset + 16)[0]
        return [slot for stamp, slot in sorted(records) if first < stamp < 1 << 63]
    raise AssertionError(f"{path} has no ring {ring}")


def read_boards(path):
    """{(board, symbol): feature position} of what a member's boards show."""
    with open(path, "rb") as file:
        image = file.read()
    result = {}
    for i in range(struct.unpack_from("<I", image, 120)[0]):
        at = 512 + i * 128
        if struct.unpack_from("<I", image, at + 80)[0] != 5:
            continue
        depth, offset = struct.unpack_from("<QQ", image, at + 96)
        for symbol in range(depth):
            fields = SIGNAL.unpack_from(image, offset + symbol * SIGNAL.size)
            if fields[-1]:
                result[image[at:at + 32].split(b"\0")[0].decode(), symbol] = fields[1]
    return result


def run(bus, *arguments, status=0, **options):
    return finish(replay(bus, *arguments, **options), status)


def test_a_seek_begins_at_its_position_and_shows_what_was_known():
    have = material()
    with Bus() as bus:
        out, _ = run(bus, "--max", "--consumer", "none", "--from", "seq:1000", "--until", "seq:1100", "--json",
                     have.both)
        result = json.loads(out)
        assert result["records"] == 200 and result["retained"] == 1, result
        features = read_ring(bus.path("feed"), "features")
        with open(have.features, "rb") as file:
            file.seek(1000 * FEATURE_BYTES)
            assert b"".join(features) == file.read(100 * FEATURE_BYTES)
        assert read_boards(bus.path("infer")) == {("feed", 0): 1099}
        run(bus, "--max", "--consumer", "none", "--from", "seq:1000", "--stream", "infer.signals", "--symbol",
            "BTCUSDT", "--until", "seq:1000", have.both)
        assert read_boards(bus.path("infer")) == {("feed", 0): 999}, read_boards(bus.path("infer"))


def test_names_and_streams():
    have = material()
    with Bus() as bus:
        run(bus, "--max", "--consumer", "none", "--as", "feed=old-feed", "--stream", "feed.features", have.both)
        assert sorted(n for n in os.listdir(bus.directory) if not n.startswith(".")) == ["old-feed"]
        _, err = run(bus, "--as", "nobody=x", have.both, status=1)
        assert "nobody" in err, err
        infer = bus.infer()
        bus.wait_running("infer")
        _, err = run(bus, "--max", have.both, status=1)
        assert "--as infer=NAME" in err and str(infer.pid) in err, err
        stop(infer)
        for wrong in (["--speed", "0"], ["--speed", "nan"], ["--max", "--step"], ["--as", "x"], ["--loop", "-1"],
                      ["--consumer", "x"], ["--consumer-timeout", "-1"], ["--from", "yesterday"], []):
            status = 1 if wrong[:1] == ["--from"] else 2
            run(bus, *wrong, *([have.both] if wrong else []), status=status)
        _, err = run(bus, have.path("none"), status=1)
        assert "none" in err, err


def test_loops_go_on_in_the_ring():
    have = material()
    short = have.part("loop", 0, 50)
    with Bus() as bus:
        out, _ = run(bus, "--max", "--consumer", "none", "--loop", 3, short)
        assert out.startswith("150 records") and "3 passes" in out, out
        records = read_ring(bus.path("feed"), "features")
        assert len(records) == 150
        bare = [record[:-8] for record in records]
        assert bare[:50] == bare[50:100] == bare[100:]
        assert [struct.unpack("<Q", r[-8:])[0] for r in records] == list(range(1, 151))
        endless = replay(bus, "--max", "--consumer", "none", "--loop", 0, short)
        time.sleep(0.3)
        endless.send_signal(signal.SIGINT)
        out, _ = finish(endless)
        assert "stopped" in out, out


def test_shift_moves_by_one_constant():
    have = material()
    short = have.part("shifted", 0, 100)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    with Bus() as bus:
        run(bus, "--max", "--consumer", "none", "--shift-now", short)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        records = read_ring(bus.path("feed"), "features")
    with open(have.features, "rb") as file:
        recorded = [file.read(FEATURE_BYTES) for _ in range(100)]
    moved = {struct.unpack_from("<Q", one)[0] - struct.unpack_from("<Q", other)[0]
             for one, other in zip(records, recorded)}
    assert len(moved) == 1, moved
    assert before <= struct.unpack_from("<Q", records[0])[0] <= after
    assert [r[8:] for r in records] == [r[8:] for r in recorded]


def test_steps():
    have = material()
    with Bus() as bus:
        play = replay(bus, "--step", "--consumer", "none", have.both, stdin=subprocess.PIPE)
        out, err = play.communicate("\n3\nnonsense\n2\nq\n", timeout=WAIT_S)
        assert play.returncode == 0 and "nonsense" in err, err
        lines = out.splitlines()
        assert len(lines) == 7 and lines[0].startswith("feed.features 0 "), lines
        assert lines[-1].startswith("6 records"), lines
        play = replay(bus, "--step", "--consumer", "none", have.both, stdin=subprocess.PIPE)
        out, _ = play.communicate("5\n", timeout=WAIT_S)  # the end of the input ends it
        assert play.returncode == 0 and out.splitlines()[-1].startswith("5 records"), out


def test_lockstep_keeps_one_record_on_the_way():
    have = material()
    short = have.part("lockstep", 0, 300)
    with Bus() as bus:
        infer = bus.infer()
        bus.wait_running("infer")
        play = replay(bus, "--lockstep", short)
        bus.wait_running("feed")
        infer.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        first = len(read_ring(bus.path("feed"), "features"))
        time.sleep(0.2)
        assert len(read_ring(bus.path("feed"), "features")) == first
        infer.send_signal(signal.SIGCONT)
        finish(play)
        stop(infer)
        assert bus.counters("feed")["records"] == 300


def test_gaps_are_named_and_have_their_own_status():
    have = material()
    with open(have.features, "rb") as file:
        data = file.read()
    with open(have.path("gap.bin"), "wb") as file:
        file.write(data[:500 * FEATURE_BYTES] + data[520 * FEATURE_BYTES:600 * FEATURE_BYTES])
    capture = have.pack("gap", have.path("gap.bin"))
    signals, status = chain(capture, "--max")
    assert status == GAPS and len(signals) == 580
    with Bus() as bus:
        out, err = run(bus, "--max", "--consumer", "none", "--loop", 2, capture, status=GAPS)
        assert "lacks records 500..519 (20)" in err and "1, in which 20" in out, (out, err)
        assert bus.counters("feed")["gap_records"] == 20


def test_damage_is_named_and_the_rest_is_played():
    have = material()
    capture = have.part("damaged", 0, 2000)
    name = os.path.join(capture, os.listdir(capture)[0])
    with open(name, "r+b") as file:
        file.seek(4096 + 2 * 65536 + 500)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    with Bus() as bus:
        out, err = run(bus, "--max", "--consumer", "none", "--json", capture, status=CORRUPT)
        result = json.loads(out)
        assert result["damaged_blocks"] == 1 and 1000 < result["records"] < 2000, result
        assert name in err, err


def test_ctrl_c_leaves_in_order():
    have = material()
    with Bus() as bus:
        infer = bus.infer()
        bus.wait_running("infer")
        for arguments in (["--speed", 0.01], ["--step"], ["--speed", 0.01, "--consumer", "none"]):
            play = replay(bus, *arguments, "--stream", "feed.features", have.capture, stdin=subprocess.PIPE)
            bus.wait_running("feed")
            time.sleep(0.1)
            play.send_signal(signal.SIGINT)
            out, err = play.communicate(timeout=WAIT_S)
            assert play.returncode == 0 and "stopped" in out, (out, err)
            with open(bus.path("feed"), "rb") as file:
                assert file.read(512)[256] == 3, "not HALT"
            os.unlink(bus.path("feed"))
        stop(infer)


def test_timestamps_ahead_of_this_machine_keep_no_batch_waiting():
    """Features of a machine that has run for longer: in lockstep the batch would never fill."""
    have = material()
    with open(have.features, "rb") as file:
        assert struct.unpack("<Q", file.read(8))[0] > time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    short = have.part("ahead", 0, 50)
    signals, status = chain(short, "--lockstep", infer_arguments=("--batch-wait-us", 1000))
    assert status == 0
    equal_signals(signals, have.reference[:50])


def test_a_replay_of_a_replay_is_the_same():
    have = material()
    again = []
    for name, capture in (("first", have.capture), ("second", None)):
        if capture is None:
            capture = have.pack("again", have.features, again[0][1])
        output = have.path("again-" + name)
        signals, _ = chain(capture, "--speed", 10, output=output)
        again.append((signals, output))
    equal_signals(again[1][0], again[0][0])
    assert hash_of(have, again[0][1]) == hash_of(have, again[1][1])


def verify(*arguments, status=0):
    done = subprocess.run([REPLAY, "verify", *map(str, arguments)], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == status, done
    return done.stdout, done.stderr


def test_verify_proves_signals_bit_for_bit():
    have = material()
    for engine in ("auto", "scalar", "avx2", "avx512"):
        if engine != "auto" and not engine_runs(engine):
            print(f"# skipped {engine}: this CPU does not have it")
            continue
        out, _ = verify("--infer", MODEL, "--engine", engine, "--json", have.both)
        proof = json.loads(out)["infer"]
        assert proof["signals"] == have.count and proof["different"] == proof["unfounded"] == 0, proof
    _, err = verify("--infer", MODEL, have.capture, status=1)
    assert "no signals" in err, err
    _, err = verify("--engine", "scalar", have.both, status=2)
    _, err = verify("--infer", MODEL, "--engine", "quantum", have.both, status=1)
    assert "quantum" in err, err


def changed_signals(have, name, change):
    with open(have.signals, "rb") as file:
        data = bytearray(file.read())
    change(data)
    with open(have.path(name + ".bin"), "wb") as file:
        file.write(data)
    return have.pack(name, have.features, have.path(name + ".bin"))


def test_verify_names_the_first_signal_that_differs():
    have = material()
    for field, offset in (("target_price", 16), ("score[0]", 24), ("score[2]", 32), ("symbol", 48), ("direction", 52),
                          ("confidence", 53), ("flags", 55), ("timestamp_ns", 0)):
        def change(data, offset=offset):
            for position in (1234, 2345):
                data[position * 64 + offset] ^= 1

        out, _ = verify("--infer", MODEL, changed_signals(have, f"changed-{offset}", change), status=1)
        first = [line for line in out.splitlines() if line.startswith("first:")][0]
        assert "position 1234," in first and field + " recorded" in first, (field, out)
        assert "2 different" in out, out

    def other_latencies(data):
        for position in range(0, have.count, 3):
            struct.pack_into("<IIH", data, position * 64 + 36, 123456, 789, 3)
            data[position * 64 + 55] ^= 4
            data[position * 64 + 54] = 2

    verify("--infer", MODEL, changed_signals(have, "latencies", other_latencies))


def test_verify_refuses_another_model_and_counts_what_it_cannot_prove():
    have = material()

    def other_model(data):
        for position in range(have.count):
            data[position * 64 + 50] ^= 1

    _, err = verify("--infer", MODEL, changed_signals(have, "model", other_model), status=1)
    assert "was made by model" in err, err
    with open(have.features, "rb") as file:
        data = file.read()
    with open(have.path("holes.bin"), "wb") as file:
        file.write(data[100 * FEATURE_BYTES:1000 * FEATURE_BYTES] + data[1010 * FEATURE_BYTES:])
    with open(have.signals, "rb") as file:
        signals = file.read()
    with open(have.path("fewer.bin"), "wb") as file:
        file.write(signals[:2000 * 64] + signals[2005 * 64:])
    out, _ = verify("--infer", MODEL, "--json", have.pack("holes", have.path("holes.bin"), have.path("fewer.bin")),
                    status=GAPS)
    proof = json.loads(out)["infer"]
    assert proof["unfounded"] == 110 and proof["unanswered"] == 5 and proof["different"] == 0, proof
    assert proof["signals"] == have.count - 115, proof


def stats(*arguments, status=0):
    done = subprocess.run([REPLAY, "stats", *map(str, arguments)], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == status, done
    return done.stdout


def nearest_rank(values, quantile):
    values = sorted(values)
    return values[max(0, -(-int(quantile * 1000) * len(values) // 1000) - 1)]


def test_stats_are_those_of_the_records():
    have = material()
    with open(have.signals, "rb") as file:
        signals = list(SIGNAL.iter_unpack(file.read()))
    picture = have.path("stats.svg")
    report = json.loads(stats("--json", "--svg", picture, have.both))
    by_name = {stream["name"]: stream for stream in report["streams"]}
    assert by_name["feed.features"]["records"] == by_name["infer.signals"]["records"] == have.count
    with open(have.features, "rb") as file:
        data = file.read()
    times = [struct.unpack_from("<Q", data, at)[0] for at in range(0, len(data), FEATURE_BYTES)]
    for name, key, values in (("feed.features", "interval_ns", [b - a for a, b in zip(times, times[1:])]),
                              ("infer.signals", "queue_ns", [s[6] for s in signals]),
                              ("infer.signals", "inference_ns", [s[7] for s in signals]),
                              ("infer.signals", "total_ns", [s[6] + s[7] for s in signals])):
        got = by_name[name][key]
        assert got["max"] == max(values) and got["count"] == len(values), (key, got, max(values))
        for point, quantile in (("p50", 0.5), ("p99", 0.99)):
            expected = nearest_rank(values, quantile)
            assert expected <= got[point] <= expected * 1.02 + 1, (key, point, got, expected)
    rate = (len(times) - 1) / ((times[-1] - times[0]) / 1e9)
    assert abs(by_name["feed.features"]["records_per_second"] - rate) < rate * 1e-6, (rate, by_name)
    root = xml.etree.ElementTree.parse(picture).getroot()
    text = "".join(root.itertext())
    assert "infer.signals: receipt to signal" in text and "records/s" in text, text
    out = stats(have.both)
    assert "receipt to signal" in out and "busiest second" in out, out
    assert json.loads(stats("--json", "--stream", "feed.features", "--until", "seq:100", have.both))["streams"][0][
        "records"] == 100


def test_stats_find_gaps():
    have = material()
    with open(have.features, "rb") as file:
        data = file.read()
    with open(have.path("gaps.bin"), "wb") as file:
        file.write(b"".join(data[begin * FEATURE_BYTES:end * FEATURE_BYTES]
                            for begin, end in ((0, 500), (520, 600), (601, 1000))))
    capture = have.pack("gaps", have.path("gaps.bin"))
    picture = have.path("gaps.svg")
    report = json.loads(stats("--json", "--svg", picture, capture, status=GAPS))
    assert [(gap["first"], gap["last"]) for gap in report["gaps"]] == [(500, 519), (600, 600)], report
    assert report["streams"][0]["lost"] == 21 and report["streams"][0]["gaps"] == 2, report
    assert "missing records" in "".join(xml.etree.ElementTree.parse(picture).getroot().itertext())
    out = stats(capture, status=GAPS)
    assert "feed.features 500..519" in out and "21 records are missing" in out, out


def test_progress_on_a_terminal():
    have = material()
    master, slave = os.openpty()
    with Bus() as bus:
        play = subprocess.Popen([REPLAY, "play", "--bus", bus.directory, "--speed", "0.1", "--consumer", "none",
                                 have.capture], stdout=subprocess.PIPE, stderr=slave, text=True)
        os.close(slave)
        seen = []

        def read():
            try:
                while data := os.read(master, 4096):
                    seen.append(data)
            except OSError:
                pass

        reader = threading.Thread(target=read)
        reader.start()
        out, _ = play.communicate(timeout=WAIT_S)
        reader.join()
        os.close(master)
        text = b"".join(seen).decode()
        assert "ETA" in text and "records/s" in text and "late p50" in text, (text, out)
        assert text.endswith("\r\x1b[K"), repr(text[-80:])
        assert "lateness: p50" in out, out


if __name__ == "__main__":
    tap.main(tap.named(globals()), sys.argv[4:])
