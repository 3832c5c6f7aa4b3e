"""Captures: directories of segments, opened without a copy and never believed without a check."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import layout
from .errors import CaptureError, DamageError, SignalBusError
from .layout import Array
from .segment import FileName, Meta, Segment, Shape

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

Time = int | str | datetime.datetime | np.datetime64
"""A moment: ns of the bus clock (int), UTC (datetime, numpy.datetime64, ISO text), "+1.5s" after the first record of
the capture or "-1.5s" before its last; or, as text "seq:N", the record of position N."""

_RELATIVE = re.compile(r"([+-])(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UNIT_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

GAP = np.dtype([("first", "<u8"), ("last", "<u8"), ("instance", "<u8")])
"""Missing positions, both ends included, and the life of the producer's file that they count in."""


@dataclass(frozen=True)
class Block:
    """Records of one block, or those of them that a time slice takes.

    Attributes:
        path: File that holds it.
        number: Of the block in that file.
        records: Its records, a read-only view into the file; `records["stamp"] - 1` are their positions.
        times_ns: When each record happened, ns of the bus clock (u64), never descending within a stream.
        meta: What was in force when it was written.
        lost: Positions missing before and inside of the block, as the recorder counted them.
    """

    path: str
    number: int
    records: Array
    times_ns: Array
    meta: Meta
    lost: int

    @property
    def positions(self) -> Array:
        """Position of each record in its ring."""
        positions: Array = self.records["stamp"] - np.uint64(1)
        return positions

    @property
    def realtime_ns(self) -> Array:
        """When each record happened, ns since 1970 (i64)."""
        return self.times_ns.view(np.int64) + np.int64(self.meta.realtime_offset_ns)


