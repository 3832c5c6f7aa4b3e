"""Any cut and any flipped bit is found; what is yielded before it is what was recorded."""

import random

import numpy as np
import pytest
from writer import Writer, features, save, signals

import signalbus
from signalbus import DamageError, segment


@pytest.fixture(autouse=True)
def no_recorder(monkeypatch):
    """Nobody writes here: no need to wait for writes that are under way."""
    monkeypatch.setattr(segment, "ATTEMPTS", 2)
    monkeypatch.setattr(segment, "PAUSE_S", 0)


def small(compressed=False):
    writer = Writer("feed", "features", 1, 128)
    writer.add(features(31))
    writer.add(features(20, 31))
    records = np.concatenate([features(31), features(20, 31)])
    return (writer.compressed() if compressed else writer.image()), records


def open_damaged(path, data):
    path.write_bytes(data)
    return signalbus.open_capture(path)


def must_not_be_believed(path, data, records):
    """verify() raises; what blocks() yields is a prefix of what was recorded."""
    with pytest.raises(DamageError) as caught:
        open_damaged(path, data).verify()
    assert str(path) in str(caught.value)
    taken = b""
    try:
        for block in open_damaged(path, data)["feed.features"].blocks():
            taken += block.records.tobytes()
        whole = True
    except DamageError:
        whole = False
    assert records.tobytes().startswith(taken)
    assert not whole or taken == records.tobytes()


def test_every_cut(tmp_path):
    image, records = small()
    path = tmp_path / "feed.features.000000.npy"
    for size in range(len(image)):
        if size % 7 == 0 or size % 4096 < 70 or size % 4096 > 4090:
            with pytest.raises(DamageError):
                open_damaged(path, image[:size]).verify()
    for more in (1, 4096):
        must_not_be_believed(path, image + bytes(more), records)


def test_every_bit_of_headers(tmp_path):
    image, records = small()
    path = tmp_path / "feed.features.000000.npy"
    text = image[:4096].rstrip().__len__()
    places = [*range(0, 64), *range(text - 80, text + 8), 4094, 4095]
    places += [4096 * block + i for block in (1, 2, 3) for i in range(64)]
    for at in places:
        for bit in range(8):
            data = bytearray(image)
            data[at] ^= 1 << bit
            must_not_be_believed(path, bytes(data), records)


def test_random_flips(tmp_path):
    image, records = small()
    path = tmp_path / "feed.features.000000.npy"
    choose = random.Random(5)
    for _ in range(1500):
        data = bytearray(image)
        for _ in range(choose.choice((1, 1, 1, 2, 30))):
            data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        if bytes(data) != image:
            must_not_be_believed(path, bytes(data), records)


def test_slices_of_damaged_captures(tmp_path):
    """A flipped time in a header steers the search wrong: it must be found, not believed."""
    writer = Writer("feed", "features", 1, 128)
    records = features(31 * 12)
    for start in range(0, len(records), 31):
        writer.add(records[start : start + 31])
    image = writer.image()
    path = tmp_path / "feed.features.000000.npy"
    choose = random.Random(6)
    times = records["timestamp_ns"]
    for _ in range(1500):
        data = bytearray(image)
        data[4096 * choose.randrange(2, 14) + choose.randrange(64)] ^= 1 << choose.randrange(8)
        low = int(times[choose.randrange(len(times))])
        high = low + choose.randrange(1, 200_000)
        try:
            got = open_damaged(path, data)["feed.features"].records(low, high)
        except DamageError:
            continue
        assert got.tobytes() == records[(times >= low) & (times < high)].tobytes()


def test_bytes_that_no_record_is_in(tmp_path):
    writer = Writer("feed", "features", 1, 128)
    writer.add(features(10))
    path = tmp_path / "feed.features.000000.npy"
    image = writer.image(spare=2)
    for at, words in ((8192 + 64 + 1280, "behind the payload"), (8192 + 4095, "behind the payload"),
                      (12288 + 64, "behind the last block"), (len(image) - 1, "behind the last block")):  # fmt: skip
        data = bytearray(image)
        data[at] = 1
        with pytest.raises(DamageError, match=words):
            open_damaged(path, data).verify()


def test_blocks_that_were_exchanged_or_zeroed(tmp_path):
    image, records = small()
    path = tmp_path / "feed.features.000000.npy"
    a, b, c = (image[4096 * i : 4096 * (i + 1)] for i in (1, 2, 3))
    for blocks in ((a, c, b), (b, a, c), (a, b, b), (a, bytes(4096), c), (bytes(4096), b, c)):
        must_not_be_believed(path, image[:4096] + b"".join(blocks), records)
    other = Writer("feed", "others", 1, 128)
    other.add(features(31))
    must_not_be_believed(path, image[:8192] + other.blocks[1] + c, records)


def test_compressed_damage(tmp_path):
    pytest.importorskip("zstandard")
    image, records = small(compressed=True)
    path = tmp_path / "feed.features.000000.npy.zst"
    choose = random.Random(7)
    for size in range(0, len(image), 11):
        with pytest.raises(DamageError):
            open_damaged(path, image[:size]).verify()
    for _ in range(1500):
        data = bytearray(image)
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
        try:
            got = open_damaged(path, bytes(data))
            got.verify()
        except DamageError:
            continue
        assert got["feed.features"].records().tobytes() == records.tobytes()  # a bit that means nothing to zstd


def test_nothing_but_damage_errors_from_garbage(tmp_path):
    hypothesis = pytest.importorskip("hypothesis")
    image, _ = small()
    path = tmp_path / "feed.features.000000.npy"

    @hypothesis.settings(max_examples=300, deadline=None, database=None)
    @hypothesis.given(hypothesis.strategies.data())
    def check(data):
        changed = bytearray(image)
        for _ in range(data.draw(hypothesis.strategies.integers(1, 4))):
            at = data.draw(hypothesis.strategies.integers(0, len(image) - 1))
            part = data.draw(hypothesis.strategies.binary(min_size=1, max_size=80))
            changed[at : at + len(part)] = part
        changed = bytes(changed[: len(image)])
        if changed == image:
            return
        with pytest.raises(DamageError):
            open_damaged(path, changed).verify()

    check()


def test_a_signal_time_that_lies(tmp_path):
    writer = Writer("infer", "signals", 2, 64)
    writer.add(signals(10), times=(5, 10**12))
    save(tmp_path, writer)
    with pytest.raises(DamageError, match="times of first and last"):
        signalbus.open_capture(tmp_path)["infer.signals"].records()
