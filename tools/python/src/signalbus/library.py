"""libsignalbus, where it is installed: what Python cannot do by itself on the live bus.

Two things come from the C library. A *fence*: the steps of shm/ABI.md (O1, O2, B3, B4, Y2, Y4) need loads to stay in
order. x86-64 never reorders loads, and an interpreter makes them one after the other, so there nothing is needed;
elsewhere `bus_fence_acquire` is called between them. And a *guard*: a member that cuts its file under a reader would
kill this process with SIGBUS; a map made by `bus_neighbour_attach` reads zeros instead.

The library is searched at $SIGNALBUS_LIBRARY (empty: do without), else where the system's loader finds it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import os
import platform
from collections.abc import Callable

from .errors import AttachError, SignalBusError

IS_ORDERED = platform.machine() in ("x86_64", "AMD64")
"""Whether this machine keeps loads in program order by itself."""


def no_fence() -> None:
    """What a fence is where loads are never reordered."""


class Library:
    """The functions of libsignalbus that are used."""

    def __init__(self, path: str) -> None:
        """Loads it. Raises SignalBusError when it cannot be loaded or is too old."""
        try:
            handle = ctypes.CDLL(path)
            self.fence: Callable[[], None] = handle.bus_fence_acquire
            self._attach, self.detach = handle.bus_neighbour_attach, handle.bus_neighbour_detach
            self.header, self.entry = handle.bus_neighbour_header, handle.bus_neighbour_entry
            self.object, self._message = handle.bus_neighbour_object, handle.bus_error_message
            self._error_name = handle.bus_error_name
        except (OSError, AttributeError) as error:
            raise SignalBusError(
                f"{path}: {error}; install the release of signal-bus that this package is from"
            ) from None
        pointer = ctypes.c_void_p
        handle.bus_fence_acquire.argtypes, handle.bus_fence_acquire.restype = (), None
        self._attach.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool, ctypes.POINTER(pointer))
        self.detach.argtypes, self.detach.restype = (pointer,), None
        self.header.argtypes, self.header.restype = (pointer,), pointer
        self.entry.argtypes, self.entry.restype = (pointer, ctypes.c_uint32), pointer
        self.object.argtypes, self.object.restype = (pointer, pointer), pointer
        self._message.argtypes, self._message.restype = (), ctypes.c_char_p
        self._error_name.argtypes, self._error_name.restype = (ctypes.c_int,), ctypes.c_char_p

    def attach(self, directory: str, name: str, allow_dead: bool) -> int:
        """Maps a member's file, checked and guarded; returns its handle. Raises AttachError."""
        handle = ctypes.c_void_p()
        error = self._attach(os.fsencode(directory), os.fsencode(name), allow_dead, ctypes.byref(handle))
        if error or handle.value is None:
            reason = (self._error_name(error) or b"?").decode(errors="replace")
            raise AttachError(reason, (self._message() or b"").decode(errors="replace"))
        return handle.value


@functools.cache
def _load(path: str | None) -> Library | None:
    if path == "":
        return None
    found = path or ctypes.util.find_library("signalbus")
    if found is None:
        return None
    try:
        return Library(found)
    except SignalBusError:
        if path or not IS_ORDERED:
            raise
        return None


def load() -> Library | None:
    """The library; None where there is none and this machine does without.

    Raises:
        SignalBusError: This machine reorders loads and there is no library; or $SIGNALBUS_LIBRARY does not load.
    """
    library = _load(os.environ.get("SIGNALBUS_LIBRARY"))
    if library is None and not IS_ORDERED:
        raise SignalBusError(
            f"{platform.machine()} reorders loads, and Python cannot keep it from that: install libsignalbus, "
            "or name it in $SIGNALBUS_LIBRARY"
        )
    return library
