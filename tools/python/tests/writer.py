"""Writes captures, from the description of the format and without a line of the package."""

import json
import struct

import numpy as np

FEATURE_DESCR = (
    "('timestamp_ns', '<u8'), ('bid_price', '<i8'), ('ask_price', '<i8'), ('bid_size', '<i8'), ('ask_size', '<i8'), "
    "('exchange_delay_us', '<i4'), ('book_imbalance', '<i4'), ('update', '<u4'), ('symbol', '<u2'), "
    "('trigger', '|u1'), ('flags', '|u1'), ('x', '<f4', (16,))"
)
SIGNAL_DESCR = (
    "('timestamp_ns', '<u8'), ('feature_position', '<u8'), ('target_price', '<i8'), ('score', '<f4', (3,)), "
    "('queue_ns', '<u4'), ('inference_ns', '<u4'), ('batch', '<u2'), ('source', '<u2'), ('symbol', '<u2'), "
    "('model', '<u2'), ('direction', '|i1'), ('confidence', '|u1'), ('engine', '|u1'), ('flags', '|u1')"
)
GAP_DESCR = (
    "('time_ns', '<u8'), ('first', '<u8'), ('last', '<u8'), ('instance', '<u8'), ('stream', '<u4'), "
    "('cause', '|u1'), ('reserved0', '|V19')"
)
DESCR = {1: (128, FEATURE_DESCR), 2: (64, SIGNAL_DESCR), 3: (64, GAP_DESCR)}
OFFSET_NS = 1_700_000_000_000_000_000
SYMBOLS = [
    {"name": "BTCUSDT", "price_exponent": -2, "size_exponent": -5, "tick_size": 1},
    {"name": "ETHUSDT", "price_exponent": -3, "size_exponent": 0, "tick_size": 10},
]


def crc_of_byte(crc):
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


CRC_TABLE = [crc_of_byte(byte) for byte in range(256)]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


try:
    import google_crc32c

    def checksum(data):
        return google_crc32c.value(data)
except ImportError:
    checksum = crc32c


