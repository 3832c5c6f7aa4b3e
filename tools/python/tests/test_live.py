"""The live bus against what the C side wrote: abi_member of tests/abi, and the real bus-feed and bus-infer."""

import contextlib
import os
import random
import signal
import struct
import sys
import time

import numpy as np
import pytest
from conftest import SOURCE
from live_bus import MODEL, WAIT_S, LiveBus, wait_running

import signalbus
from signalbus import layout, library
from signalbus.layout import MASK

DEPTH = 256


class AbiMember:
    """The C member that knows what it wrote."""

    def __init__(self, bus, name="writer", start=0):
        self.process = bus.start("tests/abi_member", bus.directory, name, start)
        self.facts = []
        for line in iter(self.process.stdout.readline, "ready\n"):
            assert line, self.process.stderr.read()
            self.facts.append(line.split())

    def fact(self, *key):
        found = [words[len(key) :] for words in self.facts if tuple(words[: len(key)]) == key]
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


@pytest.fixture(params=["pure", "library"])
def live(request, build, monkeypatch):
    """A bus, read without and with libsignalbus."""
    path = ""
    if request.param == "library":
        path = os.path.join(build, "shm", "libsignalbus.so")
        if not os.path.exists(path):
            pytest.skip(f"no {path}")
    elif not library.IS_ORDERED:
        pytest.skip("this machine reorders loads")
    monkeypatch.setenv("SIGNALBUS_LIBRARY", path)
    library._load.cache_clear()
    bus = LiveBus(build)
    yield bus
    bus.close()
    library._load.cache_clear()


def check_features(records):
    """What abi_member.c puts into the record of a position."""
    positions = records["stamp"] - np.uint64(1)
    low = (positions & np.uint64(0xFFFF)).astype(np.int64)
    assert (records["timestamp_ns"] == np.uint64(1700000000000000000) + positions).all()
    assert (records["bid_price"].view(np.uint64) == positions * np.uint64(3)).all()
    assert (records["ask_price"].view(np.uint64) == np.uint64(0) - positions * np.uint64(5)).all()
    assert (records["bid_size"] == np.iinfo(np.int64).min + low).all()
    assert (records["ask_size"] == np.iinfo(np.int64).max - low).all()
    assert (records["update"] == (positions * np.uint64(7)).astype(np.uint32)).all()
    assert (records["symbol"] == low).all() and (records["flags"] == positions % np.uint64(64)).all()
    base = (positions & np.uint64(0xFFFFF)).astype(np.float32) * np.float32(0.5)
    assert (records["x"] == base[:, None] + np.arange(16, dtype=np.float32)).all()


def drain(observer, until):
    """Takes all there is up to position `until`; returns (positions, lost)."""
    positions, lost = [], 0
    while observer.next != until:
        batch = observer.poll()
        if batch is None:
            continue
        check_features(batch.records)
        positions += batch.positions.tolist()
        lost += batch.lost
    return positions, lost


