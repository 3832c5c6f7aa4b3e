#!/usr/bin/env python3
"""bus-record over a real bus: what is on disk is what was on the bus, whatever happens to the recorder.

usage: test_record.py BUILD_DIRECTORY SOURCE_DIRECTORY DATA_DIRECTORY [TEST..]

Prints TAP. Needs the standard library only. Captures are read here by their description in
consumers/capture_format.h, not by the project's code. No test depends on how fast the machine is.
"""
import glob
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

import tap
from tap import Skip

BUILD, SOURCE, DATA = (os.path.abspath(path) for path in sys.argv[1:4])
FEED = os.path.join(BUILD, "producers", "bus-feed")
INFER = os.path.join(BUILD, "consumers", "bus-infer")
RECORD = os.path.join(BUILD, "consumers", "bus-record")
MODEL = os.path.join(SOURCE, "kernels", "models", "default.model")
SPOT = os.path.join(DATA, "binance", "spot_btcusdt_20240808.gz")
WAIT_S = 240
COUNTER, RING = 3, 1
INSTANCE = 136  # in a member's header
HEADER = struct.Struct("<IIIIQQQQIIQ")
GAP = struct.Struct("<QQQQIB19xQ")
TABLE = []


def crc32c(data):
    if not TABLE:
        for byte in range(256):
            for _ in range(8):
                byte = byte >> 1 ^ (0x82f63b78 if byte & 1 else 0)
            TABLE.append(byte)
    crc = 0xffffffff
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def fnv1a(text):
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return value & 0xffffffff


class Stream:
    """All segments of one recorded ring, checked."""

    def __init__(self, output, name, check_crc=True):
        self.records, self.lost, self.metas, self.blocks, self.files = {}, 0, [], 0, []
        self.order = []
        for path in sorted(glob.glob(os.path.join(output, name + ".[0-9]*.npy*"))):
            self._read(path, fnv1a(name), check_crc)

    def _read(self, path, stream, check_crc):
        if path.endswith(".zst"):
            data = subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout
        else:
            with open(path, "rb") as file:
                data = file.read()
        assert data[:10] == b"\x93NUMPY\x01\x00\xf6\x0f" and data[4095:4096] == b"\n", path
        text = data[10:4096].decode()
        blocks = int(re.search(r"'shape': \((\d+),\)", text).group(1))
        assert (len(data) - 4096) % max(blocks, 1) == 0, (path, len(data), blocks)
        size = (len(data) - 4096) // blocks
        self.files.append((path, blocks, size))
        for number in range(blocks):
            self._block(path, data[4096 + number * size:4096 + (number + 1) * size], number, stream,
                        check_crc and self.blocks % 16 < 2)

    def _block(self, path, block, number, stream, check_crc):
        magic, crc, kind, count, first, last, _, _, at, of, lost = HEADER.unpack_from(block)
        assert (magic, at, of) == (0x314b4253, number, stream), (path, number, hex(magic), at, hex(of))
        record = 0 if kind == 2 else int(self.metas[-1]["record_size"])
        payload = count if kind == 2 else count * record
        assert not any(block[64 + payload:]), (path, number, "tail")
        if check_crc:
            assert crc == crc32c(block[8:64 + payload]), (path, number, "CRC")
        self.blocks += 1
        if kind == 2:
            self.metas.append(json.loads(block[64:64 + count]))
            return
        assert kind == 1 and count > 0 and number > 0
        self.lost += lost
        before = None
        for i in range(count):
            data = block[64 + i * record:64 + (i + 1) * record]
            position = struct.unpack_from("<Q", data, record - 8)[0] - 1
            assert before is None or position > before, (path, number, i)
            before = position
            if i == 0:
                assert position == first
            self.order.append(position)
            self.records[(self.metas[-1]["instance"], position)] = data
        assert before == last

    def positions(self):
        return self.order


