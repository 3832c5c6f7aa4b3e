"""One file of a capture: its .npy header, its blocks, and the checks that every byte goes through.

A segment is hostile input: nothing of a block is handed out before all of it was checked. Files of a capture are only
ever appended to, and cut behind their last block when they are closed; headers are read with system calls, so only
blocks that were there when they were counted are touched through a map.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from . import layout
from .crc32c import crc32c
from .errors import CaptureError, DamageError, MissingLibraryError
from .layout import Array

_NPY_PREFIX = b"\x93NUMPY\x01\x00"
_RECORDS = "('records', ["
_FILE_NAME = re.compile(r"(?P<stream>[^./][^/]*\.[^/]+)\.(?P<segment>\d{6,10})\.npy(?P<compressed>\.zst)?", re.ASCII)
ATTEMPTS = 10
"""How often what a recorder may be writing just now is looked at before it counts as damaged."""
PAUSE_S = 0.01
"""Seconds between two looks."""
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def _number(text: str, before: str, start: int = 0) -> int:
    """The decimal number behind the first `before` from `start` on. Raises ValueError when there is none."""
    at = text.index(before, start) + len(before)
    match = re.compile(r"\d{1,10}", re.ASCII).match(text, at)
    if match is None:
        raise ValueError(before)
    return int(match.group())


@dataclass(frozen=True)
class Shape:
    """What the .npy header of a segment says; all 4096 bytes of it follow from these four."""

    record_type: int
    record_size: int
    block_size: int
    blocks: int

    @property
    def capacity(self) -> int:
        """Records that fit a block."""
        return (self.block_size - layout.BLOCK_HEADER_BYTES) // self.record_size

    def is_possible(self) -> bool:
        """Whether sizes and count are within the limits of the format."""
        return (
            self.record_size % 64 == 0
            and 64 <= self.record_size <= layout.RECORD_BYTES_MAX
            and self.block_size % layout.BLOCK_BYTES_MIN == 0
            and layout.BLOCK_BYTES_MIN <= self.block_size <= layout.BLOCK_BYTES_MAX
            and self.capacity > 0
            and 0 <= self.blocks <= layout.BLOCKS_MAX
        )

    def header(self) -> bytes:
        """The 4096 bytes that such a file begins with."""
        descr = layout.block_descr(self.record_type, self.record_size, self.block_size)
        text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': ({self.blocks},), }}".encode()
        length = layout.FILE_HEADER_BYTES - len(_NPY_PREFIX) - 2
        return _NPY_PREFIX + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"

    @staticmethod
    def parse(header: bytes) -> Shape:
        """Takes the shape out of 4096 bytes. Raises ValueError, with the place, unless all are right."""
        if not header.startswith(_NPY_PREFIX):
            raise ValueError("not a .npy file of version 1.0")
        text = header.decode("latin-1")
        try:
            start = text.index(_RECORDS) + len(_RECORDS)
            record_type, record_size = Shape._parse_record(text, start)
            capacity = _number(text, "], (", start)
            blocks = _number(text, "'shape': (", start)
            padding = _number(text, "('padding', '|V", start) if "('padding', '|V" in text else 0
        except ValueError:
            raise ValueError("the .npy header is not that of a capture") from None
        shape = Shape(record_type, record_size, layout.BLOCK_HEADER_BYTES + capacity * record_size + padding, blocks)
        if not shape.is_possible():
            raise ValueError("the .npy header is damaged")
        wanted = shape.header()
        if wanted != header:
            place = next(i for i in range(len(wanted)) if i >= len(header) or wanted[i] != header[i])
            raise ValueError(f"the .npy header is damaged at byte {place}")
        return shape

    @staticmethod
    def _parse_record(text: str, start: int) -> tuple[int, int]:
        for kind, size in (
            (layout.RecordType.FEATURE, 128),
            (layout.RecordType.SIGNAL, 64),
            (layout.RecordType.GAP, 64),
        ):
            if text.startswith(str(layout.record_descr(kind, size))[1:-1], start):
                return kind, size
        for kind in (layout.RecordType.LLM_REQUEST, layout.RecordType.LLM_REPLY):
            header = str(layout.record_descr(kind, 192)[:-2])[1:-1]
            if text.startswith(header, start):
                return kind, _number(text, "('text', '|V", start) + layout.LLM_HEADER_BYTES + 8
        record_type = _number(text, "('type", start) if text.startswith("('type", start) else 0
        return record_type, _number(text, "', '|V", start) + 8


class Meta(dict[str, Any]):
    """What a META block says about its stream: a dict of its JSON, with the fields of the format as attributes."""

    def _number(self, name: str) -> int:
        value = self.get(name, 0)
        return int(value) if isinstance(value, (int, str)) else 0

    @property
    def stream(self) -> str:
        """The stream's name, "member.ring"."""
        return f"{self.get('member', '')}.{self.get('ring', '')}"

    @property
    def instance(self) -> int:
        """Which life of the producer's file the positions count in."""
        return self._number("instance")

    @property
    def realtime_offset_ns(self) -> int:
        """CLOCK_REALTIME - bus clock on the recording machine, ns."""
        return self._number("realtime_offset_ns")

    @property
    def symbols(self) -> list[dict[str, Any]]:
        """Symbol table: `name`, `price_exponent`, `size_exponent`, `tick_size`; `symbol` of a record indexes it."""
        return self._rows(self.get("symbols"))

    @property
    def filtered(self) -> str:
        """What a cut kept, as "symbols BTCUSDT"; empty for a whole recording. Positions left out so are no gaps."""
        value = self.get("filtered")
        return value if isinstance(value, str) else ""

    @staticmethod
    def _rows(rows: Any) -> list[dict[str, Any]]:
        return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else []

    def symbol_table(self, name: str) -> list[dict[str, Any]]:
        """The table of that name where the member has several; those of an inference member are named after feeds."""
        tables = self.get("symbol_tables")
        return self._rows(tables.get(name)) if isinstance(tables, dict) else []

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """The rings, (member, ring), that `source` of a signal indexes."""
        return [(str(row.get("member")), str(row.get("ring"))) for row in self._rows(self.get("inputs"))]

    @staticmethod
    def parse(text: bytes) -> Meta:
        """Raises ValueError unless it is the JSON of a version that this package knows."""
        value = json.loads(text.decode("utf-8"))
        if not isinstance(value, dict) or value.get("format") != "signal-bus capture":
            raise ValueError("META is not that of a capture")
        if value.get("version") != 1:
            raise ValueError(f"version {value.get('version')} of the format; this package knows version 1")
        return Meta(value)


