"""What bus-record writes is what was on the bus: read while it is written, when it is closed, and compressed."""

import os
import signal
import time

import numpy as np
import pytest
from live_bus import MODEL, WAIT_S, LiveBus, wait_running

import signalbus
from signalbus import export
from signalbus.layout import ObjectType

MESSAGES = 8000
SYMBOLS = ObjectType.SYMBOLS


@pytest.fixture
def bus(build):
    if not os.path.exists(os.path.join(build, "consumers", "bus-record")):
        pytest.skip("no bus-record in this state")
    made = LiveBus(build)
    yield made
    made.close()


def record(bus, directory, *options):
    """Feed and inference while a recorder runs; returns the records of both rings, taken live."""
    attached = signalbus.attach(bus.directory)
    place = ("--bus", bus.directory, "--ring-depth", 32768)
    bus.start("consumers/bus-infer", *place, "--model", MODEL)
    wait_running(attached, "infer")
    feed = bus.start("producers/bus-feed", *place, "--synthetic", "--seed", 5, "--messages", MESSAGES, "--speed", 1)
    wait_running(attached, "feed")
    wait_for_symbols(attached)
    recorder = bus.start("consumers/bus-record", "--bus", bus.directory, "--output", directory, "--block-size", 4096,
                         "--segment-bytes", 400_000, "--flush", 0.01, "--small-pages", *options)  # fmt: skip
    followers = {ring: attached.follow(*ring.split("."), from_oldest=True, timeout=3) for ring in RINGS}
    taken = {ring: [] for ring in RINGS}
    for ring, follower in followers.items():
        for batch in follower:
            assert batch.lost == 0
            taken[ring].append(batch.records)
            look_while_it_is_written(directory)
    feed.communicate(timeout=WAIT_S)
    recorder.send_signal(signal.SIGTERM)
    _, error = recorder.communicate(timeout=WAIT_S)
    assert recorder.returncode == 0, error
    return {ring: np.concatenate(parts) for ring, parts in taken.items()}


def wait_for_symbols(attached):
    """META says what was there when it was written, and is renewed with records only."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with attached.member("feed") as feed, attached.member("infer") as infer:
            tables = [feed.symbol_names(), *([infer.symbol_names()] if "feed" in infer.names(SYMBOLS) else [])]
        if len(tables) == 2 and all(len(names) == 4 for names in tables):
            return
        time.sleep(0.002)
    raise AssertionError(tables)


RINGS = ("feed.features", "infer.signals")


def look_while_it_is_written(directory):
    """A prefix of the ring, at any moment; a recorder that has not begun is the only excuse."""
    try:
        capture = signalbus.open_capture(directory)
    except signalbus.CaptureError as error:
        assert "no capture" in str(error) or "No such file" in str(error), error
        return
    for ring in set(RINGS) & set(capture):
        records = capture[ring].records()
        assert (records["stamp"] == np.arange(1, len(records) + 1)).all()


@pytest.mark.parametrize("options", [(), ("--zstd", 3), ("--io", "pwrite")], ids=["uring", "zstd", "pwrite"])
def test_recorded_is_live(bus, tmp_path, options):
    if "--zstd" in options:
        pytest.importorskip("zstandard")
    directory = tmp_path / "capture"
    live = record(bus, directory, *options)
    deadline = time.monotonic() + WAIT_S
    while "--zstd" in options and list(directory.glob("*.npy")) and time.monotonic() < deadline:
        time.sleep(0.1)
    capture = signalbus.open_capture(directory)
    capture.verify()
    for ring, wanted in live.items():
        stream = capture[ring]
        assert stream.records().tobytes() == wanted.tobytes()
        assert not len(stream.gaps()) and stream.symbols and stream.meta.instance
        assert stream.columns()["symbol"].tolist() == [stream.symbols[i] for i in wanted["symbol"]]
        assert abs(stream.meta.realtime_offset_ns - (time.time_ns() - time.monotonic_ns())) < 10**9
    assert len(capture["feed.features"].segments) > 1
    assert capture["infer.signals"].meta.inputs == [("feed", "features")]
    if not options:
        pytest.importorskip("pyarrow")
        output = ["--stream", "feed.features", "--stream", "infer.signals", str(directory), str(tmp_path / "out")]
        assert export.main(["--format", "parquet", *output]) == export.OK