class Bus:
    """A bus directory of its own, with processes that never outlive it."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="signalbus-record-", dir="/dev/shm")
        self.output = tempfile.mkdtemp(prefix="signalbus-record-")
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory)
        shutil.rmtree(self.output, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, program, *arguments):
        process = subprocess.Popen([program, "--bus", self.directory, *map(str, arguments)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def record(self, *arguments, block=4096, output=None):
        process = self.start(RECORD, "--output", output or self.output, "--block-size", block, "--small-pages",
                             *arguments)
        self.wait_running("record", process)
        return process

    def feed(self, *arguments):
        return self.start(FEED, "--synthetic", "--symbols", 2, *arguments)

    def entries(self, member):
        with open(self.path(member), "rb") as file:
            image = file.read()
        for i in range(struct.unpack_from("<I", image, 120)[0]):
            entry = image[512 + i * 128:640 + i * 128]
            yield image, entry, entry[:32].split(b"\0")[0].decode(), struct.unpack_from("<I", entry, 80)[0]

    def counters(self, member):
        return {name: struct.unpack_from("<Q", image, struct.unpack_from("<Q", entry, 104)[0])[0]
                for image, entry, name, kind in self.entries(member) if kind == COUNTER}

    def ring(self, member, ring):
        """What every slot of a ring holds, by position: an observer's view of it."""
        for image, entry, name, kind in self.entries(member):
            if kind == RING and name == ring:
                size = struct.unpack_from("<I", entry, 88)[0]
                depth, offset = struct.unpack_from("<QQ", entry, 96)
                slots = (image[offset + 256 + i * size:offset + 256 + (i + 1) * size] for i in range(depth))
                found = {struct.unpack_from("<Q", slot, size - 8)[0] - 1: slot for slot in slots}
                return {position: slot for position, slot in found.items() if 0 <= position < 1 << 62}
        raise AssertionError(f"{member} has no ring {ring}")

    def wait_running(self, member, process):
        pid = process.pid
        self.wait(lambda: self._runs(member, pid) or process.poll() is not None, f"{member} to run")
        if process.poll() is not None:
            raise AssertionError(f"{member} ended with {process.returncode}: {process.communicate()}")

    def _runs(self, member, pid):
        try:
            with open(self.path(member), "rb") as file:
                header = file.read(512)
        except FileNotFoundError:
            return False
        return (len(header) == 512 and header[:8] == b"SIGBUS01" and header[256] == 2 and
                struct.unpack_from("<I", header, 160)[0] == pid)

    @staticmethod
    def wait(condition, what):
        until = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"waited in vain for {what}")
            time.sleep(0.005)


def finish(process, status=0):
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == status, f"exit {process.returncode}, expected {status}\n{out}\n{err}"
    return out, err


def stop(process, status=0):
    process.send_signal(signal.SIGTERM)
    return finish(process, status)


def kill(process):
    process.kill()
    process.communicate()


def expect_all(stream, count):
    assert stream.order == list(range(count)), (len(stream.order), count, stream.order[:3], stream.order[-3:])
    assert stream.lost == 0, stream.lost


def test_what_an_observer_sees_is_what_is_on_disk():
    if not os.path.exists(SPOT):
        raise Skip(f"no recorded capture at {SPOT}")
    with Bus() as bus:
        record = bus.record(block=1 << 20)
        infer = bus.start(INFER, "--model", MODEL, "--ring-depth", 65536)
        bus.wait_running("infer", infer)
        feed = bus.start(FEED, "--capture", SPOT, "--market", "spot", "--speed", "max", "--ring-depth", 65536)
        finish(feed)
        features = bus.ring("feed", "features")
        bus.wait(lambda: len(bus.ring("infer", "signals")) == len(features), "the signals")
        stop(infer)
        stop(record)
        counters = bus.counters("record")
        for name, member, ring in (("feed.features", "feed", "features"), ("infer.signals", "infer", "signals")):
            stream, seen = Stream(bus.output, name), bus.ring(member, ring)
            expect_all(stream, len(seen))
            assert len(seen) > 40000
            for (_, position), data in stream.records.items():
                assert data == seen[position], position
            assert stream.metas[-1]["member"] == member and stream.metas[-1]["ring"] == ring
        assert Stream(bus.output, "infer.signals").metas[-1]["inputs"] == [{"member": "feed", "ring": "features"}]
        assert counters["records"] == counters["records_written"] == 2 * len(features)
        assert counters["records_lost"] == counters["positions_missing"] == counters["write_errors"] == 0
        if "jemalloc" in subprocess.run(["ldd", RECORD], capture_output=True, text=True).stdout:
            assert counters["allocated_bytes"] == 0, counters["allocated_bytes"]


