"""The live bus, read-only: its members, and rings followed without being noticed.

Nothing here writes to the bus, takes a lock, or slows anyone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import layout
from .errors import AttachError
from .layout import MASK, Array, ObjectType
from .member import MEMBER_NAME, Member


def _ahead(first: int, second: int) -> int:
    difference = (first - second) & MASK
    return difference - (1 << 64) if difference >> 63 else difference


@dataclass(frozen=True)
class Batch:
    """Records that followed each other in a ring, in a private copy.

    Attributes:
        records: Structured array; may be empty when `lost` is not 0.
        lost: Positions between the batch before and this one that were overwritten before they were read.
        instance: Life of the producer's file that the positions count in.
    """

    records: Array
    lost: int
    instance: int

    @property
    def positions(self) -> Array:
        """Position of each record in its ring."""
        positions: Array = self.records["stamp"] - np.uint64(1)
        return positions


class Observer:
    """Follows a ring. The producer does not notice; who is too slow loses records, and is told how many.

    A batch is taken by the rules for one record: the stamp of its last record says that all of it is there (O1), and
    after the copy the stamp of the slot before the first one says that the producer has not begun to overwrite any of
    it (O2), because it writes slots in order.

    Attributes:
        next: Position of the record to come.
        lost: Records lost so far. Those taken and those lost add up to the positions passed.
        dtype: Of the records.
    """

    def __init__(self, member: Member, ring: str, from_oldest: bool = False) -> None:
        """Begins with the next record to come, or the oldest in the ring. Raises KeyError: no such ring."""
        entry = member.entry(ObjectType.RING, ring)
        self.member, self.depth, self.lost = member, entry.depth, 0
        self.dtype = layout.record_dtype(entry.record_type, entry.record_size)
        self._memory = member.memory
        self._start, self._words = (entry.offset + layout.RING_HEADER_BYTES) // 8, entry.record_size // 8
        first_at = layout.RING_HEADER.fields["first"][1]  # type: ignore[index]
        first = self._memory.word(entry.offset + first_at)
        head = self.head()
        oldest = first if (head - first) & MASK < self.depth else (head - self.depth) & MASK
        if (head - oldest) & MASK == self.depth:
            oldest = (oldest + 1) & MASK  # the check needs the slot before
        self.next = oldest if from_oldest else head

    def _slots(self) -> Array:
        """The slots as rows of words: a view of live memory."""
        if self._memory.is_cut():
            raise AttachError("gone", f"{self.member.path}: it was cut")
        begin, size = self._start * 8, self.depth * self._words * 8
        return self._memory.bytes[begin : begin + size].view("<u8").reshape(self.depth, self._words)

    def _stamp(self, position: int) -> int:
        return self._memory.words[self._start + (position & (self.depth - 1)) * self._words + self._words - 1]

    def head(self) -> int:
        """Position after the newest record, from the stamps alone; looks at all of them."""
        stamps = self._slots()[:, -1].copy()
        self._memory.fence()
        mine = stamps - np.uint64(1) & np.uint64(self.depth - 1) == np.arange(self.depth, dtype=np.uint64)
        stamps = stamps[mine]
        if not len(stamps):
            return 0
        return int(stamps[(stamps - stamps[0]).view(np.int64).argmax()])

    def _overrun(self) -> None:
        resume = (self.head() - self.depth // 2) & MASK
        if _ahead(resume, self.next) <= 0:
            resume = (self.next + 1) & MASK
        self.lost += (resume - self.next) & MASK
        self.next = resume

    def _take(self, limit: int) -> Array | None:
        """The next records; None when there are none yet, or after an overrun."""
        slots, position, mask = self._slots(), self.next, self.depth - 1
        index = position & mask
        count = min(limit, max(1, self.depth // 4), self.depth - index)
        wanted = np.uint64(position) + np.arange(1, count + 1, dtype=np.uint64)
        stamps = slots[index : index + count, -1].copy()
        differing = np.flatnonzero(stamps != wanted)
        count = int(differing[0]) if len(differing) else count
        if count == 0:
            if _ahead(int(stamps[0]), (position + 1) & MASK) > 0:
                self._overrun()
            return None
        self._memory.fence()  # O1
        copied = slots[index : index + count].copy()
        self._memory.fence()  # O2
        # The copied stamps too: a file cut under the copy reads as zeros from there on.
        if self._stamp((position - 1) & MASK) != position or (copied[:, -1] != wanted[:count]).any():
            self._overrun()
            return None
        self.next = (position + count) & MASK
        return copied.view(self.dtype)[:, 0]

    def poll(self, limit: int = 65536) -> Batch | None:
        """What is there, at most `limit` records and a quarter of the ring; None when there is nothing new.

        Raises:
            AttachError: "gone": the file was cut.
        """
        before = self.lost
        for _ in range(8):
            lost = self.lost
            records = self._take(limit)
            if records is not None:
                return Batch(records, self.lost - before, self.member.instance)
            if self.lost == lost:
                break
        if self.lost == before:
            return None
        return Batch(np.zeros(0, self.dtype), self.lost - before, self.member.instance)


class Bus:
    """A bus directory.

    Attributes:
        directory: Its path.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        """See attach."""
        self.directory = os.fspath(directory or os.environ.get("SIGNAL_BUS") or "/dev/shm/signals")
        if not os.path.isdir(self.directory):
            raise AttachError("absent", f"{self.directory}: no such bus; signal-busctl create makes one")

    def __repr__(self) -> str:
        return f"<Bus {self.directory}: {', '.join(self.names())}>"

    def names(self) -> list[str]:
        """Names of all files that may be members', sorted."""
        return sorted(name for name in os.listdir(self.directory) if MEMBER_NAME.fullmatch(name))

    def member(self, name: str, allow_dead: bool = True) -> Member:
        """Attaches a member's file.

        Args:
            name: Of the member.
            allow_dead: Also one that no process owns; what it committed can still be read.

        Raises:
            AttachError: Why not; its `reason` is the rung of the ladder in shm/ABI.md.
            SignalBusError: This machine needs libsignalbus for that.
        """
        return Member(self.directory, name, allow_dead)

    def members(self) -> Iterator[Member]:
        """Attaches all members that can be; each is closed when the next one is asked for."""
        for name in self.names():
            try:
                member = self.member(name)
            except AttachError:
                continue
            with member:
                yield member

    def follow(
        self,
        member: str,
        ring: str,
        from_oldest: bool = False,
        limit: int = 65536,
        timeout: float | None = None,
        interval: float = 0.001,
    ) -> Iterator[Batch]:
        """Yields what a ring brings, in batches, over restarts and replacements of its producer.

        Args:
            member: The producer.
            ring: Its ring.
            from_oldest: Begin with the oldest record that the ring holds, not with the next to come.
            limit: At most so many records in a batch.
            timeout: End after so many seconds without a batch; None: never.
            interval: Seconds to sleep when there is nothing.

        Raises:
            AttachError: The member cannot be attached at the start.
            KeyError: It has no such ring.
        """
        attached: Member | None = self.member(member)
        try:
            observer = Observer(attached, ring, from_oldest) if attached else None
            seen = time.monotonic()
            while timeout is None or time.monotonic() - seen <= timeout:
                is_gone = attached is None or attached.status() == "gone"  # asked before the poll
                batch = self._poll_gone(observer, limit) if observer else None
                if batch is not None:
                    seen = time.monotonic()
                    yield batch
                    continue
                if is_gone:
                    if attached:
                        attached.close()
                    attached, observer = self._attach_again(member, ring)
                if observer is None or not is_gone:
                    time.sleep(interval)
        finally:
            if attached:
                attached.close()

    @staticmethod
    def _poll_gone(observer: Observer, limit: int) -> Batch | None:
        """A poll; of a file that was cut there is nothing to be had."""
        try:
            batch = observer.poll(limit)
        except AttachError:
            return None
        return None if batch and observer.member.memory.is_cut() else batch

    def _attach_again(self, name: str, ring: str) -> tuple[Member | None, Observer | None]:
        """From the oldest record on: it is all new."""
        try:
            member = self.member(name)
        except AttachError:
            return None, None
        try:
            return member, Observer(member, ring, from_oldest=True)
        except (AttachError, KeyError):
            member.close()
            return None, None


def attach(directory: str | os.PathLike[str] | None = None) -> Bus:
    """Opens a bus for reading.

    Args:
        directory: Of the bus; by default that in $SIGNAL_BUS, else /dev/shm/signals.

    Raises:
        AttachError: There is no such directory.
    """
    return Bus(directory)