def test_header_directory_and_objects(live):
    writer = AbiMember(live)
    with signalbus.attach(live.directory).member("writer", allow_dead=False) as member:
        header = member.header()
        for field in ("instance", "epoch", "pid", "file_size", "layout_hash", "state"):
            assert header[field] == int(writer.fact("header", field)[0]), field
        assert header["pid"] == writer.process.pid and member.kind == "test" and header["identity"] == 99
        fields = ("type", "record_type", "record_size", "policy", "depth", "offset", "size")
        assert [
            [e.name, e.peer or "-", *(str(int(getattr(e, field))) for field in fields)] for e in member.entries
        ] == [words[1:] for words in writer.facts if words[0] == "entry"]
        assert member.counters() == {"messages": 12345, "large": 0xFEDCBA9876543210}
        histogram = member.histogram("delay")
        for field in ("count", "sum", "minimum", "maximum"):
            assert getattr(histogram, field) == int(writer.fact("histogram", field)[0]), field
        quantiles = [words[1:] for words in writer.facts if words[0] == "quantile"]
        assert len(quantiles) == 41
        for permille, value in quantiles:
            assert histogram.percentile(int(permille) / 10) == int(value), permille
        assert histogram.unit == "ns" and member.histogram("empty").percentile(50) == 0
        rows = {int(row["symbol"]): row for row in member.board("board")}
        for index in range(8):
            wanted = writer.fact("board", str(index))[0]
            assert (rows[index].tobytes().hex() if index in rows else "-") == wanted, index
        with pytest.raises(KeyError, match="no symbols 'board'"):
            member.latest("board")
        position = member.position("signals", "infer")
        assert [position[f] for f in ("position", "ring_instance", "lost", "output_floor")] == [42, 77, 3, 5]
        assert member.text("about") == "µs are not ms"
        assert member.symbol_names("symbols") == ["BTCUSDT", "NINETEENCHARACTERS1"]
        assert writer.ask("symbol ETHUSDT") == "2"
        assert member.symbols()[["price_exponent", "size_exponent", "tick_size"]].tolist()[2] == (-4, -5, 10)
        assert 0 < int(member.header()["heartbeat_ns"]) <= time.monotonic_ns()
        with pytest.raises(KeyError, match="it has: messages, large"):
            member.counter("none")


def test_an_observer_takes_every_record_once(live):
    for start in (0, 1000, MASK - 699):
        writer = AbiMember(live, f"writer{start % 7}", start)
        with signalbus.attach(live.directory).member(f"writer{start % 7}") as member:
            observer = signalbus.Observer(member, "features")
            assert observer.next == start and observer.poll() is None
            positions = []
            for burst in (1, 7, DEPTH - 1, DEPTH - 1, DEPTH - 1, DEPTH - 1):
                head = int(writer.ask(f"publish {burst}"))
                taken, lost = drain(observer, head)
                positions += taken
                assert lost == 0 and observer.poll() is None
            assert positions == [(start + i) & MASK for i in range(8 + 4 * (DEPTH - 1))], start
            late = signalbus.Observer(member, "features", from_oldest=True)
            assert late.next == (head - DEPTH + 1) & MASK and late.head() == head
            assert drain(late, head)[1] == 0


def test_an_overrun_is_counted_exactly(live):
    writer = AbiMember(live)
    with signalbus.attach(live.directory).member("writer") as member:
        observer = signalbus.Observer(member, "features")
        head = int(writer.ask(f"publish {DEPTH}"))  # the slot before the first one is already of this lap
        positions, lost = drain(observer, head)
        assert lost == DEPTH // 2 and len(positions) == DEPTH // 2
        head = int(writer.ask(f"publish {5 * DEPTH + 3}"))
        more, lost = drain(observer, head)
        assert lost == 5 * DEPTH + 3 - DEPTH // 2
        assert observer.lost + len(positions) + len(more) == head


def test_a_live_ring_is_never_read_torn(live):
    writer = AbiMember(live)
    with signalbus.attach(live.directory).member("writer") as member:
        observer = signalbus.Observer(member, "features")
        positions, lost, total = [], 0, 0
        for _ in range(40):
            writer.send("publish 20000")  # published while it is read
            total += 20000
            taken, missed = drain(observer, total)
            positions, lost = positions + taken, lost + missed
            assert int(writer.answer()) == total
        assert lost == observer.lost and lost + len(positions) == total
        assert all(a < b for a, b in zip(positions, positions[1:], strict=False))