def test_kills_of_the_recorder_lose_nothing():
    for how in ("uring", "pwrite"):
        with Bus() as bus:
            chance = random.Random(how)
            options = ("--io", how, "--flush", 0.01, "--segment-bytes", 4096 * 12, "--staging-blocks", 32)
            record = bus.record(*options)
            feed = bus.feed("--policy", "overwrite", "--ring-depth", 262144, "--interval-us", 40, "--messages", 60000)
            kills = 0
            while feed.poll() is None:
                time.sleep(chance.random() * 0.06)
                kill(record)
                kills += 1
                record = bus.record(*options)
            finish(feed)
            count = len(bus.ring("feed", "features"))
            stop(record)
            stream = Stream(bus.output, "feed.features")
            print(f"# {how}: {kills} kills, {count} records, {len(stream.files)} segments")
            assert kills > 5 and count > 20000
            expect_all(stream, count)
            seen = bus.ring("feed", "features")
            for (_, position), data in stream.records.items():
                assert data == seen[position], position


def test_a_stopped_recorder_misses_exactly_what_it_says():
    with Bus() as bus:
        record = bus.record()
        feed = bus.feed("--policy", "overwrite", "--ring-depth", 256, "--interval-us", 50, "--messages", 40000)
        bus.wait(lambda: os.path.exists(bus.path("feed")) and bus.counters("record")["records"] > 500, "records")
        for _ in range(5):
            record.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            record.send_signal(signal.SIGCONT)
            time.sleep(0.1)
        finish(feed)
        newest = max(bus.ring("feed", "features"))
        stop(record, 3)
        stream, gaps = Stream(bus.output, "feed.features"), Stream(bus.output, "record.gaps")
        counters = bus.counters("record")
        assert stream.order[-1] == newest and len(stream.order) == len(set(stream.order))
        noted = []
        for data in gaps.records.values():
            _, first, last, _, of, cause, _ = GAP.unpack(data)
            assert (of, cause) == (fnv1a("feed.features"), 1)
            noted += range(first, last + 1)
        # Recorded and noted together: each position once, from where the recording began.
        assert sorted(noted + stream.order) == list(range(min(noted + stream.order), newest + 1))
        assert len(noted) > 100 and stream.lost == len(noted), (stream.lost, len(noted))
        assert counters["records_lost"] == counters["positions_missing"] == len(noted)
        assert counters["gaps"] == len(gaps.records)


def test_positions_of_the_time_between_two_recorders_are_counted():
    with Bus() as bus:
        record = bus.record()
        feed = bus.feed("--policy", "overwrite", "--ring-depth", 1024, "--interval-us", 100, "--messages", 20000)
        bus.wait(lambda: bus.counters("record")["records"] > 100, "records")
        record.send_signal(signal.SIGTERM)
        record.communicate()
        assert record.returncode in (0, 3)
        finish(feed)
        newest = max(bus.ring("feed", "features"))
        stop(bus.record(), 3)
        stream, gaps = Stream(bus.output, "feed.features"), Stream(bus.output, "record.gaps")
        assert len(stream.files) == 2 and stream.order[-1] == newest
        missing = newest + 1 - stream.order[0] - len(stream.order)
        assert stream.lost >= missing > 0
        last = GAP.unpack(list(gaps.records.values())[-1])
        assert last[5] == 5 and 0 < last[2] - last[1] + 1 <= stream.lost, last


