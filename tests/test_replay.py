#!/usr/bin/env python3
"""bus-replay over captures, as an operator uses it.

usage: test_replay.py BUILD_DIRECTORY [TEST..]

Prints TAP. Needs the standard library only; what needs numpy or zstd(1) is skipped without them, aloud.
"""
import csv
import fcntl
import io
import json
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile

import tap
from tap import Skip

BUILD = os.path.abspath(sys.argv[1])
REPLAY = os.path.join(BUILD, "tools", "bus-replay")
MAKE = os.path.join(BUILD, "tests", "make_capture")
OK, FAILED, USAGE, GAPS, CORRUPT = range(5)
BEGIN_NS, STEP_NS = 10**12, 10**6


class Place:
    """A directory of a test's own."""

    def __enter__(self):
        self.root = tempfile.mkdtemp(prefix="signalbus-replay-", dir="/dev/shm")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root)

    def path(self, *parts):
        return os.path.join(self.root, *parts)

    def make(self, name="capture", features=1000, block=4096, segment=0, gap=0, score=0.25, other=False):
        arguments = [self.path(name), features, block, segment, gap, score] + ["other"] * other
        subprocess.run([MAKE, *map(str, arguments)], check=True)
        return self.path(name)


def replay(*arguments, status=OK, **options):
    options = {"capture_output": True, "text": True, **options}
    done = subprocess.run([REPLAY, *map(str, arguments)], timeout=240, **options)
    assert done.returncode == status, \
        f"{arguments}: exit {done.returncode}, expected {status}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def read_json(*arguments, status=OK):
    return json.loads(replay(*arguments, "--json", status=status)[0])


def records(capture, status=OK):
    return {stream["name"]: stream["records"] for stream in read_json("info", capture, status=status)["streams"]}


def flip(path, offset, mask=1):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def info_tells_streams_and_gaps():
    with Place() as place:
        info = read_json("info", place.make(segment=40960))
        assert info["damage"] == [] and info["first_time_ns"] == BEGIN_NS
        streams = {stream["name"]: stream for stream in info["streams"]}
        assert list(streams) == ["feed.features", "infer.signals", "raw.data", "record.gaps"]
        features = streams["feed.features"]
        assert (features["records"], features["first_position"], features["last_position"]) == (1000, 0, 999)
        assert features["meta"]["symbols"][0]["name"] == "BTCUSDT" and len(features["segments"]) > 1
        assert features["instance"] == "18000000000000000001"
        out, _ = replay("info", place.path("capture"))
        assert "2023-11-14T22:30:00.000000000Z" in out and "BTCUSDT ETHUSDT" in out
        gaps = read_json("info", place.make("gaps", gap=500), status=GAPS)
        assert [stream["lost"] for stream in gaps["streams"]] == [10, 10, 1, 1]
        one = os.path.join(place.path("capture"), "infer.signals.000000.npy")
        assert [*records(one)] == ["infer.signals"]


def usage_and_absence_are_told():
    with Place() as place:
        assert "no verb 'nonsense'" in replay("nonsense", status=USAGE)[1]
        replay(status=USAGE)
        for verb in "info verify recover cut merge diff hash export".split():
            assert "Usage: bus-replay " + verb in replay(verb, "--help")[0]
            assert "see: bus-replay " + verb in replay(verb, status=USAGE)[1]
        assert "no capture there" in replay("info", place.path("absent"), status=FAILED)[1]
        assert "no segment of a capture" in replay("verify", place.root, status=FAILED)[1]
        capture = place.make()
        for arguments, text in [(("--from", "yesterday"), "use seq:N"), (("--stream", "nope"), "no stream 'nope'"),
                                (("--symbol", "NOPE"), "no stream of features has that symbol")]:
            assert text in replay("hash", *arguments, capture, status=FAILED)[1], text
        assert "not empty" in replay("cut", capture, capture, status=FAILED)[1]
        assert "no record lies in that part" in replay("cut", "--from", "+1h", capture, place.path("n"), status=FAILED)[1]


def damage_is_named_and_never_a_success():
    with Place() as place:
        capture = place.make()
        segment = os.path.join(capture, "feed.features.000000.npy")
        flip(segment, 4096 + 2 * 4096 + 1000)
        found = read_json("verify", capture, status=CORRUPT)
        assert found["blocks_damaged"] == 1 and found["damage_count"] == 1, found
        assert found["damage"][0]["path"] == segment and found["damage"][0]["block"] == 2
        assert found["damage"][0]["offset_bytes"] == 4096 + 2 * 4096 and "CRC" in found["damage"][0]["what"]
        _, errors = replay("verify", capture, status=CORRUPT)
        assert f"damaged: {segment}: block 2, byte 12288: CRC-32C" in errors and "bus-replay recover" in errors
        replay("hash", capture, status=CORRUPT)
        replay("diff", capture, capture, status=CORRUPT)
        replay("merge", capture, place.path("merged"), status=CORRUPT)
        replay("cut", capture, place.path("cut"), status=CORRUPT)
        replay("export", "--format", "csv", capture, place.path("csv"), status=CORRUPT)
        replay("recover", capture, place.path("saved"), status=CORRUPT)
        assert read_json("verify", place.path("saved"), status=GAPS)["lost"] == 31
        # What only the header of a block says is seen by info too.
        flip(segment, 4096 + 5 * 4096)
        replay("info", capture, status=CORRUPT)


