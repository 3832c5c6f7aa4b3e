"""A member's file on the live bus: attached read-only, checked once, and what lies in it.

Written from shm/ABI.md, whose names for orderings (B3, Y2, ..) stand in the comments. Whatever lies in the file is data
of a stranger: sizes and offsets are those that were checked when it was attached, and stamps decide what counts.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import re
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import layout
from .errors import AttachError, SignalBusError
from .histogram import Histogram
from .layout import Array, MemberState, ObjectType, RecordType
from .library import Library, load, no_fence

MEMBER_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,30}", re.ASCII)
_F_OFD_GETLK = 36
_ATTEMPTS = 64


def _text(value: Any) -> str | None:
    """A NUL-terminated text of a struct; None when there is no NUL."""
    text, nul, _ = bytes(value).partition(b"\0")
    return text.decode(errors="replace") if nul else None


@dataclass(frozen=True)
class Entry:
    """A row of a member's directory, checked; the fields of struct bus_entry."""

    name: str
    peer: str
    unit: str
    type: ObjectType
    record_type: int
    record_size: int
    policy: int
    depth: int
    offset: int
    size: int

    def expected_size(self) -> int | None:
        """What the object must measure, in bytes; None when its sizes are impossible."""
        lines = self.record_size % 64 == 0 and 64 <= self.record_size <= layout.RECORD_BYTES_MAX
        if self.type == ObjectType.RING:
            power = self.depth & (self.depth - 1) == 0 and 4 <= self.depth <= layout.RING_DEPTH_MAX
            return (
                layout.RING_HEADER_BYTES + self.depth * self.record_size
                if lines and power and 1 <= self.policy <= 3
                else None
            )
        if self.type == ObjectType.BOARD:
            signals = self.record_type == RecordType.SIGNAL and self.record_size == 64
            return self.depth * 64 if signals and 1 <= self.depth <= 65536 else None
        if self.type == ObjectType.SYMBOLS:
            return 64 + 32 * self.depth if 1 <= self.depth <= 65535 else None
        if self.type == ObjectType.TEXT:
            return self.depth if 1 <= self.depth <= 65536 else None
        if self.type == ObjectType.STAGING:
            pages = self.record_size % 4096 == 0 and 4096 <= self.record_size <= 16 << 20
            return (
                layout.STAGING_HEADER_BYTES + self.depth * self.record_size
                if pages and 4 <= self.depth <= 1024
                else None
            )
        if self.type == ObjectType.TABLE:
            return self.depth * self.record_size if lines and 1 <= self.depth <= 65536 else None
        fixed = {
            ObjectType.POSITION: layout.POSITION.itemsize,
            ObjectType.COUNTER: 8,
            ObjectType.HISTOGRAM: layout.HISTOGRAM.itemsize,
        }
        return fixed.get(self.type) if self.depth == 1 else None

    @staticmethod
    def parse(row: Any, end: int, file_size: int) -> Entry | None:
        """None unless the row is possible and its object lies between `end` and `file_size`."""
        name, peer, unit = (_text(row[field].tobytes()) for field in ("name", "peer", "unit"))
        if (
            name is None
            or peer is None
            or unit is None
            or not MEMBER_NAME.fullmatch(name)
            or (peer and not MEMBER_NAME.fullmatch(peer))
        ):
            return None
        try:
            kind = ObjectType(int(row["type"]))
        except ValueError:
            return None
        numbers = (int(row[field]) for field in ("record_type", "record_size", "policy", "depth", "offset", "size"))
        entry = Entry(name, peer, unit, kind, *numbers)
        alignment = {ObjectType.COUNTER: 8, ObjectType.STAGING: 4096}.get(kind, 64)
        fits = entry.offset % alignment == 0 and end <= entry.offset and entry.offset + entry.size <= file_size
        return entry if fits and entry.expected_size() == entry.size else None