def fnv1a32(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value % 2**32


def npy_header(record_type, record_size, block_size, blocks):
    capacity = (block_size - 64) // record_size
    padding = block_size - 64 - capacity * record_size
    if record_type in DESCR and DESCR[record_type][0] == record_size:
        fields = DESCR[record_type][1]
    else:
        fields = f"('{'bytes' if record_type == 0 else f'type{record_type}'}', '|V{record_size - 8}')"
    text = (
        "{'descr': [('magic', '<u4'), ('crc32c', '<u4'), ('kind', '<u4'), ('count', '<u4'), ('first', '<u8'), "
        "('last', '<u8'), ('first_time_ns', '<u8'), ('last_time_ns', '<u8'), ('number', '<u4'), ('stream', '<u4'), "
        f"('lost', '<u8'), ('records', [{fields}, ('stamp', '<u8')], ({capacity},))"
    )
    if padding:
        text += f", ('padding', '|V{padding}')"
    text += f"], 'fortran_order': False, 'shape': ({blocks},), }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 4086) + text.encode().ljust(4085) + b"\n"


def record_time(record_type, record):
    time_ns = struct.unpack_from("<Q", record)[0]
    return time_ns + sum(struct.unpack_from("<II", record, 36)) if record_type == 2 else time_ns


class Writer:
    """A segment in memory; `image()` is its file."""

    def __init__(self, member, ring, record_type, record_size, block_size=4096, **meta):
        self.stream, self.record_type, self.record_size = f"{member}.{ring}", record_type, record_size
        self.block_size, self.blocks, self.end = block_size, [], None
        self.meta = {
            "format": "signal-bus capture",
            "version": 1,
            "member": member,
            "ring": ring,
            "record_type": {0: "raw", 1: "feature", 2: "signal", 3: "gap"}.get(record_type, "?"),
            "record_size": record_size,
            "instance": "12345678901234567",
            "epoch": "1",
            "realtime_offset_ns": str(OFFSET_NS),
            "symbols": SYMBOLS,
            "inputs": [{"member": "feed", "ring": "features"}] if record_type == 2 else [],
            **meta,
        }
        self.add_meta()

    def _seal(self, kind, count, first, last, times, lost, payload):
        tail = struct.pack("<IIQQQQIIQ", kind, count, first, last, *times, len(self.blocks), fnv1a32(self.stream), lost)
        data = struct.pack("<II", 0x314B4253, checksum(tail + payload)) + tail + payload
        self.blocks.append(data.ljust(self.block_size, b"\0"))

    def add_meta(self):
        text = json.dumps(self.meta).encode()
        self._seal(2, len(text), 0, 0, (0, 0), 0, text)

    def add(self, records, times=None, lost=None):
        """A DATA block of `records`, an array with the stamps in place."""
        rows = [bytes(record) for record in records]
        positions = [(struct.unpack("<Q", row[-8:])[0] - 1) % 2**64 for row in rows]
        inside = (positions[-1] - positions[0] + 1 - len(rows)) % 2**64
        before = 0 if self.end is None else (positions[0] - self.end) % 2**64
        self.end = (positions[-1] + 1) % 2**64
        if times is None:
            times = record_time(self.record_type, rows[0]), record_time(self.record_type, rows[-1])
        self._seal(
            1, len(rows), positions[0], positions[-1], times, inside + before if lost is None else lost, b"".join(rows)
        )

    def image(self, spare=0):
        header = npy_header(self.record_type, self.record_size, self.block_size, len(self.blocks) + spare)
        return header + b"".join(self.blocks) + bytes(spare * self.block_size)

    def compressed(self):
        import zstandard

        compressor = zstandard.ZstdCompressor(level=3)
        header = npy_header(self.record_type, self.record_size, self.block_size, len(self.blocks))
        return b"".join(compressor.compress(part) for part in [header, *self.blocks])


def features(count, start=0, seed=0, step=1):
    """Features as the bus has them, an array of the dtype in the description."""
    import ast

    random = np.random.default_rng(seed + start)
    records = np.zeros(count, np.dtype(ast.literal_eval(f"[{FEATURE_DESCR}, ('stamp', '<u8')]")))
    positions = start + step * np.arange(count, dtype=np.uint64)
    records["timestamp_ns"] = 10**12 + positions * 1000
    records["bid_price"] = 6_000_000 + random.integers(-50, 50, count).cumsum()
    records["ask_price"] = records["bid_price"] + random.integers(1, 5, count)
    records["bid_size"] = random.integers(1, 10**6, count)
    records["ask_size"] = random.integers(1, 10**6, count)
    records["exchange_delay_us"] = np.where(positions % 5 == 0, -(2**31), random.integers(-100, 100, count))
    records["book_imbalance"] = random.integers(-(2**30), 2**30, count)
    records["update"] = positions
    records["symbol"] = positions % 2
    records["trigger"], records["flags"] = 1, 1
    records["x"] = random.normal(size=(count, 16))
    records["stamp"] = positions + 1
    return records


def signals(count, start=0, seed=0):
    import ast

    random = np.random.default_rng(seed + start)
    records = np.zeros(count, np.dtype(ast.literal_eval(f"[{SIGNAL_DESCR}, ('stamp', '<u8')]")))
    positions = start + np.arange(count, dtype=np.uint64)
    records["timestamp_ns"] = 10**12 + positions * 1000
    records["feature_position"] = positions
    records["target_price"] = 6_000_000 + random.integers(0, 500, count)
    records["score"] = random.dirichlet((1, 1, 1), count)
    records["queue_ns"] = random.integers(100, 300, count)
    records["inference_ns"] = random.integers(100, 300, count)
    records["batch"], records["symbol"], records["model"] = 1, positions % 2, 0xABCD
    records["direction"], records["confidence"] = positions % 3 - 1.0, positions % 101
    records["engine"], records["flags"] = 2, 1
    records["stamp"] = positions + 1
    return records


def write_capture(directory, blocks=6, per_block=31, compressed=False):
    """Features in two segments, signals, and raw records; returns the records by stream."""
    capacity = {"feed.features": per_block, "infer.signals": 63}
    written = {"feed.features": [], "infer.signals": []}
    for segment in range(2):
        writer = Writer("feed", "features", 1, 128)
        if segment:
            writer.end = blocks // 2 * per_block
        for block in range(blocks // 2):
            records = features(per_block, (segment * (blocks // 2) + block) * per_block)
            writer.add(records)
            written["feed.features"].append(records)
        save(directory, writer, segment, compressed)
    writer = Writer("infer", "signals", 2, 64)
    total = blocks * per_block
    for start in range(0, total, capacity["infer.signals"]):
        records = signals(min(capacity["infer.signals"], total - start), start)
        writer.add(records)
        written["infer.signals"].append(records)
    save(directory, writer, 0, compressed)
    return {name: np.concatenate(parts) for name, parts in written.items()}


def save(directory, writer, segment=0, compressed=False, spare=0):
    path = directory / f"{writer.stream}.{segment:06}.npy{'.zst' if compressed else ''}"
    path.write_bytes(writer.compressed() if compressed else writer.image(spare))
    return path