def test_a_gap_that_a_killed_recorder_noted_is_not_noted_again():
    with Bus() as bus:
        record = bus.record()
        feed = bus.feed("--policy", "overwrite", "--ring-depth", 4096, "--interval-us", 100, "--messages", 20000)
        bus.wait(lambda: bus.counters("record")["records"] > 100, "records")
        feed.send_signal(signal.SIGSTOP)
        bus.wait(lambda: bus.counters("record")["records"] == max(bus.ring("feed", "features")) + 1, "the rest")
        kill(record)
        next_position = max(bus.ring("feed", "features")) + 1
        feed.send_signal(signal.SIGCONT)
        finish(feed)
        newest = max(bus.ring("feed", "features"))
        # As if it had been killed between the gap and the record behind it.
        with open(bus.path("feed"), "rb") as file:
            instance = struct.unpack_from("<Q", file.read(512), INSTANCE)[0]
        with open(bus.path("record"), "r+b") as file:
            offset = next(struct.unpack_from("<Q", entry, 104)[0] for _, entry, name, kind in bus.entries("record")
                          if (name, kind) == ("gaps", RING))
            file.seek(offset + 256)
            file.write(GAP.pack(1, next_position, next_position + 9, instance, fnv1a("feed.features"), 1, 1))
        stop(bus.record(), 3)
        stream, gaps = Stream(bus.output, "feed.features"), Stream(bus.output, "record.gaps")
        noted = [GAP.unpack(data)[1:3] for data in gaps.records.values()]
        assert len(noted) == 2 and noted[0] == (next_position, next_position + 9), noted
        assert noted[1][0] == next_position + 10 and noted[1][1] + 1 in stream.order, noted
        assert stream.lost == noted[1][1] - noted[0][0] + 1 and stream.order[-1] == newest


