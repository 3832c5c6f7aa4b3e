#!/usr/bin/env python3
"""Holds the reader that was written from shm/ABI.md (reader.py) against what the C side wrote.

usage: test_reader.py BUILD_DIRECTORY SOURCE_DIRECTORY [TEST..]

Prints TAP. Needs the standard library only, and no recorded data. No test depends on how fast the machine is.
"""
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback

from reader import Document, Histogram, Member, Observer, Overrun, Refused, ahead, fnv1a, layout_hash

BUILD, SOURCE = (os.path.abspath(path) for path in sys.argv[1:3])
PROGRAM = {"abi_member": os.path.join(BUILD, "tests", "abi_member"),
           "feed": os.path.join(BUILD, "producers", "bus-feed"),
           "infer": os.path.join(BUILD, "consumers", "bus-infer"),
           "trader": os.path.join(BUILD, "consumers", "bus-trader")}
MODEL = os.path.join(SOURCE, "kernels", "models", "default.model")
WAIT_S = 240
DEPTH = 256
MASK = (1 << 64) - 1
DOCUMENT = Document(os.path.join(SOURCE, "shm", "ABI.md"))


class Bus:
    """A bus directory of its own, with processes that never outlive it."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="signalbus-abi-", dir="/dev/shm")
        self.processes = []
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        shutil.rmtree(self.directory)

    def start(self, program, *arguments):
        process = subprocess.Popen([PROGRAM[program], *map(str, arguments)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def attach(self, name, **options):
        return Member(DOCUMENT, self.directory, name, **options)

    def wait_running(self, name):
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            try:
                member = self.attach(name, allow_dead=False)
                running = member.live()["state"] == DOCUMENT.value["BUS_STATE_RUN"]
                member.close()
                if running:
                    return
            except Refused as reason:
                assert reason.reason in ("absent", "not ready", "dead owner"), reason
            time.sleep(0.005)
        raise AssertionError(f"{name} is not running")


class Writer:
    """The C member that knows what it wrote."""

    def __init__(self, bus, name="writer", start=0):
        self.process = bus.start("abi_member", bus.directory, name, start)
        self.facts = []
        for line in iter(self.process.stdout.readline, "ready\n"):
            assert line, self.process.stderr.read()
            self.facts.append(line.split())

    def fact(self, *key):
        found = [words[len(key):] for words in self.facts if tuple(words[:len(key)]) == key]
        assert len(found) == 1, (key, found)
        return found[0]

    def send(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().rstrip("\n").partition(" ")[2]

    def ask(self, command):
        self.send(command)
        return self.answer()


def check_feature(position, record):
    """What abi_member.c puts into the record of a position."""
    feature = DOCUMENT.structs["bus_feature"].unpack(record)
    low = position & 0xffff
    wanted = {"timestamp_ns": (1700000000000000000 + position) & MASK, "bid_size": -(1 << 63) + low,
              "ask_size": (1 << 63) - 1 - low, "exchange_delay_us": -(position & 0x7fffffff),
              "book_imbalance": position & 0x3fffffff, "update": position * 7 & 0xffffffff,
              "symbol": low, "trigger": position % 5, "flags": position % 64,
              "x": tuple((position & 0xfffff) * 0.5 + i for i in range(16)), "stamp": (position + 1) & MASK}
    for name, value in wanted.items():
        assert feature[name] == value, (position, name, feature[name], value)
    assert ahead(feature["bid_price"] & MASK, position * 3 & MASK) == 0, feature
    assert ahead(feature["ask_price"] & MASK, -position * 5 & MASK) == 0, feature
    assert len(feature) == len(wanted) + 2, "a field that is not compared"


def test_worked_examples_of_the_document():
    vectors = {row[0]: int(row[1], 16) for row in DOCUMENT.tables["hash_vectors"]}
    assert fnv1a(b"") == vectors["no bytes"]
    assert fnv1a(b"a") == vectors["the byte `a`"] and fnv1a(b"foobar") == vectors["`foobar`"]
    header, entry = bytearray(512), bytearray(128)

    def put(target, layout, **fields):
        for name, value in fields.items():
            at = DOCUMENT.structs[layout].offset[name]
            data = value if isinstance(value, bytes) else struct.pack("<Q", value)
            target[at:at + len(data)] = data

    put(header, "bus_member_header", abi_version=struct.pack("<I", 1), file_size=4096, name=b"feed", kind=b"test",
        identity=7)
    put(entry, "bus_entry", name=b"messages", unit=b"messages", type=struct.pack("<I", 3), depth=1, offset=1024, size=8)
    assert layout_hash(DOCUMENT.structs["bus_member_header"], header, entry) in vectors.values()
    for value, bucket, low, high in DOCUMENT.tables["histogram_buckets"]:
        assert Histogram.bucket(int(value)) == int(bucket)
        assert Histogram.bounds(int(bucket)) == (int(low), int(high))
    for kind, record_size, depth, size in DOCUMENT.tables["object_sizes"]:
        described = {"type": DOCUMENT.value["BUS_OBJECT_" + kind.upper()], "record_size": int(record_size),
                     "depth": int(depth), "policy": 1,
                     "record_type": DOCUMENT.value["BUS_RECORD_SIGNAL"] if kind == "board" else 0}
        member = Member.__new__(Member)
        member.document = DOCUMENT
        assert member.object_bytes(described) == int(size), described


def test_header_directory_and_objects():
    with Bus() as bus:
        writer = Writer(bus)
        member = bus.attach("writer", allow_dead=False)
        for field in ("instance", "epoch", "pid", "file_size", "layout_hash", "state"):
            assert member.header[field] == int(writer.fact("header", field)[0]), field
        assert member.header["pid"] == writer.process.pid and member.header["kind"] == b"test"
        assert member.header["identity"] == 99
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            assert member.header["boot_id"] == file.read().strip()
        facts = [words[1:] for words in writer.facts if words[0] == "entry"]
        assert [[e["name"].decode(), e["peer"].decode() or "-",
                 *(str(e[f]) for f in ("type", "record_type", "record_size", "policy", "depth", "offset", "size"))]
                for e in member.entries] == facts
        assert member.counter("messages") == 12345 and member.counter("large") == 0xfedcba9876543210
        assert member.find("COUNTER", "large")["unit"] == b"ns"
        histogram = member.histogram("delay")
        for field in ("count", "sum", "minimum", "maximum"):
            assert getattr(histogram, field) == int(writer.fact("histogram", field)[0]), field
        quantiles = [words[1:] for words in writer.facts if words[0] == "quantile"]
        assert len(quantiles) == 41
        for permille, value in quantiles:
            assert histogram.quantile(int(permille) / 1000) == int(value), permille
        assert member.histogram("empty").quantile(0.5) == 0
        for index in range(8):
            got = member.board("board", index)
            assert (got[1].hex() if got else "-") == writer.fact("board", str(index))[0], index
        fields, _ = member.board("board", 3)
        assert (fields["timestamp_ns"], fields["target_price"], fields["score"], fields["queue_ns"],
                fields["direction"], fields["confidence"], fields["stamp"]) == (
                    1003, -3, (0.25, 0.5, 3.0), (1 << 32) - 4, -1, 30, 8), fields
        position = member.position("signals", "infer")
        assert [position[f] for f in ("position", "ring_instance", "lost", "output_floor")] == [42, 77, 3, 5]
        assert member.text("about") == "µs are not ms"
        assert [tuple(row.values())[:1] + (row["price_exponent"], row["size_exponent"], row["tick_size"])
                for row in member.symbols("symbols")] == [("BTCUSDT", -2, -3, 1), ("NINETEENCHARACTERS1", 0, -1, -9)]
        assert writer.ask("symbol ETHUSDT") == "2"
        assert [row["name"] for row in member.symbols()][2:] == ["ETHUSDT"]
        assert 0 < member.live()["heartbeat_ns"] <= time.monotonic_ns()
        member.close()


def follow(observer, until, records):
    """Takes all there is up to position `until`; returns what was lost."""
    lost = 0
    while observer.next != until:
        try:
            taken = observer.poll()
        except Overrun as overrun:
            lost += overrun.lost
            continue
        if taken is not None:
            check_feature(*taken)
            records.append(taken[0])
    return lost


def test_an_observer_takes_every_record_once():
    for start in (0, 1000, MASK - 699):
        with Bus() as bus:
            writer = Writer(bus, start=start)
            member = bus.attach("writer")
            observer = Observer(member, "features")
            assert observer.next == start and observer.poll() is None
            records = []
            for burst in (1, 7, DEPTH - 1, DEPTH - 1, DEPTH - 1, DEPTH - 1):
                head = int(writer.ask(f"publish {burst}"))
                assert follow(observer, head, records) == 0 and observer.poll() is None
            assert records == [(start + i) & MASK for i in range(8 + 4 * (DEPTH - 1))], start
            late = Observer(member, "features", from_oldest=True)
            assert late.next == (head - DEPTH + 1) & MASK and Observer(member, "features").next == head
            assert follow(late, head, []) == 0
            member.close()


def test_an_overrun_is_counted_exactly():
    with Bus() as bus:
        writer = Writer(bus)
        member = bus.attach("writer")
        observer = Observer(member, "features")
        head = int(writer.ask(f"publish {DEPTH}"))  # the slot before the first one is already of this lap
        records = []
        assert follow(observer, head, records) == DEPTH // 2 and len(records) == DEPTH // 2
        head = int(writer.ask(f"publish {5 * DEPTH + 3}"))
        lost = follow(observer, head, records)
        assert lost == 5 * DEPTH + 3 - DEPTH // 2, lost
        assert observer.lost + len(records) == head
        member.close()


def test_a_live_ring_is_never_read_torn():
    with Bus() as bus:
        writer = Writer(bus)
        member = bus.attach("writer")
        observer = Observer(member, "features")
        records, total = [], 0
        for _ in range(40):
            writer.send("publish 20000")  # published while it is read
            total += 20000
            follow(observer, total, records)
            assert int(writer.answer()) == total
        assert observer.lost + len(records) == total and observer.lost > 0 and records
        assert all(a < b for a, b in zip(records, records[1:]))
        print(f"# {len(records)} records taken, {observer.lost} lost to overruns")
        member.close()


def reason_of(bus, name):
    try:
        bus.attach(name).close()
        return "ok"
    except Refused as refused:
        return refused.reason


def test_the_attach_ladder_refuses_what_the_library_refuses():
    """Damage of one field at a time, sealed with a right hash where that helps; the verdicts must agree."""
    choose = random.Random(3)
    header, entry = DOCUMENT.structs["bus_member_header"], DOCUMENT.structs["bus_entry"]
    interesting = (0, 1, 2, 3, 63, 64, 65, 127, 128, 255, 512, 4095, 4096, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40,
                   1 << 63, MASK)
    verdicts = {}
    with Bus() as bus:
        writer = Writer(bus)
        with open(os.path.join(bus.directory, "writer"), "rb") as file:
            image = bytearray(file.read())
        image[header.offset["name"]:header.offset["name"] + 7] = b"broken\0"
        count = struct.unpack_from("<I", image, header.offset["entry_count"])[0]

        def seal(data):
            entries = min(struct.unpack_from("<I", data, header.offset["entry_count"])[0], 512)
            struct.pack_into("<Q", data, header.offset["layout_hash"],
                             layout_hash(header, data[:512], data[512:512 + 128 * entries]))

        for round_number in range(600):
            data = bytearray(image)
            base, layout = (0, header) if choose.random() < 0.4 else (512 + 128 * choose.randrange(count), entry)
            name, offset, code, is_text, _ = choose.choice(layout.fields)
            size = struct.calcsize(code)
            at = base + offset
            if is_text or size > 8:
                span = min(size, choose.choice((1, 2, size)))
                where = at + choose.randrange(size - span + 1)
                data[where:where + span] = choose.choice((b"A", b"\xff", b"/", b".", b"\0")) * span
            else:
                old = int.from_bytes(data[at:at + size], "little")
                new = choose.choice(interesting + (old + 1, old - 1, old ^ 64, old * 2))
                data[at:at + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
            sealed = choose.random() < 0.75
            if sealed:
                seal(data)
            cut = choose.choice((0, 8, 511, 512, 600, 4096, len(data) - 8)) if choose.random() < 0.05 else len(data)
            path = os.path.join(bus.directory, "broken")
            with open(path, "wb") as file:
                file.write(data[:cut])
            os.chmod(path, choose.choice((0o640,) * 30 + (0o600, 0o660, 0o644, 0o666)))
            mine, theirs = reason_of(bus, "broken"), writer.ask("attach broken")
            assert mine == theirs, (round_number, name, sealed, cut, mine, theirs)
            verdicts[mine] = verdicts.get(mine, 0) + 1
            os.unlink(path)
        for name in ("absent", "..", ".hidden", "a" * 32):
            assert reason_of(bus, name) == writer.ask(f"attach {name}"), name
        with open(os.path.join(bus.directory, "broken"), "wb") as file:
            file.write(image[:4096])
            file.truncate(len(image))
        assert reason_of(bus, "broken") == writer.ask("attach broken") == "not ready"
        os.symlink("writer", os.path.join(bus.directory, "link"))
        assert "ok" not in (reason_or_error(bus, "link"), writer.ask("attach link"))
    print("# " + ", ".join(f"{count} {reason}" for reason, count in sorted(verdicts.items())))
    assert {"ok", "corrupt", "version", "not ready", "denied"} <= verdicts.keys(), verdicts


def reason_or_error(bus, name):
    try:
        return reason_of(bus, name)
    except OSError:
        return "io"


def test_life_and_death():
    with Bus() as bus:
        writer = Writer(bus)
        member = bus.attach("writer", allow_dead=False)
        assert member.status(stall_ns=WAIT_S * 10**9) == "alive" and member.is_locked()
        assert member.status(stall_ns=0) == "stalled"
        writer.ask("leave")
        assert member.status() == "dead"
        assert member.live()["state"] == DOCUMENT.value["BUS_STATE_HALT"]
        try:
            bus.attach("writer", allow_dead=False)
            raise AssertionError("attached to a dead member")
        except Refused as refused:
            assert refused.reason == "dead owner"
        successor = Writer(bus)
        assert member.status(stall_ns=WAIT_S * 10**9) == "alive", "the same file goes on"
        assert member.live()["epoch"] == 2 and member.live()["instance"] == member.header["instance"]
        assert member.counter("messages") == 2 * 12345
        successor.process.send_signal(signal.SIGKILL)
        successor.process.wait()
        assert member.status() == "dead" and member.live()["state"] == DOCUMENT.value["BUS_STATE_RUN"]
        os.unlink(member.path)
        assert member.status() == "gone"
        member.close()


def test_the_real_members():
    """Synthetic exchange -> bus-feed -> bus-infer -> bus-trader; the reader must see what the trader wrote."""
    messages = 6000
    with Bus() as bus:
        output, report = (os.path.join(bus.directory, name) for name in (".signals", ".report"))
        place = ("--bus", bus.directory)
        infer = bus.start("infer", *place, "--model", MODEL, "--ring-depth", 16384)
        bus.wait_running("infer")
        trader = bus.start("trader", *place, "--table", "never", "--feed", "feed", "--from-oldest", "--output", output,
                           "--json", report)
        bus.wait_running("trader")
        feed = bus.start("feed", *place, "--synthetic", "--seed", 11, "--messages", messages, "--speed", "max",
                         "--ring-depth", 16384)
        for process in (feed, trader):
            _, err = process.communicate(timeout=WAIT_S)
            assert process.returncode == 0, err
        members = {name: bus.attach(name) for name in ("feed", "infer", "trader")}
        with open(output, "rb") as file:
            wanted = file.read()
        observer = Observer(members["infer"], "signals", from_oldest=True)
        signals = []
        while (taken := observer.poll()) is not None:
            signals.append(taken[1])
        assert observer.lost == 0 and len(signals) > messages // 2, len(signals)
        assert b"".join(signals) == wanted, "other signals than the trader took"
        assert members["infer"].counter("signals") == len(signals) == members["trader"].counter("signals")
        features = Observer(members["feed"], "features", from_oldest=True)
        times = {}
        while (taken := features.poll()) is not None:
            times[taken[0]] = DOCUMENT.structs["bus_feature"].unpack(taken[1])
        latest = {}
        for data in signals:
            fields = DOCUMENT.structs["bus_signal"].unpack(data)
            feature = times[fields["feature_position"]]
            assert (feature["timestamp_ns"], feature["symbol"]) == (fields["timestamp_ns"], fields["symbol"])
            latest[fields["symbol"]] = data
        for symbol, data in latest.items():
            assert members["infer"].board("feed", symbol)[1][:56] == data[:56], symbol
        names = [row["name"] for row in members["feed"].symbols("symbols")]
        assert names == [row["name"] for row in members["infer"].symbols("feed")] and set(latest) == set(
            range(len(names))), names
        assert all(name.startswith("SYN") for name in names), names
        assert members["infer"].position("features", "feed")["position"] == len(times)
        assert members["infer"].position("features", "feed")["ring_instance"] == members["feed"].header["instance"]
        assert "synthetic" in members["feed"].text("source")
        with open(report, encoding="utf-8") as file:
            stages = {stage["stage"]: stage for stage in json.load(file)}
        for stage, member, name in (("tick received -> signal visible", "trader", "total_ns"),
                                    ("inference", "trader", "inference_ns"),
                                    ("tick received -> feature published", "feed", "decode_ns")):
            histogram = members[member].histogram(name)
            assert histogram.count == stages[stage]["count"] > 0, stage
            for quantile, key in ((0.5, "p50_ns"), (0.99, "p99_ns"), (1, "max_ns")):
                assert histogram.quantile(quantile) == stages[stage][key], (stage, key)
        for member in members.values():
            member.close()
        infer.send_signal(signal.SIGTERM)
        infer.communicate(timeout=WAIT_S)
        listing = subprocess.run([sys.executable, os.path.join(SOURCE, "tests", "abi", "reader.py"), bus.directory],
                                 capture_output=True, text=True, check=True, timeout=WAIT_S).stdout
        assert "infer (infer): dead" in listing and "ring signals" in listing and "SYNBTC" in listing, listing


def main():
    wanted = sys.argv[3:]
    tests = [(name, function) for name, function in globals().items()
             if name.startswith("test_") and (not wanted or name in wanted)]
    print(f"1..{len(tests)}", flush=True)
    failed = 0
    for number, (name, function) in enumerate(tests, 1):
        try:
            function()
            print(f"ok {number} - {name}", flush=True)
        except Exception:
            failed += 1
            print("".join(f"# {line}\n" for line in traceback.format_exc().splitlines()), end="")
            print(f"not ok {number} - {name}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