def the_program_exits_4_at_any_truncation_and_flip():
    """Spot checks through the program of what test_capture_check does everywhere."""
    with Place() as place:
        capture = place.make(features=100)
        segment = os.path.join(capture, "infer.signals.000000.npy")
        with open(segment, "rb") as file:
            whole = file.read()
        for size in [0, 1, 100, 4095, 4096, 4097, 8191, 8192, 8200, 12287, len(whole) - 1]:
            with open(segment, "wb") as file:
                file.write(whole[:size])
            for verb in (["info"], ["verify"], ["hash"]):
                replay(*verb, capture, status=CORRUPT)
            replay("recover", capture, place.path(f"r{size}"), status=CORRUPT)
            saved = records(place.path(f"r{size}"))
            assert saved.get("infer.signals", 0) == min(100, max(0, size // 4096 - 2) * 63)
            assert saved["feed.features"] == 100
        for offset in [0, 9, 100, 1500, 4095, 4096, 4100, 4120, 4150, 8192, 8200, 9000, 12288 + 64 * 20]:
            with open(segment, "wb") as file:
                file.write(whole)
            flip(segment, offset, 4)
            replay("verify", capture, status=CORRUPT)


def recover_saves_what_lies_before_and_behind():
    with Place() as place:
        capture = place.make()
        segment = os.path.join(capture, "feed.features.000000.npy")
        for offset in (50, 4096 + 70, 4096 + 10 * 4096 + 99):  # the file's header, the description, a block
            flip(segment, offset)
        out, errors = replay("recover", capture, place.path("saved"), status=CORRUPT)
        assert "2 blocks are damaged" in out and errors.count("damaged:") == 3, (out, errors)
        saved = records(place.path("saved"), status=GAPS)
        assert saved == {"feed.features": 969, "infer.signals": 1000, "raw.data": 100, "record.gaps": 100}, saved
        verified = read_json("verify", place.path("saved"), status=GAPS)
        assert verified["lost"] == 31 and verified["damage"] == []
        assert [*records(capture, status=CORRUPT)] == [*saved]  # the source is as it was


def recover_finishes_unfinished_segments():
    with Place() as place:
        capture = place.make(features=100)
        segment = os.path.join(capture, "feed.features.000000.npy")
        blocks = (os.path.getsize(segment) - 4096) // 4096
        with open(segment, "r+b") as file:
            header = file.read(4096)
            longer = header.replace(b"'shape': (%d,)" % blocks, b"'shape': (%d,)" % 1000).rstrip(b"\n ")
            file.seek(0)
            file.write(longer.ljust(4095) + b"\n")
            file.truncate(4096 * 1001)
        assert read_json("verify", capture)["segments_unfinished"] == 1
        replay("recover", capture, place.path("saved"))
        assert read_json("verify", place.path("saved"))["segments_unfinished"] == 0
        replay("diff", "--exact", capture, place.path("saved"))


def a_full_disk_leaves_nothing_that_looks_whole():
    """A limit of the file's size stands for a disk that is full."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))

    with Place() as place:
        capture = place.make()
        for verb in (["recover"], ["cut"], ["merge"]):
            new = place.path(verb[0])
            _, errors = replay(*verb, capture, new, status=FAILED, preexec_fn=limit, restore_signals=False)
            assert "cannot be written" in errors and new in errors, errors
            assert all(name.endswith(".partial") for name in os.listdir(new) if name.startswith("feed")), os.listdir(new)
        replay("export", "--format", "csv", capture, place.path("csv"), status=FAILED, preexec_fn=limit,
               restore_signals=False)


def cuts_tile_and_merge_back():
    with Place() as place:
        capture = place.make(segment=40960)
        for number, point in enumerate(["+0.5s", "-0.3s", "seq:333", str(BEGIN_NS + 5 * STEP_NS),
                                        "2023-11-14T22:30:00.25Z"]):
            low, high, whole = (place.path(f"{name}{number}") for name in ("low", "high", "whole"))
            replay("cut", "--until", point, capture, low)
            replay("cut", "--from", point, capture, high)
            replay("merge", high, low, whole)
            replay("diff", "--exact", capture, whole)
            assert read_json("verify", whole)["records"] == 2200
            assert replay("hash", "--exact", capture)[0] == replay("hash", "--exact", whole)[0]


def cut_by_symbol_makes_no_gaps():
    with Place() as place:
        capture = place.make()
        replay("cut", "--symbol", "ETHUSDT", capture, place.path("eth"))
        assert records(place.path("eth")) == {"feed.features": 500, "infer.signals": 500, "raw.data": 100,
                                              "record.gaps": 100}
        assert read_json("verify", place.path("eth"))["lost"] == 0
        assert "only a part: symbols ETHUSDT" in replay("info", place.path("eth"))[0]
        replay("cut", "--stream", "signals", "--symbol", "BTCUSDT", "--until", "seq:10", capture, place.path("few"))
        assert records(place.path("few")) == {"infer.signals": 5}


def merge_names_contradictions():
    with Place() as place:
        first, second = place.make("a"), place.make("b", score=0.5)
        out, errors = replay("merge", first, second, place.path("ab"), status=CORRUPT)
        assert "2200 records" in out and "2200 were there twice, 1000 contradict" in out, out
        assert "contradiction: infer.signals, position 0" in errors
        replay("diff", "--exact", first, place.path("ab"))
        # One fills the gap of the other.
        gap = place.make("gap", gap=500)
        replay("merge", gap, first, place.path("filled"))
        replay("diff", "--exact", first, place.path("filled"))


def diff_shows_the_first_record_that_differs():
    with Place() as place:
        first, second, other = place.make("a"), place.make("b", score=0.5), place.make("c", other=True)
        found = read_json("diff", first, second, status=GAPS)
        signals = [stream for stream in found["streams"] if stream["name"] == "infer.signals"][0]
        assert not found["equal"] and signals["result"] == "different" and signals["position"] == 0
        assert signals["fields"] == [{"field": "score[2]", "first": "0.25", "second": "0.5"}], signals
        assert read_json("diff", first, other)["equal"]
        out, _ = replay("diff", "--exact", first, other, status=GAPS)
        assert "queue_ns" in out and "engine" in out and "batch" in out, out
        gap = place.make("gap", gap=7)
        out, _ = replay("diff", first, gap, status=GAPS)
        assert "feed.features: other positions, 7 equal records, then position 7 against position 17" in out, out
        shorter = place.make("shorter", features=500)
        assert "position 500 against the end" in replay("diff", first, shorter, status=GAPS)[0]
        replay("cut", "--stream", "features", first, place.path("part"))
        assert "only in the first" in replay("diff", first, place.path("part"), status=GAPS)[0]
        assert "only in the second" in replay("diff", place.path("part"), first, status=GAPS)[0]


def hash_does_not_depend_on_how_it_was_recorded():
    with Place() as place:
        hashes = [read_json("hash", capture) for capture in
                  (place.make("a"), place.make("b", block=65536), place.make("c", segment=20480, other=True))]
        assert len({found["xxh3_128"] for found in hashes}) == 1, hashes
        assert read_json("hash", place.make("d", score=0.5))["xxh3_128"] != hashes[0]["xxh3_128"]
        exact = [read_json("hash", "--exact", place.path(name))["xxh3_128"] for name in "abc"]
        assert exact[0] == exact[1] != exact[2]
        assert read_json("hash", "--no-time", place.path("a"))["xxh3_128"] != hashes[0]["xxh3_128"]


def csv_has_decimal_prices():
    with Place() as place:
        capture = place.make(features=20)
        replay("export", "--format", "csv", capture, place.path("csv"))
        with open(place.path("csv", "feed.features.csv"), newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 20 and rows[0]["bid_price"] == "60000.00" and rows[1]["ask_price"] == "6000.011"
        assert rows[0]["bid_size"] == "1.500" and rows[1]["symbol_name"] == "ETHUSDT" and rows[3]["x_2"] == "3.25"
        assert int(rows[7]["replay_time_ns"]) == BEGIN_NS + 7 * STEP_NS
        out, _ = replay("export", "--format", "csv", "--raw", "--stream", "signals", capture, "-")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert len(rows) == 20 and rows[1]["target_price"] == "6000011" and rows[1]["symbol_name"] == "ETHUSDT"
        replay("export", "--format", "csv", capture, "-", status=FAILED)
        replay("export", "--format", "xls", capture, place.path("xls"), status=USAGE)
        with open("/dev/full", "w") as full:
            replay("export", "--format", "csv", "--stream", "signals", capture, "-", status=FAILED,
                   capture_output=False, stdout=full, stderr=subprocess.DEVNULL)


def python_with_numpy():
    """This interpreter, or the system's: python3-numpy is for that one."""
    for python in (sys.executable, "/usr/bin/python3"):
        if subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode == 0:
            return python
    raise Skip("numpy is not installed (python3-numpy): the bytes were checked, not numpy.load")


def npy_is_a_plain_array():
    with Place() as place:
        capture = place.make(features=50)
        replay("export", "--format", "npy", capture, place.path("npy"))
        path = place.path("npy", "infer.signals.npy")
        with open(path, "rb") as file:
            header, data = file.read(2048), file.read()
        assert header[:8] == b"\x93NUMPY\x01\x00" and struct.unpack("<H", header[8:10])[0] == 2038
        assert b"'shape': (50,)" in header and len(data) == 50 * 64
        assert struct.unpack_from("<Q", data, 64 + 56)[0] == 2
        check = ("import numpy, sys\n"
                 "signals, features = (numpy.load(path) for path in sys.argv[1:])\n"
                 "assert signals['score'].shape == (50, 3)\n"
                 "assert (signals['feature_position'] == numpy.arange(50)).all()\n"
                 "assert features['bid_price'][0] == 6000000\n")
        subprocess.run([python_with_numpy(), "-c", check, path, place.path("npy", "feed.features.npy")], check=True)


def other_formats_need_the_package():
    with Place() as place:
        capture = place.make(features=5)
        environment = dict(os.environ, SIGNAL_BUS_PYTHON="/bin/false")
        _, errors = replay("export", "--format", "parquet", capture, place.path("p"), status=FAILED, env=environment)
        assert "pip install" in errors and "SIGNAL_BUS_PYTHON" in errors
        # A stand-in shows what would be run.
        stand_in = place.path("python")
        with open(stand_in, "w") as file:
            file.write('#!/bin/sh\n[ "$1" = -c ] && exit 0\nprintf "%s|" "$@"\n')
        os.chmod(stand_in, 0o755)
        environment["SIGNAL_BUS_PYTHON"] = stand_in
        out, _ = replay("export", "--format", "mcap", "--from", "+1s", "--stream", "signals", capture, "new",
                        env=environment)
        assert out == f"-m|signalbus.export|--format|mcap|--from|+1s|--stream|signals|{capture}|new|", out


def compress(path):
    """As the recorder compresses: a frame for the header and for each block."""
    if not shutil.which("zstd"):
        raise Skip("zstd(1) is not installed")
    with open(path, "rb") as file, open(path + ".zst", "wb") as out:
        while part := file.read(4096):
            out.write(subprocess.run(["zstd", "-q", "-c"], input=part, capture_output=True, check=True).stdout)
    os.unlink(path)
    return path + ".zst"


def compressed_segments_are_read():
    with Place() as place:
        capture = place.make(features=200)
        before = replay("hash", "--exact", capture)[0]
        features = compress(os.path.join(capture, "feed.features.000000.npy"))
        assert replay("hash", "--exact", capture)[0] == before
        verified = read_json("verify", capture)
        assert verified["records"] == 440 and verified["damage"] == []
        whole = open(features, "rb").read()
        for size in range(0, len(whole), 97):
            with open(features, "wb") as file:
                file.write(whole[:size])
            replay("verify", capture, status=CORRUPT)
        missed = 0
        for offset in range(0, len(whole), 41):
            with open(features, "wb") as file:
                file.write(whole)
            flip(features, offset, 16)
            done = subprocess.run([REPLAY, "hash", "--exact", capture], capture_output=True, text=True)
            # A flip that decompresses to the same bytes (a bit that zstd does not use) is no damage.
            missed += done.returncode != CORRUPT and done.stdout != before
        assert missed == 0


def a_terminal_gets_a_progress_bar():
    with Place() as place:
        capture = place.make(features=20000)
        ours, theirs = pty.openpty()
        fcntl.fcntl(ours, fcntl.F_SETFL, os.O_NONBLOCK)
        replay("verify", capture, capture_output=False, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        os.close(ours)  # short work shows nothing; that it does not fail on a terminal is what is tested


TESTS = [info_tells_streams_and_gaps, usage_and_absence_are_told, damage_is_named_and_never_a_success,
         the_program_exits_4_at_any_truncation_and_flip, recover_saves_what_lies_before_and_behind,
         recover_finishes_unfinished_segments,
         a_full_disk_leaves_nothing_that_looks_whole, cuts_tile_and_merge_back, cut_by_symbol_makes_no_gaps,
         merge_names_contradictions, diff_shows_the_first_record_that_differs,
         hash_does_not_depend_on_how_it_was_recorded, csv_has_decimal_prices, npy_is_a_plain_array,
         other_formats_need_the_package, compressed_segments_are_read, a_terminal_gets_a_progress_bar]


if __name__ == "__main__":
    tap.main(TESTS, sys.argv[2:])