def mount_small(path, kilobytes):
    if os.geteuid() != 0:
        raise Skip("needs root to mount a small file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path]).returncode != 0:
        raise Skip("this system does not let a small file system be mounted")


def enlarge(path):
    subprocess.run(["mount", "-o", "remount,size=65536k", path], check=True)


def test_a_full_disk_ends_the_recorder_and_loses_nothing():
    with Bus() as bus:
        small = os.path.join(bus.output, "small")
        os.mkdir(small)
        mount_small(small, 512)
        try:
            options = ("--segment-bytes", 4096 * 40, "--staging-blocks", 64)
            record = bus.record(*options, output=small)
            feed = bus.feed("--policy", "overwrite", "--ring-depth", 65536, "--interval-us", 20, "--messages", 20000)
            _, err = finish(record, 4)
            assert "No space left" in err and "stay staged" in err, err
            finish(feed)
            whole = Stream(small, "feed.features")  # every file is closed, every block whole
            assert whole.order == list(range(len(whole.order))) and len(whole.order) > 500
            other = bus.start(RECORD, "--output", small, "--block-size", 8192)
            _, err = finish(other, 1)
            assert "wait in its staging" in err, err
            enlarge(small)
            stop(bus.record(*options, output=small))
            expect_all(Stream(small, "feed.features"), len(bus.ring("feed", "features")))
        finally:
            subprocess.run(["umount", small], check=True)


def test_a_full_disk_is_waited_for():
    with Bus() as bus:
        small = os.path.join(bus.output, "small")
        os.mkdir(small)
        mount_small(small, 512)
        try:
            record = bus.record("--on-full", "wait", "--staging-blocks", 8, output=small)
            feed = bus.feed("--policy", "overwrite", "--ring-depth", 1024, "--interval-us", 20, "--messages", 20000)
            finish(feed)
            newest = max(bus.ring("feed", "features"))
            bus.wait(lambda: bus.counters("record")["staging_full"] > 0, "the staging to fill up")
            enlarge(small)
            bus.wait(lambda: bus.counters("record")["records_lost"] > 0 and
                     bus.counters("record")["records"] - bus.counters("record")["records_written"] < 63 + 31,
                     "the rest to be written")
            _, err = stop(record, 3)
            assert "not writing" in err and "writing again" in err, err
            stream, gaps = Stream(small, "feed.features"), Stream(small, "record.gaps")
            assert stream.order[-1] == newest
            causes = {GAP.unpack(data)[5] for data in gaps.records.values()}
            assert causes <= {1, 2} and 2 in causes, causes
            noted = sum(GAP.unpack(data)[2] - GAP.unpack(data)[1] + 1 for data in gaps.records.values()
                        if GAP.unpack(data)[4] == fnv1a("feed.features"))
            assert noted == stream.lost >= newest + 1 - stream.order[0] - len(stream.order) > 0, (noted, stream.lost)
        finally:
            subprocess.run(["umount", small], check=True)


def test_segments_end_by_size_and_are_compressed():
    if not shutil.which("zstd"):
        raise Skip("needs zstd")
    with Bus() as bus:
        record = bus.record("--segment-bytes", 4096 * 11, "--zstd", 3, "--ring", "feed.features")
        finish(bus.feed("--policy", "overwrite", "--ring-depth", 16384, "--interval-us", 20, "--messages", 5000))
        count = len(bus.ring("feed", "features"))
        stop(record)
        stream = Stream(bus.output, "feed.features")
        expect_all(stream, count)
        assert len(stream.files) > 10
        for path, blocks, size in stream.files:
            assert path.endswith(".zst") and blocks <= 10 and size == 4096, (path, blocks, size)
            listed = subprocess.run(["zstd", "-lv", path], capture_output=True, text=True).stdout
            assert re.search(rf"Frames: {blocks + 1}\b", listed), listed
        assert not glob.glob(os.path.join(bus.output, "*.part"))
        counters = bus.counters("record")
        assert counters["segments_compressed"] == counters["segments_closed"] >= len(stream.files)


def test_segments_end_by_age():
    with Bus() as bus:
        record = bus.record("--segment-seconds", 0.2, block=65536)
        finish(bus.feed("--policy", "overwrite", "--ring-depth", 16384, "--interval-us", 2000, "--messages", 6000))
        count = len(bus.ring("feed", "features"))
        stop(record)
        stream = Stream(bus.output, "feed.features")
        expect_all(stream, count)
        assert len(stream.files) >= 3, stream.files


def test_a_blocking_recorder_loses_nothing():
    with Bus() as bus:
        chance = random.Random(8)
        options = ("--loss", "block", "--ring", "feed.features", "--staging-blocks", 8)
        record = bus.record(*options)
        feed = bus.feed("--consumer", "record", "--ring-depth", 64, "--interval-us", 20, "--messages", 30000)
        bus.wait(lambda: bus.counters("record")["records"] > 100, "records")
        for i in range(12):
            time.sleep(chance.random() * 0.1)
            if i % 3 == 0:
                record.send_signal(signal.SIGSTOP)
                time.sleep(0.2)
                record.send_signal(signal.SIGCONT)
            else:
                kill(record)
                record = bus.record(*options)
        finish(feed)
        newest = max(bus.ring("feed", "features"))
        stop(record)
        expect_all(Stream(bus.output, "feed.features"), newest + 1)


def test_a_replaced_member_goes_on_in_a_new_segment():
    with Bus() as bus:
        record = bus.record("--ring", "feed.features")
        counts = []
        for seed in (1, 2):
            finish(bus.feed("--policy", "overwrite", "--ring-depth", 16384, "--interval-us", 10, "--messages", 1000,
                            "--seed", seed))
            counts.append(len(bus.ring("feed", "features")))
            # A file that is replaced within the 20 ms between two looks is never seen.
            bus.wait(lambda: bus.counters("record")["records"] == sum(counts), "the records")
        bus.wait(lambda: bus.counters("record")["segments_closed"] >= 1, "the first segment to be closed")
        stop(record)
        stream = Stream(bus.output, "feed.features")
        assert stream.order == [*range(counts[0]), *range(counts[1])] and stream.lost == 0
        assert len(stream.files) == 2 and len({meta["instance"] for meta in stream.metas}) == 2


def test_refusals_are_named():
    with Bus() as bus:
        for arguments, status, text in (
                (("--block-size", 5000), 2, "multiple of 4096"),
                (("--ring", "feed"), 2, "MEMBER.RING"),
                (("--loss", "block"), 2, "--ring"),
                (("--zstd", 77), 2, "zstd level"),
                (("--output", "/proc/nowhere"), 1, "/proc/nowhere"),
                (("--output", os.path.join(bus.directory, "record")), 1, "not a directory"),
                (("--on-full", "panic"), 2, "exit or wait")):
            with open(bus.path("record"), "w"):
                pass
            _, err = finish(bus.start(RECORD, *arguments), status)
            assert err.startswith("bus-record: ") and text in err, err
            os.unlink(bus.path("record"))
        feed = bus.feed("--consumer", "infer", "--messages", 100)
        finish(feed)
        _, err = finish(bus.start(RECORD, "--output", bus.output, "--loss", "block", "--ring", "feed.features"), 1)
        assert "--consumer record" in err, err


if __name__ == "__main__":
    tap.main(tap.named(globals()), sys.argv[4:])