class Stream:
    """A recorded ring: its segments in order. `len` is the number of records.

    Attributes:
        name: "member.ring".
        segments: Its files.
    """

    def __init__(self, name: str, segments: list[Segment], capture: Capture) -> None:
        """Takes checked segments in order of their numbers. Raises DamageError when one between them is missing."""
        self.name = name
        self.segments = segments
        self._capture = capture
        for before, after in zip(segments, segments[1:], strict=False):
            if after.number != before.number + 1:
                raise DamageError(after.path, f"the segment before it is missing: {before.number} is followed by it")
            if self._kind(before.shape) != self._kind(after.shape):
                raise DamageError(after.path, "its records are of another type than those of the segment before")
            self._check_join(before, after)

    @staticmethod
    def _kind(shape: Shape) -> tuple[int, int]:
        return shape.record_type, shape.record_size

    @staticmethod
    def _data(segment: Segment) -> Array:
        headers: Array = segment.headers[segment.headers["kind"] == layout.BLOCK_DATA]
        return headers

    def _check_join(self, before: Segment, after: Segment) -> None:
        old, new = self._data(before), self._data(after)
        if not (len(old) and len(new)) or before.metas[-1][1].instance != after.metas[0][1].instance:
            return
        if (new["first"][:1] - old["last"][-1:]).view(np.int64)[0] <= 0:
            raise DamageError(after.path, "positions before those of the segment before", int(new["number"][0]))

    @property
    def member(self) -> str:
        """The recorded member."""
        return str(self.meta.get("member", self.name.partition(".")[0]))

    @property
    def ring(self) -> str:
        """The recorded ring."""
        return str(self.meta.get("ring", self.name.partition(".")[2]))

    @property
    def record_type(self) -> layout.RecordType:
        """Type of the records; RAW where this package does not know their fields."""
        shape = self.segments[-1].shape
        return layout.known_type(shape.record_type, shape.record_size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of one record."""
        shape = self.segments[-1].shape
        return layout.record_dtype(shape.record_type, shape.record_size)

    @property
    def meta(self) -> Meta:
        """The newest META; empty when nothing was written yet."""
        return next((segment.metas[-1][1] for segment in reversed(self.segments) if segment.metas), Meta())

    @property
    def symbols(self) -> list[str]:
        """Names of the symbols, by index, by the newest META; for signals those of the first input."""
        return [str(row.get("name")) for row in self.symbol_table(self.meta)]

    def __len__(self) -> int:
        return sum(int(self._data(segment)["count"].sum()) for segment in self.segments)

    def __repr__(self) -> str:
        return f"<Stream {self.name}: {len(self)} {self.record_type.name} records in {len(self.segments)} segments>"

    def _places(self) -> list[tuple[Segment, int]]:
        return [
            (segment, int(number))
            for segment in self.segments
            for number in np.flatnonzero(segment.headers["kind"] == layout.BLOCK_DATA)
        ]

    @property
    def first_time_ns(self) -> int | None:
        """When the first record happened, ns of the bus clock; None without records."""
        for segment in self.segments:
            for number in np.flatnonzero(segment.headers["kind"] == layout.BLOCK_DATA)[:1]:
                segment.check_block(int(number))
                return int(segment.headers["first_time_ns"][number])
        return None

    @property
    def last_time_ns(self) -> int | None:
        """When the last record happened, ns of the bus clock; None without records."""
        for segment in reversed(self.segments):
            for number in np.flatnonzero(segment.headers["kind"] == layout.BLOCK_DATA)[-1:]:
                segment.check_block(int(number))
                return int(segment.headers["last_time_ns"][number])
        return None

    def blocks(
        self,
        start: Time | None = None,
        stop: Time | None = None,
        on_damage: Callable[[DamageError], None] | None = None,
    ) -> Iterator[Block]:
        """The records in their order, block by block, each checked before it is yielded.

        A slice is searched by the times in the headers of the blocks. A record is where its stream was at that time:
        one whose time lies before that of an earlier record counts as of the same time as that one, as long as both are
        in the same block or in neighbours.

        Args:
            start: Leaves out what happened before.
            stop: Leaves out what happened at or after it.
            on_damage: Called with what is wrong with a block, which is then left out; by default that is raised.

        Raises:
            DamageError: A block is not what was recorded.
        """
        edges = [edge if isinstance(edge, str) and edge.startswith("seq:") else None for edge in (start, stop)]
        if any(edges):
            start, stop = None if edges[0] else start, None if edges[1] else stop
            for block in self.blocks(start, stop, on_damage):
                yield from self._between(block, *edges)
            return
        places = self._places()
        if on_damage:
            places = [place for place in places if self._is_whole(place, on_damage)]
        low = None if start is None else self._capture.time_ns(start, self)
        high = None if stop is None else self._capture.time_ns(stop, self)
        last_times = np.array([int(s.headers["last_time_ns"][n]) for s, n in places], np.uint64)
        ends = np.maximum.accumulate(last_times) if len(places) else last_times
        begin = 0 if low is None else self._seek(places, ends, low)
        latest = 0
        if begin:
            latest = int(self._block(places[begin - 1], int(ends[begin - 2]) if begin > 1 else 0).times_ns[-1])
        for index in range(begin, len(places)):
            block = self._block(places[index], max(latest, int(ends[index - 1])) if index else 0)
            latest = int(block.times_ns[-1])
            if low is not None and index == begin:
                block = self._cut(block, int(np.searchsorted(block.times_ns, low)), None)
            if high is not None and len(block.times_ns) and int(block.times_ns[-1]) >= high:
                block = self._cut(block, 0, int(np.searchsorted(block.times_ns, high)))
                if len(block.records):
                    yield block
                return
            if len(block.records):
                yield block

    @staticmethod
    def _between(block: Block, start: str | None, stop: str | None) -> Iterator[Block]:
        """The records from position `start` to before `stop`, each "seq:N"."""
        wanted = np.ones(len(block.records), bool)
        for edge, sign in ((start, 1), (stop, -1)):
            if edge is None:
                continue
            digits = edge.removeprefix("seq:")
            if not digits.isdecimal() or int(digits) > layout.MASK:
                raise SignalBusError(f"'{edge}' is no position: give seq:N")
            distance = (block.positions - np.uint64(int(digits))).view(np.int64)
            wanted &= distance >= 0 if sign > 0 else distance < 0
        index = np.flatnonzero(wanted)
        if len(index):
            yield Stream._cut(block, int(index[0]), int(index[-1]) + 1)

    @staticmethod
    def _is_whole(place: tuple[Segment, int], on_damage: Callable[[DamageError], None]) -> bool:
        try:
            place[0].check_block(place[1])
            return True
        except DamageError as error:
            on_damage(error)
            return False

    def _seek(self, places: list[tuple[Segment, int]], ends: Array, low: int) -> int:
        """The block to begin with.

        Header times steer the search, so the block before the one that is found is checked too: with it being good, no
        damaged time can have hidden a record.
        """
        index = int(np.searchsorted(ends, low))
        while index > 0:
            before = self._block(places[index - 1], int(ends[index - 2]) if index > 1 else 0)
            if int(before.times_ns[-1]) < low:
                break
            index -= 1
        return index

    @staticmethod
    def _cut(block: Block, begin: int, end: int | None) -> Block:
        return replace(block, records=block.records[begin:end], times_ns=block.times_ns[begin:end])

    def _block(self, place: tuple[Segment, int], earliest: int) -> Block:
        segment, number = place
        data = segment.check_block(number)
        header = segment.headers[number]
        records = segment.records_of(data, int(header["count"]))
        times = layout.record_times(segment.shape.record_type, records)
        if times is None:
            span = int(header["last_time_ns"]) - int(header["first_time_ns"])
            share = np.linspace(0.0, span, len(records)) if span > 0 else np.zeros(len(records))
            times = header["first_time_ns"] + share.astype(np.uint64)
        times = np.maximum.accumulate(np.maximum(times, np.uint64(earliest)))
        return Block(segment.path, number, records, times, segment.meta_of(number), int(header["lost"]))

    def records(self, start: Time | None = None, stop: Time | None = None) -> Array:
        """All records (of a slice of time) in one array: a view where they lie in one block, else a copy."""
        parts = [block.records for block in self.blocks(start, stop)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, self.dtype)

    def gaps(self) -> Array:
        """Positions that are missing between the first and the last record, as an array of dtype GAP.

        What a cut by symbols left out (`meta.filtered`) is not missing.
        """
        found = []
        before: tuple[int, int] | None = None
        for block in self.blocks():
            if block.meta.filtered:
                before = None
                continue
            instance, positions = block.meta.instance, block.positions
            steps = np.diff(positions)
            for index in np.flatnonzero(steps != 1):
                found.append((int(positions[index]) + 1, int(positions[index + 1]) - 1, instance))
            if before is not None and before[0] == instance and positions[0] != (before[1] + 1) & layout.MASK:
                found.append((before[1] + 1, int(positions[0]) - 1, instance))
            before = instance, int(positions[-1])
        found.sort(key=lambda gap: gap[0])
        return np.array([(first & layout.MASK, last & layout.MASK, i) for first, last, i in found], GAP)

    def verify(self) -> int:
        """Checks every byte of every segment; returns the number of records. Raises DamageError."""
        for segment in self.segments:
            for number in range(len(segment.headers)):
                segment.check_block(number)
            segment.check_tail()
        return len(self)

    def symbol_table(self, meta: Meta, source: int = 0) -> list[dict[str, Any]]:
        """The symbol table that `symbol` of this stream's records indexes.

        Args:
            meta: That of the block.
            source: `source` of a signal. Where the inference member's own table of that feed was not recorded yet, that
                of the feed is taken.
        """
        if self.record_type != layout.RecordType.SIGNAL or not meta.inputs:
            return meta.symbols
        if source >= len(meta.inputs):
            return []
        member, ring = meta.inputs[source]
        own = meta.symbols if len(meta.inputs) == 1 else meta.symbol_table(member)
        feed = self._capture.streams.get(f"{member}.{ring}")
        return own or (feed.meta.symbols if feed else [])

    def symbol_row(self, meta: Meta, source: int, symbol: int) -> dict[str, Any]:
        """What is known of a symbol that a record under `meta` names; empty when nothing is.

        A symbol table grows: one that came after `meta` was written is in a later META of the same instance.
        """
        metas = [later for segment in self.segments for _, later in segment.metas]
        known = next((index for index, later in enumerate(metas) if later is meta), len(metas))
        for candidate in [meta, *metas[known + 1 :]]:
            table = self.symbol_table(candidate, source)
            if symbol < len(table) and candidate.instance == meta.instance:
                return table[symbol]
        return {}

    def columns(self, start: Time | None = None, stop: Time | None = None, prices: str = "scaled") -> dict[str, Array]:
        """The records as columns by name; see signalbus.frames for them. `prices` is "scaled" or "raw"."""
        from .frames import columns

        return columns(self, start, stop, prices)

    def to_pandas(
        self, start: Time | None = None, stop: Time | None = None, prices: str = "scaled"
    ) -> pandas.DataFrame:
        """The records as a pandas.DataFrame.

        Args:
            start: Leaves out what happened before.
            stop: Leaves out what happened at or after it.
            prices: "scaled": prices and sizes as f64, by the symbol's exponents; "raw": the integers of the bus.
        """
        from .frames import to_pandas

        return to_pandas(self, start, stop, prices)

    def to_polars(
        self, start: Time | None = None, stop: Time | None = None, prices: str = "scaled"
    ) -> polars.DataFrame:
        """The records as a polars.DataFrame; arguments as for to_pandas."""
        from .frames import to_polars

        return to_polars(self, start, stop, prices)

    def to_arrow(self, start: Time | None = None, stop: Time | None = None, prices: str = "scaled") -> pyarrow.Table:
        """The records as a pyarrow.Table, META in the metadata of its schema; arguments as for to_pandas."""
        from .frames import to_arrow

        return to_arrow(self, start, stop, prices)


class Capture(Mapping[str, Stream]):
    """A capture: a mapping from "member.ring" to Stream.

    It is as long as it was when it was opened; open it again for what a recorder wrote since.
    """

    def __init__(self, path: str | os.PathLike[str], verify: bool = True) -> None:
        """See open_capture."""
        self.path = os.fspath(path)
        self.streams: dict[str, Stream] = {}
        found: dict[str, list[Segment]] = {}
        for segment in self._open_segments(verify):
            found.setdefault(segment.stream, []).append(segment)
        for name, segments in sorted(found.items()):
            segments.sort(key=lambda segment: segment.number)
            for before, after in zip(segments, segments[1:], strict=False):
                if before.number == after.number:
                    raise CaptureError(after.path, f"the same segment as {before.path}: remove one of them")
            self.streams[name] = Stream(name, segments, self)

    def _open_segments(self, verify: bool) -> list[Segment]:
        """A recorder may put a compressed segment in the place of one between listing and opening: then list again."""
        for _ in range(10):
            files = self._files()
            with contextlib.suppress(FileNotFoundError):
                return [
                    Segment(file, verify)
                    for file in files
                    if file.removesuffix(".zst") not in files or file[-4:] == ".npy"
                ]
        raise CaptureError(self.path, "its files vanish while they are opened")

    def _files(self) -> list[str]:
        try:
            if not os.path.isdir(self.path):
                os.stat(self.path)
                return [self.path]
            names = sorted(name for name in os.listdir(self.path) if FileName.parse(name))
        except OSError as error:
            raise CaptureError(self.path, error.strerror or str(error)) from error
        if not names:
            raise CaptureError(self.path, "no capture: it has no file MEMBER.RING.000000.npy")
        return [os.path.join(self.path, name) for name in names]

    def __getitem__(self, name: str) -> Stream:
        try:
            return self.streams[name]
        except KeyError:
            raise KeyError(f"{self.path}: no stream {name}; it has {', '.join(self.streams)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.streams)

    def __len__(self) -> int:
        return len(self.streams)

    def __repr__(self) -> str:
        return f"<Capture {self.path}: {', '.join(self.streams)}>"

    @property
    def first_time_ns(self) -> int:
        """When the first record of all streams happened, ns of the bus clock; 0 without records."""
        times = [stream.first_time_ns for stream in self.values()]
        return min((time for time in times if time is not None), default=0)

    @property
    def last_time_ns(self) -> int:
        """When the last record of all streams happened, ns of the bus clock; 0 without records."""
        return max((stream.last_time_ns or 0 for stream in self.values()), default=0)

    def time_ns(self, value: Time, stream: Stream | None = None) -> int:
        """A moment as ns of the bus clock, 0..2^64-1.

        Args:
            value: See Time.
            stream: Whose clock tells what a UTC time is; by default the first stream.

        Raises:
            SignalBusError: `value` is no time.
        """
        text = value
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, (int, np.integer)):
            bus_ns: int = int(value)
            return min(max(bus_ns, 0), layout.MASK)
        if isinstance(value, str) and (match := _RELATIVE.fullmatch(value)):
            whole, _, fraction = match[2].partition(".")
            unit = _UNIT_NS[match[3]]
            distance = int(whole) * unit + int(fraction or "0") * unit // int(10 ** len(fraction))
            moment_ns = self.first_time_ns + distance if match[1] == "+" else self.last_time_ns - distance
            return min(max(moment_ns, 0), layout.MASK)
        if isinstance(value, datetime.datetime) and value.tzinfo is not None:
            value = value.astimezone(datetime.timezone.utc).replace(tzinfo=None)
        if isinstance(value, str):
            value = value.removesuffix("Z") if _DATE.match(value) else "NaT"
        moment: Any = np.datetime64("NaT")
        with contextlib.suppress(ValueError, OverflowError):
            moment = np.array([value], "datetime64[ns]")[0]
        if np.isnat(moment):
            raise SignalBusError(
                f"'{text}' is no time: give ns of the bus clock, UTC as 2026-01-31T12:00:00.5, or +1.5s from the start"
            )
        source = stream or next(iter(self.values()))
        return min(max(int(moment.astype(np.int64)) - source.meta.realtime_offset_ns, 0), layout.MASK)

    def verify(self) -> int:
        """Checks every byte of all streams; returns the number of records. Raises DamageError."""
        return sum(stream.verify() for stream in self.values())


def open_capture(path: str | os.PathLike[str], verify: bool = True) -> Capture:
    """Opens a capture for reading; it may still be being recorded.

    Nothing is copied: records are views into the files. Each block is checked when its records are first taken, so
    damaged data raise DamageError and are never returned.

    Args:
        path: Directory of the capture, or a single segment of one.
        verify: False leaves out the CRC-32C (by far the most work) and trusts the storage; positions, counts and times
            are checked all the same.

    Raises:
        CaptureError: There is no capture.
        DamageError: A header, the first META, or the order of blocks and segments is damaged.
        MissingLibraryError: A segment is compressed, and zstandard is not installed.
    """
    return Capture(path, verify)