class _Storage(Protocol):
    """Where the bytes of a segment come from."""

    def header(self) -> bytes: ...
    def check(self, shape: Shape) -> None: ...
    def block_header(self, number: int) -> bytes: ...
    def block(self, number: int) -> Array: ...
    def tail(self, start: int) -> Iterator[tuple[int, Array]]: ...
    def offset(self, number: int) -> int: ...


class _PlainStorage:
    """An uncompressed segment."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.map: Array | None = None

    def __del__(self) -> None:
        os.close(self.descriptor)

    def header(self) -> bytes:
        return os.pread(self.descriptor, layout.FILE_HEADER_BYTES, 0)

    def check(self, shape: Shape) -> None:
        self.block_size = shape.block_size
        wanted = layout.FILE_HEADER_BYTES + shape.blocks * shape.block_size
        size = os.fstat(self.descriptor).st_size
        if size != wanted:
            raise DamageError(
                self.path, f"{size} bytes, and {wanted} by its header: cut, or closed just now", offset=size
            )

    def offset(self, number: int) -> int:
        return layout.FILE_HEADER_BYTES + number * self.block_size

    def block_header(self, number: int) -> bytes:
        return os.pread(self.descriptor, layout.BLOCK_HEADER_BYTES, self.offset(number))

    def block(self, number: int) -> Array:
        end = self.offset(number + 1)
        if self.map is None or len(self.map) < end:
            self.map = np.memmap(self.path, np.uint8, "r")
        if os.fstat(self.descriptor).st_size < end or len(self.map) < end:
            raise DamageError(self.path, "the file was cut while it was read", number, self.offset(number))
        return self.map[self.offset(number) : end].view(np.ndarray)

    def tail(self, start: int) -> Iterator[tuple[int, Array]]:
        at = self.offset(start)
        while data := os.pread(self.descriptor, 1 << 20, at):
            yield at, np.frombuffer(data, np.uint8)
            at += len(data)


class _ZstdStorage:
    """A compressed segment: one frame for the header, and one for each block."""

    def __init__(self, path: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise MissingLibraryError("zstandard", f"{path}: a compressed segment", "zstd") from None
        self.path = path
        self.zstandard = zstandard
        with open(path, "rb") as file:
            self.data = (
                np.memmap(file, np.uint8, "r").view(np.ndarray)
                if os.fstat(file.fileno()).st_size
                else np.zeros(0, np.uint8)
            )
        self.frames = self._find_frames()
        self.block_size = 0
        self.cached: tuple[int, Array] | None = None

    def _find_frames(self) -> list[tuple[int, int]]:
        """Begin and end of each frame, by the sizes in the headers of its blocks; nothing is decompressed."""
        frames, at = [], 0
        while at < len(self.data):
            start, at = at, self._frame_end(at)
            frames.append((start, at))
        return frames

    def _frame_end(self, start: int) -> int:
        head = self.data[start : start + 18].tobytes()
        if not head.startswith(_ZSTD_MAGIC):
            raise DamageError(self.path, "no zstd frame where one must begin", offset=start)
        try:
            at = start + int(self.zstandard.frame_header_size(head))
            checksum = bool(self.zstandard.get_frame_parameters(head).has_checksum)
        except self.zstandard.ZstdError as error:
            raise DamageError(self.path, f"zstd frame: {error}", offset=start) from None
        last = False
        while not last:
            header = int.from_bytes(self.data[at : at + 3].tobytes(), "little")
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            at += 3 + (1 if kind == 1 else size)
            if kind == 3 or at > len(self.data):
                raise DamageError(self.path, "zstd frame: cut or damaged", offset=start)
        at += 4 if checksum else 0
        if at > len(self.data):
            raise DamageError(self.path, "zstd frame: cut", offset=start)
        return at

    def _decompress(self, frame: int, size: int) -> bytes:
        start, end = self.frames[frame]
        data = self.data[start:end].tobytes()
        try:
            if self.zstandard.get_frame_parameters(data).content_size not in (size, (1 << 64) - 1, -1):
                raise DamageError(self.path, f"zstd frame: not of {size} bytes", frame - 1 if frame else None, start)
            result = bytes(self.zstandard.ZstdDecompressor().decompress(data, max_output_size=size))
        except self.zstandard.ZstdError as error:
            raise DamageError(self.path, f"zstd: {error}", frame - 1 if frame else None, start) from None
        if len(result) != size:
            raise DamageError(self.path, f"zstd frame: {len(result)} bytes, not {size}", frame - 1, start)
        return result

    def header(self) -> bytes:
        return self._decompress(0, layout.FILE_HEADER_BYTES) if self.frames else b""

    def check(self, shape: Shape) -> None:
        self.block_size = shape.block_size
        if len(self.frames) - 1 != shape.blocks:
            raise DamageError(self.path, f"{len(self.frames) - 1} blocks, and {shape.blocks} by its header: cut")

    def offset(self, number: int) -> int:
        return self.frames[number + 1][0]

    def block_header(self, number: int) -> bytes:
        start, end = self.frames[number + 1]
        try:
            source = self.zstandard.ZstdDecompressor().stream_reader(self.data[start:end].tobytes())
            return bytes(source.read(layout.BLOCK_HEADER_BYTES))
        except self.zstandard.ZstdError as error:
            raise DamageError(self.path, f"zstd: {error}", number, start) from None

    def block(self, number: int) -> Array:
        if self.cached is None or self.cached[0] != number:
            self.cached = number, np.frombuffer(self._decompress(number + 1, self.block_size), np.uint8)
        return self.cached[1]

    def tail(self, start: int) -> Iterator[tuple[int, Array]]:
        for number in range(start, len(self.frames) - 1):
            yield self.offset(number), self.block(number)


@dataclass(frozen=True)
class FileName:
    """What the name of a segment says."""

    stream: str
    segment: int
    compressed: bool

    @staticmethod
    def parse(name: str) -> FileName | None:
        """None when `name` (without a directory) is not that of a segment."""
        match = _FILE_NAME.fullmatch(name)
        if match is None or len(match["stream"]) > 63 or (len(match["segment"]) > 6 and match["segment"][0] == "0"):
            return None
        return FileName(match["stream"], int(match["segment"]), match["compressed"] is not None)


class Segment:
    """A file of a capture, checked as it is used.

    Attributes:
        path: The file.
        number: Of the segment in its stream.
        shape: Sizes and record type.
        headers: The headers of the blocks written, as an array of layout.BLOCK_HEADER.
        metas: (number of the META block, what it says), in order; the first is that of block 0.
        is_open: True when room behind the last block says that the recorder still writes it, or did not close it.
    """

    def __init__(self, path: str, verify: bool = True) -> None:
        """Opens the file, checks its header, and takes the headers of all its blocks."""
        self.path = path
        self.verify = verify
        name = FileName.parse(os.path.basename(path))
        self._open(compressed=path.endswith(".zst"))
        self._load_headers()
        self._check_headers()
        self._checked = bytearray(len(self.headers))
        self.metas: list[tuple[int, Meta]] = []
        for number in np.flatnonzero(self.headers["kind"] == layout.BLOCK_META):
            self.metas.append((int(number), self._read_meta(int(number))))
        self.stream = self.metas[0][1].stream if self.metas else name.stream if name else ""
        self.number = name.segment if name else 0
        self._check_stream(name)

    def _open(self, compressed: bool) -> None:
        """A recorder may begin or close the file between two looks at it: then look again."""
        for attempt in range(ATTEMPTS):
            try:
                self._take_shape(compressed)
                break
            except DamageError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(PAUSE_S)
        self.dtype = np.dtype(layout.block_descr(self.shape.record_type, self.shape.record_size, self.shape.block_size))

    def _take_shape(self, compressed: bool) -> None:
        try:
            self.storage: _Storage = _ZstdStorage(self.path) if compressed else _PlainStorage(self.path)
            header = self.storage.header()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CaptureError(self.path, error.strerror or str(error)) from error
        if len(header) < layout.FILE_HEADER_BYTES:
            reason = f"cut within its header of {layout.FILE_HEADER_BYTES} bytes"
            raise DamageError(self.path, reason, offset=len(header))
        try:
            self.shape = Shape.parse(header)
        except ValueError as error:
            raise DamageError(self.path, str(error), offset=0) from None
        self.storage.check(self.shape)

    def _load_headers(self) -> None:
        """A recorder has several writes under way, which end in any order: a hole may be one that fills in a moment."""
        for attempt in range(ATTEMPTS):
            raw = self._read_headers()
            written = next((number for number, header in enumerate(raw) if not any(header)), len(raw))
            if not any(any(header) for header in raw[written:]):
                break
            if attempt == ATTEMPTS - 1:
                offset = self.storage.offset(written)
                raise DamageError(self.path, "not written, and later ones are", written, offset)
            time.sleep(PAUSE_S)
        self.headers: Array = np.frombuffer(b"".join(raw[:written]), layout.BLOCK_HEADER).copy()
        self.is_open = written < self.shape.blocks

    def _read_headers(self) -> list[bytes]:
        """Of all blocks; of those behind the end of a file that was closed meanwhile: zeros."""
        raw = []
        for number in range(self.shape.blocks):
            header = self.storage.block_header(number)
            if len(header) not in (0, layout.BLOCK_HEADER_BYTES):
                raise DamageError(self.path, "cut within the header of a block", number, self.storage.offset(number))
            raw.append(header or bytes(layout.BLOCK_HEADER_BYTES))
        return raw

    def _refuse(self, wrong: Array, reason: str) -> None:
        if wrong.any():
            number = int(np.flatnonzero(wrong)[0])
            raise DamageError(self.path, reason, number, self.storage.offset(number))

    def _check_headers(self) -> None:
        headers, shape = self.headers, self.shape
        data = headers["kind"] == layout.BLOCK_DATA
        room = np.where(data, shape.capacity, shape.block_size - layout.BLOCK_HEADER_BYTES)
        self._refuse(headers["magic"] != layout.BLOCK_MAGIC, "the magic of a block is damaged")
        self._refuse(~data & (headers["kind"] != layout.BLOCK_META), "unknown kind of block")
        self._refuse((headers["count"] == 0) | (headers["count"] > room), "impossible count")
        self._refuse(headers["number"] != np.arange(len(headers)), "a block of another place")
        self._refuse(headers["stream"] != headers["stream"][:1].repeat(len(headers)), "a block of another stream")
        if len(headers) and data[0]:
            raise DamageError(self.path, "a segment begins with META", 0, self.storage.offset(0))
        inside = headers["last"] - headers["first"] + np.uint64(1) - headers["count"]
        self._refuse(data & (headers["lost"] < inside), "fewer positions lost than are missing inside")
        index = np.flatnonzero(data)
        steps = (headers["first"][index[1:]] - headers["last"][index[:-1]]).view(np.int64)
        wrong = np.zeros(len(headers), bool)
        wrong[index[1:]] = steps <= 0
        self._refuse(wrong, "positions before those of the block before")

    def _check_stream(self, name: FileName | None) -> None:
        if not len(self.headers):
            return
        if name is not None and name.stream != self.stream:
            raise DamageError(self.path, f"its blocks are of stream {self.stream}, its name says {name.stream}")
        if self.headers["stream"][0] != layout.stream_id(self.stream):
            raise DamageError(self.path, f"its blocks do not carry the number of stream {self.stream}", 0)

    def _read_meta(self, number: int) -> Meta:
        block = self.check_block(number)
        start, count = layout.BLOCK_HEADER_BYTES, int(self.headers["count"][number])
        try:
            return Meta.parse(block[start : start + count].tobytes())
        except (ValueError, RecursionError) as error:
            raise DamageError(self.path, str(error), number, self.storage.offset(number)) from None

    def meta_of(self, number: int) -> Meta:
        """What was in force when block `number` was written."""
        return next(meta for at, meta in reversed(self.metas) if at <= number)

    def _may_grow(self, number: int) -> bool:
        return number == len(self.headers) - 1 and not self.path.endswith(".zst")

    def check_block(self, number: int) -> Array:
        """All bytes of block `number`, once they were checked. Raises DamageError.

        The last block of a segment may be written again, fuller, at any moment: one that does not check is
        looked at again.
        """
        block = self.storage.block(number)
        if self._checked[number]:
            return block
        for attempt in range(ATTEMPTS if self._may_grow(number) else 1):
            if attempt:
                time.sleep(PAUSE_S)
                self.headers[number] = np.frombuffer(self.storage.block_header(number), layout.BLOCK_HEADER)[0]
                self._check_headers()
            reason = self._examine(number, block)
            if reason is None:
                self._checked[number] = 1
                return block
        raise DamageError(self.path, reason or "", number, self.storage.offset(number))

    def _examine(self, number: int, block: Array) -> str | None:
        """What is wrong with a block whose header was found possible; None: nothing."""
        header, shape = self.headers[number], self.shape
        is_data = header["kind"] == layout.BLOCK_DATA
        end = layout.BLOCK_HEADER_BYTES + int(header["count"]) * (shape.record_size if is_data else 1)
        if block[: layout.BLOCK_HEADER_BYTES].tobytes() != header.tobytes():
            return "the header of the block has changed"
        if self.verify:
            crc = crc32c(block[8:end])
            if crc != header["crc32c"]:
                return f"CRC-32C {crc:08x}, the block says {int(header['crc32c']):08x}"
            if block[end:].any():
                return "bytes behind the payload are not zero"
        return self._examine_records(header, block) if is_data else None

    def _examine_records(self, header: Any, block: Array) -> str | None:
        records = self.records_of(block, int(header["count"]))
        stamps = records["stamp"]
        if stamps[0] - np.uint64(1) != header["first"] or stamps[-1] - np.uint64(1) != header["last"]:
            return "positions of first and last differ from the header"
        if (np.diff(stamps).view(np.int64) <= 0).any():
            return "positions do not ascend"
        times = layout.record_times(self.shape.record_type, records[:: max(1, len(records) - 1)])
        if times is not None and (times[0] != header["first_time_ns"] or times[-1] != header["last_time_ns"]):
            return "times of first and last differ from the header"
        return None

    def records_of(self, block: Array, count: int) -> Array:
        """The first `count` records of a block's bytes, as a view."""
        records: Array = block.view(self.dtype)[0]["records"][:count]
        return records

    def check_tail(self) -> None:
        """Raises DamageError when a byte behind the last block is not zero."""
        for at, data in self.storage.tail(len(self.headers)):
            if data.any():
                raise DamageError(self.path, "bytes behind the last block are not zero", offset=at + int(data.argmax()))