def _open(path: str, directory: str) -> int:
    """Rungs 2 to 4 of the ladder: a file that may be mapped."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise AttachError("absent", f"{path}: no such member; signal-busctl info lists them") from None
    except PermissionError:
        raise AttachError("denied", f"{path}: not readable by uid {os.geteuid()}") from None
    except OSError as error:
        raise AttachError("io", f"{path}: {error.strerror}") from None
    status, parent = os.fstat(descriptor), os.stat(directory)
    refused = None
    if not stat.S_ISREG(status.st_mode):
        refused = AttachError("corrupt", f"{path}: not a regular file")
    elif status.st_uid not in (os.geteuid(), parent.st_uid, 0) or status.st_mode & 0o022:
        refused = AttachError(
            "denied", f"{path}: uid {status.st_uid}, mode {status.st_mode:o}: a stranger could pose as it"
        )
    elif status.st_size == 0:
        refused = AttachError("not ready", f"{path}: empty: it is being created")
    elif not 512 <= status.st_size <= layout.FILE_BYTES_MAX:
        refused = AttachError("corrupt", f"{path}: {status.st_size} bytes")
    elif status.st_blocks * 512 < status.st_size and path.startswith("/dev/shm/"):
        refused = AttachError("not ready", f"{path}: not all of it is allocated")
    if refused:
        os.close(descriptor)
        raise refused
    return descriptor


def _check_header(header: Any, size: int, path: str) -> None:
    """Rung 7: on the private copy."""
    if header["magic"] == 0:
        raise AttachError("not ready", f"{path}: no magic: it is being created, or deleted")
    if header["magic"] != layout.MEMBER_MAGIC:
        raise AttachError("corrupt", f"{path}: not the file of a member")
    if header["abi_version"] not in layout.ABI_VERSIONS:
        known = " and ".join(map(str, layout.ABI_VERSIONS))
        raise AttachError("version", f"{path}: version {header['abi_version']}, this package knows {known}")
    count, name = int(header["entry_count"]), _text(header["name"].tobytes())
    if (
        (header["header_size"], header["entry_size"], header["entry_offset"]) != (512, 128, 512)
        or count > layout.ENTRIES_MAX
        or header["file_size"] != size
        or size < 512 + 128 * count
        or name is None
        or not MEMBER_NAME.fullmatch(name)
        or _text(header["kind"].tobytes()) is None
        or _text(header["boot_id"].tobytes()) is None
    ):
        raise AttachError("corrupt", f"{path}: its header is damaged")


def _layout_hash(header: bytes, directory: bytes) -> int:
    value = layout.fnv1a(b"")
    for field in ("abi_version", "file_size", "name", "kind", "identity"):
        dtype, offset = layout.MEMBER_HEADER.fields[field][:2]  # type: ignore[index]
        value = layout.fnv1a(header[offset : offset + dtype.itemsize], value)
    return layout.fnv1a(directory, value)


class Memory:
    """A member's file as words: mapped by libsignalbus, which survives its being cut, or by this process itself."""

    def __init__(self, directory: str, name: str, library: Library | None) -> None:
        """Opens and maps it. Raises AttachError."""
        self.path = os.path.join(directory, name)
        self.fence: Callable[[], None] = library.fence if library else no_fence
        self._library, self._handle = library, 0
        self.is_guarded = library is not None
        self.descriptor = _open(self.path, directory)
        try:
            self.size = os.fstat(self.descriptor).st_size
            if library:
                self._handle = library.attach(directory, name, True)
            view = memoryview(self._map(library))
            self.words = view[: self.size // 8 * 8].cast("Q")
            self.bytes = np.frombuffer(view, np.uint8)
        except BaseException:
            self.close()
            raise

    def _map(self, library: Library | None) -> Any:
        if library is None or not self._count_entries(library):
            self.is_guarded = False
            return mmap.mmap(self.descriptor, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
        # The library looked at the name a moment later; it must have mapped the same file.
        header = np.frombuffer(ctypes.string_at(library.header(self._handle), 512), layout.MEMBER_HEADER)[0]
        mine = np.frombuffer(os.pread(self.descriptor, 512, 0).ljust(512, b"\0"), layout.MEMBER_HEADER)[0]
        if mine["instance"] != header["instance"] or header["file_size"] != self.size:
            raise AttachError("not ready", f"{self.path}: replaced just now")
        entry = library.entry(self._handle, 0)
        offset = int(np.frombuffer(ctypes.string_at(entry, 128), layout.ENTRY)["offset"][0])
        base = library.object(self._handle, entry) - offset
        return memoryview((ctypes.c_ubyte * self.size).from_address(base)).cast("B").toreadonly()

    def _count_entries(self, library: Library) -> int:
        header = np.frombuffer(ctypes.string_at(library.header(self._handle), 512), layout.MEMBER_HEADER)[0]
        return int(header["entry_count"])

    def is_cut(self) -> bool:
        """Whether the file is shorter now than it was."""
        return os.fstat(self.descriptor).st_size < self.size

    def copy(self, offset: int, size: int) -> bytes:
        """Bytes of the file, of whole words, each loaded once. Raises AttachError when the file was cut."""
        if not self.is_guarded and self.is_cut():  # a map of ours must not be touched then
            raise AttachError("gone", f"{self.path}: it was cut")
        return self.words[offset // 8 : (offset + size) // 8].tobytes()

    def word(self, offset: int) -> int:
        """The word at `offset`, in one load."""
        if not self.is_guarded and self.is_cut():
            raise AttachError("gone", f"{self.path}: it was cut")
        return self.words[offset // 8]

    def close(self) -> None:
        """Unmaps it; may be called again."""
        for name in ("words", "bytes"):
            if hasattr(self, name):
                delattr(self, name)
        if self._library and self._handle:
            self._library.detach(self._handle)
            self._handle = 0
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Member:
    """A member's file, attached read-only. Use as a context manager, or close it.

    Attributes:
        name: Of the member.
        kind: "feed", "infer", ..
        instance: Life of its file; another one after the file was replaced.
        entries: Its directory.
    """

    def __init__(self, directory: str, name: str, allow_dead: bool = True) -> None:
        """See Bus.member."""
        if not MEMBER_NAME.fullmatch(name):
            raise AttachError("invalid", f"'{name}' is no member's name")
        self.name = name
        self.path = os.path.join(directory, name)
        self.memory = Memory(directory, name, load())
        try:
            self._attach(allow_dead)
        except BaseException:
            self.close()
            raise

    def _attach(self, allow_dead: bool) -> None:
        memory, path = self.memory, self.path
        memory.word(0)  # the magic, before the rest
        memory.fence()
        header_bytes = memory.copy(0, 512)
        header = np.frombuffer(header_bytes, layout.MEMBER_HEADER)[0]
        _check_header(header, memory.size, path)
        end = 512 + 128 * int(header["entry_count"])
        directory_bytes = memory.copy(512, end - 512)
        self.entries: list[Entry] = []
        for number, row in enumerate(np.frombuffer(directory_bytes, layout.ENTRY)):
            entry = Entry.parse(row, end, memory.size)
            if entry is None:
                raise AttachError("corrupt", f"{path}: entry {number} of its directory")
            self.entries.append(entry)
            end = entry.offset + entry.size
        if _layout_hash(header_bytes, directory_bytes) != header["layout_hash"]:
            raise AttachError("corrupt", f"{path}: its layout hash is wrong")
        if _text(header["name"].tobytes()) != self.name:
            raise AttachError("corrupt", f"{path}: it names another member")
        if not allow_dead and not self.is_locked():
            raise AttachError("dead owner", f"{path}: no process owns it")
        self.kind = _text(header["kind"].tobytes()) or ""
        self.instance = int(header["instance"])

    def close(self) -> None:
        """Detaches. Observers of this member end with it."""
        self.memory.close()

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Member {self.name}: {self.kind}, {self.status()}>"

    def is_locked(self) -> bool:
        """Whether a process owns the file: whether the member lives."""
        probe = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(self.memory.descriptor, _F_OFD_GETLK, probe)
        return int(struct.unpack("hhqqi4x", answer)[0]) != fcntl.F_UNLCK

    def status(self, stall_ns: int = 1_000_000_000) -> str:
        """How it is now: "alive", "stalled" (no heartbeat for `stall_ns`), "dead", or "gone" (attach again)."""
        if self.memory.is_cut() or os.fstat(self.memory.descriptor).st_nlink == 0:
            return "gone"
        header = self.header()
        if header["magic"] != layout.MEMBER_MAGIC:
            return "gone"
        if not self.is_locked():
            return "dead"
        return "stalled" if time.monotonic_ns() - int(header["heartbeat_ns"]) > stall_ns else "alive"

    def header(self) -> Any:
        """The header as it is now, a layout.MEMBER_HEADER record."""
        return np.frombuffer(self.memory.copy(0, 512), layout.MEMBER_HEADER)[0]

    @property
    def state(self) -> MemberState | int:
        """What the member says of itself, now."""
        value = int(self.header()["state"])
        return MemberState(value) if value in MemberState._value2member_map_ else value

    @property
    def realtime_offset_ns(self) -> int:
        """CLOCK_REALTIME - bus clock, ns, now."""
        return int(self.header()["realtime_offset_ns"])

    def entry(self, kind: ObjectType, name: str | None = None, peer: str | None = None) -> Entry:
        """The first entry of that type, name and peer. Raises KeyError."""
        for entry in self.entries:
            if entry.type == kind and name in (None, entry.name) and peer in (None, entry.peer):
                return entry
        has = ", ".join(entry.name for entry in self.entries if entry.type == kind) or "none"
        raise KeyError(f"{self.path}: no {kind.name.lower()} '{name}'; it has: {has}")

    def names(self, kind: ObjectType) -> list[str]:
        """Names of all objects of a type, in order."""
        return [entry.name for entry in self.entries if entry.type == kind]

    @property
    def rings(self) -> list[str]:
        """Names of its rings."""
        return self.names(ObjectType.RING)

    def counter(self, name: str) -> int:
        """A counter's value now."""
        return self.memory.word(self.entry(ObjectType.COUNTER, name).offset)

    def counters(self) -> dict[str, int]:
        """All counters now."""
        return {name: self.counter(name) for name in self.names(ObjectType.COUNTER)}

    def histogram(self, name: str) -> Histogram:
        """A copy of a histogram."""
        entry = self.entry(ObjectType.HISTOGRAM, name)
        return Histogram(self.memory.copy(entry.offset, entry.size), entry.unit)

    def histograms(self) -> dict[str, Histogram]:
        """Copies of all histograms."""
        return {name: self.histogram(name) for name in self.names(ObjectType.HISTOGRAM)}

    def position(self, ring: str, producer: str) -> Any:
        """Its place in another member's ring, a layout.POSITION record."""
        entry = self.entry(ObjectType.POSITION, ring, producer)
        return np.frombuffer(self.memory.copy(entry.offset, entry.size), layout.POSITION)[0]

    def text(self, name: str) -> str:
        """A text for people; half of it may be old."""
        entry = self.entry(ObjectType.TEXT, name)
        if self.memory.is_cut():
            raise AttachError("gone", f"{self.path}: it was cut")
        data = self.memory.bytes[entry.offset : entry.offset + entry.depth].tobytes()
        return data.partition(b"\0")[0].decode(errors="replace")

    def symbols(self, name: str | None = None) -> Array:
        """A symbol table (by default the first) as an array of layout.SYMBOL."""
        entry, memory = self.entry(ObjectType.SYMBOLS, name), self.memory
        for _ in range(_ATTEMPTS):
            generation = memory.word(entry.offset + 8)
            memory.fence()
            count = min(memory.word(entry.offset), entry.depth)
            memory.fence()  # Y2
            rows = np.frombuffer(memory.copy(entry.offset + 64, 32 * count), layout.SYMBOL)
            memory.fence()  # Y4
            if memory.word(entry.offset + 8) == generation:
                return rows
        raise SignalBusError(f"{self.path}: symbol table {entry.name} is cleared over and over")

    def symbol_names(self, name: str | None = None) -> list[str]:
        """Names of a symbol table's rows, in order."""
        return [bytes(row)[:19].partition(b"\0")[0].decode(errors="replace") for row in self.symbols(name)["name"]]

    def board(self, name: str | None = None) -> Array:
        """The latest signal of each symbol that has one, an array of SIGNAL.

        A symbol whose row is being written at each of 64 looks (its writer was killed in the middle) is left out; its
        `stamp` here is twice the number of times that the row was written.
        """
        entry = self.entry(ObjectType.BOARD, name)
        rows = (self._board_row(entry.offset + 64 * index) for index in range(entry.depth))
        return np.frombuffer(b"".join(row for row in rows if row is not None), layout.SIGNAL)

    def _board_row(self, offset: int) -> bytes | None:
        memory = self.memory
        for _ in range(_ATTEMPTS):
            stamp = memory.word(offset + 56)
            if stamp == 0:
                return None
            memory.fence()  # B3
            data = memory.copy(offset, 56)
            memory.fence()  # B4
            if stamp & 1 == 0 and memory.word(offset + 56) == stamp:
                return data + stamp.to_bytes(8, "little")
        return None

    def latest(self, name: str | None = None) -> dict[str, Any]:
        """The latest signal by the symbol's name, from the board (by default the first) and the table of its name."""
        entry = self.entry(ObjectType.BOARD, name)
        names = self.symbol_names(entry.name)
        return {names[row["symbol"]]: row for row in self.board(entry.name) if row["symbol"] < len(names)}
