"""What this package raises; everything derives from SignalBusError."""

from __future__ import annotations

from os import PathLike, fspath


class SignalBusError(Exception):
    """Any refusal of this package."""


class MissingLibraryError(SignalBusError, ImportError):
    """An optional library is not installed; the message says which, and how to get it."""

    def __init__(self, library: str, purpose: str, extra: str) -> None:
        """Names `library`, what it is needed for, and the extra of this package that brings it."""
        super().__init__(f"{purpose} needs {library}: pip install 'signalbus[{extra}]'")


class CaptureError(SignalBusError):
    """A capture that cannot be used.

    Attributes:
        path: The file or directory.
        block: Number of the block in its segment, None where no block is meant.
        offset: Where in the file, in bytes, None where no place is meant.
        reason: What is wrong there.
    """

    def __init__(
        self, path: str | PathLike[str], reason: str, block: int | None = None, offset: int | None = None
    ) -> None:
        """Puts path, block and offset into the message."""
        self.path = fspath(path)
        self.reason = reason
        self.block = block
        self.offset = offset
        place = "" if block is None else f", block {block}"
        place += "" if offset is None else f" at byte {offset}"
        super().__init__(f"{self.path}{place}: {reason}")


class DamageError(CaptureError):
    """Bytes of a capture are not those that were recorded: cut, flipped, missing or exchanged."""


class AttachError(SignalBusError):
    """A member of the live bus that cannot be attached.

    Attributes:
        reason: One of "invalid", "absent", "denied", "io", "not ready", "corrupt", "version", "dead owner", "gone".
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Takes the rung of the ladder in shm/ABI.md that refused, and what it saw."""
        self.reason = reason
        super().__init__(f"{reason}: {detail}")