def test_the_attach_ladder_refuses_what_the_library_refuses(live):
    """Damage of one field at a time, sealed with a right hash where that helps; the verdicts must agree."""
    sys.path.insert(0, os.path.join(SOURCE, "tests", "abi"))
    choose = random.Random(3)
    interesting = (0, 1, 2, 3, 63, 64, 65, 127, 128, 255, 512, 4095, 4096, 1 << 20, 1 << 31, 1 << 40, 1 << 63, MASK)
    verdicts = {}
    writer = AbiMember(live)
    image = bytearray(open(live.path("writer"), "rb").read())
    image[32:39] = b"broken\0"
    count = struct.unpack_from("<I", image, 120)[0]
    bus = signalbus.attach(live.directory)

    def reason(name):
        try:
            bus.member(name).close()
            return "ok"
        except signalbus.AttachError as error:
            return error.reason

    for round_number in range(400):
        data = bytearray(image)
        is_header = choose.random() < 0.4
        base, dtype = (0, layout.MEMBER_HEADER) if is_header else (512 + 128 * choose.randrange(count), layout.ENTRY)
        field = choose.choice([name for name in dtype.names if name != "abi_version"])
        kind, offset = dtype.fields[field][:2]
        at, size = base + offset, kind.itemsize
        if kind.kind == "V":
            span = min(size, choose.choice((1, 2, size)))
            where = at + choose.randrange(size - span + 1)
            data[where : where + span] = choose.choice((b"A", b"\xff", b"/", b".", b"\0")) * span
        else:
            old = int.from_bytes(data[at : at + size], "little")
            new = choose.choice((*interesting, old + 1, old - 1, old ^ 64, old * 2))
            data[at : at + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
        if choose.random() < 0.75:
            entries = min(struct.unpack_from("<I", data, 120)[0], 512)
            value = layout.fnv1a(b"")
            for start, length in ((8, 4), (16, 8), (32, 32), (64, 16), (144, 8)):
                value = layout.fnv1a(bytes(data[start : start + length]), value)
            struct.pack_into("<Q", data, 24, layout.fnv1a(bytes(data[512 : 512 + 128 * entries]), value))
        cut = choose.choice((0, 8, 511, 512, 600, 4096)) if choose.random() < 0.05 else len(data)
        with open(live.path("broken"), "wb") as file:
            file.write(data[:cut])
        os.chmod(live.path("broken"), choose.choice((0o640,) * 30 + (0o600, 0o660, 0o644, 0o666)))
        mine, theirs = reason("broken"), writer.ask("attach broken")
        assert mine == theirs, (round_number, field, mine, theirs)
        verdicts[mine] = verdicts.get(mine, 0) + 1
        os.unlink(live.path("broken"))
    for name in ("absent", "..", ".hidden", "a" * 32):
        assert reason(name) == writer.ask(f"attach {name}"), name
    os.symlink("writer", live.path("link"))
    assert "ok" not in (reason("link"), writer.ask("attach link"))
    assert {"ok", "corrupt", "not ready", "denied"} <= verdicts.keys(), verdicts


def test_life_and_death(live):
    writer = AbiMember(live)
    bus = signalbus.attach(live.directory)
    with bus.member("writer", allow_dead=False) as member:
        assert member.status(stall_ns=WAIT_S * 10**9) == "alive" and member.state == layout.MemberState.RUN
        assert member.status(stall_ns=0) == "stalled"
        writer.ask("leave")
        assert member.status() == "dead" and member.state == layout.MemberState.HALT
        with pytest.raises(signalbus.AttachError, match="dead owner"):
            bus.member("writer", allow_dead=False)
        successor = AbiMember(live)
        assert member.status(stall_ns=WAIT_S * 10**9) == "alive", "the same file goes on"
        assert member.header()["epoch"] == 2 and member.counter("messages") == 2 * 12345
        successor.process.send_signal(signal.SIGKILL)
        successor.process.wait()
        assert member.status() == "dead"
        os.unlink(member.path)
        assert member.status() == "gone"


def test_a_file_that_is_cut(live):
    """The owner cuts its file: a clear end, no SIGBUS, and no record that never was."""
    writer = AbiMember(live)
    writer.ask("publish 100")
    with signalbus.attach(live.directory).member("writer") as member:
        observer = signalbus.Observer(member, "features", from_oldest=True)
        os.truncate(member.path, 4096)
        assert member.status() == "gone"
        for action in (observer.poll, member.board, member.counters, member.symbols, lambda: member.text("about")):
            with contextlib.suppress(signalbus.SignalBusError):
                result = action()
                assert action == member.counters or not len(result), result


def test_follow_goes_over_a_replaced_file(live):
    writer = AbiMember(live)
    writer.ask("publish 10")
    bus = signalbus.attach(live.directory)
    stream = bus.follow("writer", "features", from_oldest=True, timeout=20)
    first = next(stream)
    assert first.positions.tolist() == list(range(10)) and first.lost == 0
    writer.ask("publish 5")
    writer.ask("leave")
    os.unlink(live.path("writer"))
    other = AbiMember(live, start=500)
    other.ask("publish 3")
    second, third = next(stream), next(stream)
    assert second.positions.tolist() == list(range(10, 15)) and second.instance == first.instance
    assert third.positions.tolist() == [500, 501, 502] and third.instance != first.instance
    stream.close()
    assert list(bus.follow("writer", "features", timeout=0.05)) == []


def test_what_is_not_there(live):
    with pytest.raises(signalbus.AttachError, match="no such bus"):
        signalbus.attach(live.path("none"))
    bus = signalbus.attach(live.directory)
    with pytest.raises(signalbus.AttachError, match="absent"):
        next(bus.follow("nobody", "features"))
    AbiMember(live)
    with pytest.raises(KeyError, match="it has: features"):
        next(bus.follow("writer", "none"))


def test_a_library_that_is_none(monkeypatch):
    monkeypatch.setenv("SIGNALBUS_LIBRARY", "/nowhere/lib.so")
    with pytest.raises(signalbus.SignalBusError, match=r"/nowhere/lib\.so"):
        library.load()
    monkeypatch.setenv("SIGNALBUS_LIBRARY", "")
    monkeypatch.setattr(library, "IS_ORDERED", False)
    with pytest.raises(signalbus.SignalBusError, match="install libsignalbus"):
        library.load()


def test_the_real_members(live):
    """Synthetic exchange -> bus-feed -> bus-infer, followed while they run."""
    messages = 6000
    bus = signalbus.attach(live.directory)
    place = ("--bus", live.directory, "--ring-depth", 16384)
    live.start("consumers/bus-infer", *place, "--model", MODEL)
    wait_running(bus, "infer")
    follower = bus.follow("infer", "signals", from_oldest=True, timeout=5, interval=0.0005)
    feed = live.start(
        "producers/bus-feed", *place, "--synthetic", "--seed", 11, "--messages", messages, "--speed", "max"
    )
    batches = list(follower)
    _, error = feed.communicate(timeout=WAIT_S)
    assert feed.returncode == 0, error
    signals = np.concatenate([batch.records for batch in batches])
    assert sum(batch.lost for batch in batches) == 0 and len(signals) > messages // 2
    assert (signals["stamp"] == np.arange(1, len(signals) + 1)).all()
    with bus.member("infer") as infer, bus.member("feed") as feed:
        assert infer.counter("signals") == len(signals)
        observer, parts = signalbus.Observer(feed, "features", from_oldest=True), []
        while batch := observer.poll():
            parts.append(batch.records)
        features = np.concatenate(parts)
        of_signal = features[signals["feature_position"].astype(np.int64)]
        assert (of_signal["timestamp_ns"] == signals["timestamp_ns"]).all()
        assert (of_signal["symbol"] == signals["symbol"]).all()
        latest = infer.latest("feed")
        assert list(latest) == feed.symbol_names() == infer.symbol_names("feed")
        for index, row in enumerate(latest.values()):
            last = signals[signals["symbol"] == index][-1]
            assert row.tobytes()[:56] == last.tobytes()[:56]
        assert infer.position("features", "feed")["position"] == len(features)
        histogram = infer.histogram("inference_ns")
        assert histogram.count > 0 and histogram.percentile(50) <= histogram.percentile(99) <= histogram.maximum
        assert "synthetic" in feed.text("source")
        assert {member.name for member in bus.members()} == {"feed", "infer"}
