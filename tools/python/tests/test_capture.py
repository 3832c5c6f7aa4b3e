"""Opening, slicing, gaps, growth, and what is refused."""

import datetime
import json
import shutil
import threading

import numpy as np
import pytest
from writer import OFFSET_NS, Writer, features, npy_header, save, signals, write_capture

import signalbus
from signalbus import layout
from signalbus.segment import Shape

SHAPES = [(1, 128, 4096, 0), (1, 128, 1 << 20, 7), (2, 64, 8192, 123456), (3, 64, 4096, 1), (0, 64, 4096, 1 << 32),
          (0, 16384, 1 << 24, 3), (7, 192, 4096, 2), (1, 64, 4096, 2), (2, 128, 4096, 5)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_header_is_a_function_of_the_shape(shape):
    header = Shape(*shape).header()
    assert header == npy_header(*shape) and len(header) == 4096
    assert Shape.parse(header) == Shape(*shape)
    if shape[3] <= 7:
        dtype = np.dtype(layout.block_descr(*shape[:3]))
        assert dtype.itemsize == shape[2]


def test_numpy_reads_it_by_itself(capture):
    directory, records = capture
    parts = [np.load(path, mmap_mode="r") for path in sorted(directory.glob("feed.features.*.npy"))]
    data = [block["records"][: block["count"]] for part in parts for block in part if block["kind"] == 1]
    assert (np.concatenate(data) == records["feed.features"]).all()


def test_streams_and_records(capture):
    directory, records = capture
    opened = signalbus.open_capture(directory)
    assert list(opened) == ["feed.features", "infer.signals"] and len(opened) == 2
    for name, wanted in records.items():
        stream = opened[name]
        assert stream.dtype == wanted.dtype and len(stream) == len(wanted)
        assert stream.records().tobytes() == wanted.tobytes()
        assert np.concatenate([block.positions for block in stream.blocks()]).tolist() == list(range(len(wanted)))
        assert not len(stream.gaps())
        assert stream.verify() == len(wanted)
    assert opened.verify() == sum(map(len, records.values()))
    stream = opened["feed.features"]
    assert stream.symbols == ["BTCUSDT", "ETHUSDT"] and stream.member == "feed" and stream.ring == "features"
    assert stream.meta.instance == 12345678901234567 and stream.record_type == signalbus.RecordType.FEATURE
    with pytest.raises(KeyError, match=r"infer\.signals"):
        opened["nothing"]


def test_blocks_are_views(capture):
    directory, _ = capture
    for block in signalbus.open_capture(directory)["feed.features"].blocks():
        assert not block.records.flags.owndata and not block.records.flags.writeable
        assert block.meta.symbols and block.lost == 0


def test_a_single_segment(capture):
    directory, records = capture
    stream = signalbus.open_capture(directory / "feed.features.000001.npy")["feed.features"]
    assert (stream.records() == records["feed.features"][93:]).all()
    shutil.copy(directory / "feed.features.000001.npy", directory.parent / "renamed.npy")
    assert len(signalbus.open_capture(directory.parent / "renamed.npy")["feed.features"]) == 93


@pytest.mark.parametrize("name", ["feed.features", "infer.signals"])
def test_slices_of_time(capture, name):
    directory, records = capture
    opened = signalbus.open_capture(directory)
    times = layout.record_times(2 if name == "infer.signals" else 1, records[name])
    times = np.maximum.accumulate(times)
    random = np.random.default_rng(4)
    edges = [0, int(times[0]), int(times[-1]), int(times[-1]) + 1, 2**64 - 1]
    pairs = [(a, b) for a in edges for b in edges]
    pairs += [tuple(int(value) for value in random.integers(times[0] - 500, times[-1] + 500, 2)) for _ in range(300)]
    for low, high in pairs:
        wanted = records[name][(times >= low) & (times < high)]
        assert opened[name].records(low, high).tobytes() == wanted.tobytes(), (low, high)
    middle = int(times[50])
    assert opened[name].records(start=middle).tobytes() == records[name][times >= middle].tobytes()
    assert opened[name].records(stop=middle).tobytes() == records[name][times < middle].tobytes()


def test_times_that_go_back_keep_the_order(tmp_path):
    """A slice is taken by the running maximum; within a block a later record may have an earlier time."""
    records = features(93)
    random = np.random.default_rng(2)
    records["timestamp_ns"] = 10**12 + np.arange(93) * 1000 + random.integers(-20_000, 20_000, 93)
    writer = Writer("feed", "features", 1, 128)
    for start in range(0, 93, 31):
        writer.add(records[start : start + 31])
    save(tmp_path, writer)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    times = np.concatenate([block.times_ns for block in stream.blocks()])
    assert (np.diff(times.view(np.int64)) >= 0).all() and (times >= records["timestamp_ns"]).all()
    for low in range(10**12, 10**12 + 93_000, 777):
        got = stream.records(low)
        assert got.tobytes() == records[len(records) - len(got) :].tobytes()
        assert not len(got) or got["timestamp_ns"].max() >= low


def test_times_are_taken_in_many_forms(capture):
    directory, records = capture
    opened = signalbus.open_capture(directory)
    first = int(records["feed.features"]["timestamp_ns"][0])
    moment = first + 50_000
    utc = np.datetime64(moment + OFFSET_NS, "ns")
    for form in (
        moment,
        str(moment),
        np.int64(moment),
        utc,
        str(utc),
        str(utc) + "Z",
        "+50us",
        "+0.05ms",
        "+0.00005s",
        "+0.00005",
    ):
        assert opened.time_ns(form) == moment, form
    aware = datetime.datetime.fromtimestamp((moment + OFFSET_NS) // 1000 / 1e6, datetime.timezone.utc)
    assert abs(opened.time_ns(aware) - moment) < 2000
    assert len(opened["feed.features"].records("+50us")) == len(records["feed.features"]) - 50
    assert opened.time_ns(-5) == 0
    for form in ("yesterday", "+", "+5 s", "+5x", "", "5s", "2026-01"):
        with pytest.raises(signalbus.SignalBusError, match="is no time"):
            opened.time_ns(form)


def test_gaps_and_lost(tmp_path):
    writer = Writer("feed", "features", 1, 128)
    records = features(30)
    writer.add(records[[0, 1, 2, 5, 6]])
    writer.add(records[[10, 11, 20]])
    save(tmp_path, writer, 0)
    writer = Writer("feed", "features", 1, 128)
    writer.add(records[[25, 26]], lost=4)
    save(tmp_path, writer, 1)
    writer = Writer("feed", "features", 1, 128, instance="77")  # positions start anew
    writer.add(records[[3, 4]], lost=3)
    save(tmp_path, writer, 2)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    instance = 12345678901234567
    assert stream.gaps().tolist() == [(3, 4, instance), (7, 9, instance), (12, 19, instance), (21, 24, instance)]
    assert [block.lost for block in stream.blocks()] == [2, 11, 4, 3]
    assert len(stream) == 12


def test_what_a_cut_left_out_is_no_gap(tmp_path):
    records = features(40)
    for number, meta in enumerate(({"filtered": "symbols BTCUSDT"}, {}, {"filtered": ""})):
        writer = Writer("feed", "features", 1, 128, **meta)
        for rows in ([0, 1, 2], [5, 6, 9]):
            writer.add(records[[row + 10 * number for row in rows]])
        save(tmp_path, writer, number)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    assert [gap[:2] for gap in stream.gaps().tolist()] == [(13, 14), (17, 18), (23, 24), (27, 28)]
    assert stream.segments[0].metas[-1][1].filtered == "symbols BTCUSDT" and stream.meta.filtered == ""


def test_positions_wrap(tmp_path):
    writer = Writer("feed", "features", 1, 128)
    records = features(40)
    records["stamp"] = np.arange(40, dtype=np.uint64) + np.uint64(2**64 - 20)
    writer.add(records[:10])
    writer.add(records[10:31])
    writer.add(records[35:])
    save(tmp_path, writer)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    assert [gap[:2] for gap in stream.gaps().tolist()] == [(10, 13)]
    assert stream.verify() == 36


def test_a_capture_that_is_being_written(tmp_path):
    writer = Writer("feed", "features", 1, 128)
    writer.add(features(31))
    path = save(tmp_path, writer, spare=5)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    assert len(stream) == 31 and stream.segments[0].is_open and stream.verify() == 31
    writer.add(features(10, 31))  # partly filled
    path.write_bytes(writer.image(spare=4))
    assert len(stream) == 31  # as it was when it was opened
    growing = signalbus.open_capture(tmp_path)["feed.features"]
    assert len(growing) == 41
    writer.blocks.pop()
    writer.end = 31
    writer.add(features(20, 31))  # fuller, in place
    path.write_bytes(writer.image(spare=4))
    assert len(growing.records()) == 51
    path.write_bytes(writer.image())  # closed
    closed = signalbus.open_capture(tmp_path)["feed.features"]
    assert len(closed) == 51 and not closed.segments[0].is_open


def test_an_empty_stream(tmp_path):
    writer = Writer("feed", "features", 1, 128)
    save(tmp_path, writer, spare=2)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    assert len(stream) == 0 and len(stream.records()) == 0 and stream.records().dtype == layout.FEATURE
    writer.blocks.clear()
    save(tmp_path, writer, spare=2)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    assert len(stream) == 0 and stream.meta == {} and stream.verify() == 0


def test_raw_and_unknown_records(tmp_path):
    for record_type in (0, 9):
        writer = Writer("bridge", f"ring{record_type}", record_type, 192)
        dtype = layout.record_dtype(record_type, 192)
        records = np.frombuffer(np.random.default_rng(1).bytes(192 * 21), dtype).copy()
        records["stamp"] = np.arange(21) + 1
        writer.add(records, times=(1000, 3000))
        save(tmp_path, writer)
        stream = signalbus.open_capture(tmp_path)[f"bridge.ring{record_type}"]
        assert stream.record_type == signalbus.RecordType.RAW
        assert stream.records().tobytes() == records.tobytes()
        block = next(stream.blocks())
        assert block.times_ns.tolist() == list(range(1000, 3001, 100))
        assert len(stream.records(start=2000, stop=2500)) == 5


def test_compressed(tmp_path):
    pytest.importorskip("zstandard")
    records = write_capture(tmp_path, compressed=True)
    opened = signalbus.open_capture(tmp_path)
    for name, wanted in records.items():
        assert opened[name].records().tobytes() == wanted.tobytes()
    assert opened.verify() == sum(map(len, records.values()))


def test_a_segment_that_is_being_compressed(tmp_path):
    """Both files are there for a moment; the plain one goes last, so it is whole."""
    pytest.importorskip("zstandard")
    records = write_capture(tmp_path)
    (tmp_path / "feed.features.000000.npy.zst").write_bytes(b"half")
    assert signalbus.open_capture(tmp_path)["feed.features"].records().tobytes() == records["feed.features"].tobytes()


def test_holes_that_fill(tmp_path):
    """Writes of a recorder end in any order."""
    writer = Writer("feed", "features", 1, 128)
    for start in range(0, 93, 31):
        writer.add(features(31, start))
    image = writer.image(spare=1)
    path = tmp_path / "feed.features.000000.npy"
    path.write_bytes(image[:8192] + bytes(4096) + image[12288:])

    def fill():
        with open(path, "r+b") as file:
            file.seek(8192)
            file.write(image[8192:12288])

    timer = threading.Timer(0.02, fill)
    timer.start()
    assert len(signalbus.open_capture(tmp_path)["feed.features"]) == 93
    timer.join()


def test_compressed_without_zstandard(tmp_path, monkeypatch):
    (tmp_path / "feed.features.000000.npy.zst").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(signalbus.MissingLibraryError, match=r"pip install 'signalbus\[zstd\]'"):
        signalbus.open_capture(tmp_path)


def refuse(path, words, kind=signalbus.DamageError):
    with pytest.raises(kind, match=words) as caught:
        signalbus.open_capture(path).verify()
    return caught.value


def test_what_is_no_capture(tmp_path):
    refuse(tmp_path / "nothing", "No such file", signalbus.CaptureError)
    refuse(tmp_path, "no capture", signalbus.CaptureError)
    (tmp_path / "a.b.000000.npy").write_bytes(b"")
    assert refuse(tmp_path, "cut within its header").offset == 0
    np.save(tmp_path / "a.b.000000.npy", np.zeros(3000))
    refuse(tmp_path, "not that of a capture")
    (tmp_path / "a.b.000000.npy").unlink()
    (tmp_path / "a.b.000000.npy").mkdir()
    refuse(tmp_path, "directory", signalbus.CaptureError)


def test_segments_that_are_missing_or_exchanged(capture):
    directory, _ = capture
    first, second = (directory / f"feed.features.00000{i}.npy" for i in (0, 1))
    third = directory / "feed.features.000002.npy"
    shutil.copy(second, third)
    refuse(directory, "positions before those of the segment before")
    second.unlink()
    refuse(directory, "the segment before it is missing")
    third.unlink()
    assert len(signalbus.open_capture(directory)["feed.features"]) == 93
    first.rename(directory / "feed.other.000000.npy")
    refuse(directory, "its name says feed.other")


def test_errors_name_path_block_and_offset(capture):
    directory, _ = capture
    path = directory / "feed.features.000001.npy"
    data = bytearray(path.read_bytes())
    data[4096 * 3 + 500] ^= 4
    path.write_bytes(data)
    stream = signalbus.open_capture(directory)["feed.features"]
    with pytest.raises(signalbus.DamageError, match="CRC-32C") as caught:
        stream.records()
    error = caught.value
    assert (error.path, error.block, error.offset) == (str(path), 2, 4096 * 3)
    assert str(path) in str(error) and "block 2 at byte 12288" in str(error)
    before = [block.records for block in zip_until_damage(stream)]
    assert sum(map(len, before)) == 4 * 31  # all whole blocks before the damage


def zip_until_damage(stream):
    blocks = stream.blocks()
    while True:
        try:
            yield next(blocks)
        except (StopIteration, signalbus.DamageError):
            return


def test_meta_that_cannot_be(tmp_path):
    for change, words in (({"version": 2}, "version 2"), ({"format": "x"}, "not that of a capture")):
        writer = Writer("feed", "features", 1, 128, **change)
        save(tmp_path, writer)
        refuse(tmp_path, words)
    writer = Writer("feed", "features", 1, 128)
    writer.blocks.clear()
    writer._seal(2, 3, 0, 0, (0, 0), 0, b"[1}")
    save(tmp_path, writer)
    refuse(tmp_path, "Expecting")


def test_meta_changes_within_a_segment(tmp_path):
    writer = Writer("feed", "features", 1, 128)
    writer.add(features(10))
    writer.meta["symbols"] = [*writer.meta["symbols"], {"name": "NEW", "price_exponent": 0, "size_exponent": 0}]
    writer.add_meta()
    writer.add(features(10, 10))
    save(tmp_path, writer)
    stream = signalbus.open_capture(tmp_path)["feed.features"]
    assert [len(block.meta.symbols) for block in stream.blocks()] == [2, 3] and stream.symbols[2] == "NEW"


def test_verify_false_still_checks_the_order(tmp_path):
    writer = Writer("infer", "signals", 2, 64)
    records = signals(40)
    writer.add(records)
    image = bytearray(writer.image())
    image[8192 + 64 + 20] ^= 1
    path = tmp_path / "infer.signals.000000.npy"
    path.write_bytes(image)
    assert len(signalbus.open_capture(tmp_path, verify=False)["infer.signals"].records()) == 40
    image[8192 + 64 * 8 + 56] ^= 128
    path.write_bytes(image)
    with pytest.raises(signalbus.DamageError, match="do not ascend"):
        signalbus.open_capture(tmp_path, verify=False)["infer.signals"].records()
    assert json.loads(json.dumps(writer.meta))["ring"] == "signals"
