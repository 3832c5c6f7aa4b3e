"""Questions to language models, through the bridge of the bus.

with signalbus.llm.Client() as client:
    print(client.ask("fast", "One line: what moves oil today?").text)
    for piece in client.stream("fast", "And tomorrow?"):
        print(piece, end="", flush=True)

Every request that was submitted ends in exactly one final reply: the bridge's, or LOCAL_TIMEOUT, made here at its
deadline and a grace of two seconds. The bridge may be started later, die and come back meanwhile.

The work is done by libsignalbus, which must be installed (`meson install`, or the package libsignalbus0) or named in
$SIGNALBUS_LIBRARY. A client is for one thread.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import ctypes.util
import functools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from .errors import SignalBusError
from .layout import Array, LlmKind, LlmReplyFlag, LlmReplyKind, LlmRequestFlag, LlmStatus

AGAIN = -11  # enum bus_error
ABSENT = -2
SLICE_NS = 50_000_000


class BusyError(SignalBusError):
    """No credit for another request now: too many are in flight, or a ring is full. The same call may succeed later."""


class LlmError(SignalBusError):
    """A request that ended without the whole answer.

    Attributes:
        reply: The final reply, with its status and the text so far.
    """

    def __init__(self, reply: Reply) -> None:
        """Says how it ended, and what the server said."""
        self.reply = reply
        detail = f" by {reply.backend}" if reply.backend else ""
        detail += f", HTTP {reply.http_status}" if reply.http_status else ""
        detail += f", again in {reply.retry_after_s:g} s" if reply.retry_after_s else ""
        detail += f": {reply.text}" if reply.text else ""
        super().__init__(reply.status.name.lower().replace("_", "-") + detail)


@dataclass(frozen=True)
class Reply:
    """A partial reply, or the final one of its request.

    Attributes:
        id: Of the request.
        is_final: Whether it is the final one, which carries the whole answer.
        status: How the request ended; PENDING in partial ones.
        data: The text as bytes. A piece may end within a character.
        offset: Where a piece stands in the answer so far, in bytes.
        flags: REASONING, CUT, HEDGED, LOST.
        attempt: 1, and more after failed ones: a piece of a new attempt begins the answer anew. 0: never sent.
        backend: The server that answered, "" when none did.
        http_status: What it said, 0 when nothing.
        prompt_tokens: As it counted, 0 when it did not say.
        completion_tokens: Likewise.
        retry_after_s: How long it wants to be left alone; 0 when it did not say.
        submitted_ns: When it was asked, on the bus clock (time.monotonic_ns()).
        accepted_ns: When the bridge took the request; 0: never.
        sent_ns: When the server was asked; 0: never.
        first_ns: When its first token came; 0: never.
        done_ns: When the reply was decided.
    """

    id: int
    is_final: bool
    status: LlmStatus
    data: bytes
    offset: int
    flags: LlmReplyFlag
    attempt: int
    backend: str
    http_status: int
    prompt_tokens: int
    completion_tokens: int
    retry_after_s: float
    submitted_ns: int
    accepted_ns: int
    sent_ns: int
    first_ns: int
    done_ns: int

    @property
    def text(self) -> str:
        """The text; bytes that are no UTF-8 replaced."""
        return self.data.decode(errors="replace")

    @property
    def embedding(self) -> Array:
        """The text of the answer to embed() as float32."""
        return np.frombuffer(self.data[: len(self.data) // 4 * 4], np.dtype("<f4"))


class _Options(ctypes.Structure):
    _fields_ = (
        ("bridge", ctypes.c_char_p),
        ("record_bytes", ctypes.c_uint32),
        ("request_depth", ctypes.c_uint32),
        ("outstanding_max", ctypes.c_uint32),
        ("answer_bytes_max", ctypes.c_uint32),
        ("grace_ns", ctypes.c_uint64),
    )


class _Ask(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("class_name", ctypes.c_char_p),
        ("text", ctypes.c_char_p),
        ("text_bytes", ctypes.c_uint32),
        ("tokens_max", ctypes.c_uint32),
        ("has_temperature", ctypes.c_bool),
        ("temperature", ctypes.c_float),
        ("deadline_ns", ctypes.c_uint64),
        ("answer_bytes", ctypes.c_uint32),
        ("context", ctypes.c_uint64),
    )


class _Header(ctypes.Structure):  # struct bus_llm_reply
    _fields_ = (
        ("id", ctypes.c_uint64),
        ("accepted_ns", ctypes.c_uint64),
        ("sent_ns", ctypes.c_uint64),
        ("first_ns", ctypes.c_uint64),
        ("done_ns", ctypes.c_uint64),
        ("text_bytes", ctypes.c_uint32),
        ("fragment_bytes", ctypes.c_uint32),
        ("text_offset", ctypes.c_uint32),
        ("prompt_tokens", ctypes.c_uint32),
        ("completion_tokens", ctypes.c_uint32),
        ("epoch", ctypes.c_uint32),
        ("retry_after_ms", ctypes.c_uint32),
        ("fragment", ctypes.c_uint16),
        ("fragments", ctypes.c_uint16),
        ("http_status", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("status", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("attempt", ctypes.c_uint8),
        ("reserved0", ctypes.c_uint16),
        ("backend", ctypes.c_char * 24),
        ("reserved1", ctypes.c_uint8 * 24),
    )


class _Reply(ctypes.Structure):
    _fields_ = (
        ("header", _Header),
        ("context", ctypes.c_uint64),
        ("submitted_ns", ctypes.c_uint64),
        ("text", ctypes.c_void_p),
    )


@functools.cache
def _load(path: str | None) -> Any:
    found = path or ctypes.util.find_library("signalbus")
    if path == "" or found is None:
        raise SignalBusError(
            "language models need libsignalbus, which is not found: install signal-bus (meson install && ldconfig, or "
            "the package libsignalbus0), or name the library in $SIGNALBUS_LIBRARY"
        )
    pointer, reply = ctypes.c_void_p, ctypes.POINTER(_Reply)
    signatures: dict[str, tuple[Any, ...]] = {
        "open": (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Options), ctypes.POINTER(pointer)),
        "delete": (pointer,),
        "submit": (pointer, ctypes.POINTER(_Ask), ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)),
        "cancel": (pointer, ctypes.c_uint64),
        "wait": (pointer, ctypes.c_uint64, reply),
        "maintain": (pointer,),
        "outstanding": (pointer,),
    }
    try:
        library = ctypes.CDLL(found)
        for name, arguments in signatures.items():
            getattr(library, f"bus_llm_client_{name}").argtypes = arguments
        library.bus_llm_client_delete.restype = None
        library.bus_llm_client_outstanding.restype = ctypes.c_uint32
        library.bus_error_message.argtypes, library.bus_error_message.restype = (), ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise SignalBusError(f"{found}: {error}; install the release of signal-bus that this package is from") from None
    return library


class Client:
    """A member of the bus that asks language models.

    Args:
        name: Of the member, 1 to 23 characters; the bridge's configuration must list it. One process at a time has it.
        bus: Directory of the bus; $SIGNAL_BUS, else /dev/shm/signals.
        bridge: The bridge's member.
        outstanding: Requests in flight at a time, 1..4096.
        answer_bytes: Longest answer.
        record_bytes: Of a slot of the rings, as the bridge has it.
        grace_s: How long after its deadline a final reply may come.

    Raises:
        SignalBusError: libsignalbus is not there, or the member cannot be made; the message says why.
    """

    def __init__(
        self,
        name: str = "ask",
        bus: str | os.PathLike[str] | None = None,
        *,
        bridge: str = "bridge",
        outstanding: int = 16,
        answer_bytes: int = 0,
        record_bytes: int = 0,
        grace_s: float = 2.0,
    ) -> None:
        """Makes the member; the bridge is attached to when it comes."""
        self._handle: ctypes.c_void_p | None = None
        self._library = _load(os.environ.get("SIGNALBUS_LIBRARY"))
        self._waiting: dict[int, list[Reply]] = {}
        """Of requests that are outstanding: replies that came while another one was waited for."""
        self._abandoned: set[int] = set()
        options = _Options(bridge.encode(), record_bytes, 0, outstanding, answer_bytes, round(grace_s * 1e9))
        handle = ctypes.c_void_p()
        directory = None if bus is None else os.fsencode(bus)
        if self._library.bus_llm_client_open(directory, name.encode(), ctypes.byref(options), ctypes.byref(handle)):
            raise SignalBusError(self._message())
        self._handle = handle

    def _message(self) -> str:
        return (self._library.bus_error_message() or b"").decode(errors="replace")

    def _open(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise SignalBusError("this client is closed")
        return self._handle

    def submit(
        self,
        class_name: str,
        prompt: str | Sequence[dict[str, Any]],
        *,
        kind: LlmKind = LlmKind.CHAT,
        deadline_s: float = 60.0,
        tokens: int = 0,
        temperature: float | None = None,
        partials: bool = False,
        idempotent: bool = False,
        urgent: bool = False,
    ) -> int:
        """Sends a request, all of it or nothing, and returns its id.

        Args:
            class_name: Of work, a section of the bridge's configuration.
            prompt: What the user says, or the messages, each with "role" and "content".
            kind: CHAT, COMPLETION or EMBEDDING.
            deadline_s: The answer is of no use later than so many seconds from now.
            tokens: Limit of the answer; 0: the class's.
            temperature: 0 or more; None: the server's.
            partials: Send pieces of the answer as they come.
            idempotent: It may be given to a model twice: retried, hedged, asked again after a restart of the bridge.
            urgent: Before all that is not.

        Raises:
            BusyError: No credit now.
            SignalBusError: An argument is wrong.
        """
        flags = LlmRequestFlag(0)
        for wanted, flag in (
            (partials, LlmRequestFlag.PARTIALS),
            (idempotent, LlmRequestFlag.IDEMPOTENT),
            (urgent, LlmRequestFlag.URGENT),
            (not isinstance(prompt, str), LlmRequestFlag.MESSAGES),
        ):
            flags |= flag if wanted else LlmRequestFlag(0)
        text = (prompt if isinstance(prompt, str) else json.dumps(list(prompt), ensure_ascii=False)).encode()
        now_ns = time.monotonic_ns()
        ask = _Ask(
            kind,
            flags,
            class_name.encode(),
            text,
            len(text),
            tokens,
            temperature is not None,
            temperature or 0.0,
            now_ns + max(round(deadline_s * 1e9), 0),
        )
        identity = ctypes.c_uint64()
        error = self._library.bus_llm_client_submit(self._open(), ctypes.byref(ask), now_ns, ctypes.byref(identity))
        if error == AGAIN:
            raise BusyError("no credit for another request now: take replies first, or try again later")
        if error:
            raise SignalBusError(self._message())
        self._waiting[identity.value] = []
        return identity.value

    def cancel(self, identity: int) -> bool:
        """Asks for a request to be given up; its final reply comes all the same.

        Returns:
            False when it is not outstanding any more.

        Raises:
            BusyError: The request ring is full; try again.
        """
        error = self._library.bus_llm_client_cancel(self._open(), identity)
        if error == AGAIN:
            raise BusyError("the request ring is full: try again later")
        return bool(error != ABSENT)

    def abandon(self, identity: int) -> None:
        """Cancels a request and drops what still comes of it."""
        if self._waiting.pop(identity, None) is not None:
            self._abandoned.add(identity)
            with contextlib.suppress(BusyError):  # it ends at its deadline
                self.cancel(identity)

    def poll(self, timeout_s: float = 0.0) -> Reply | None:
        """The next reply to any request; None when none came in time."""
        for replies in self._waiting.values():
            if replies:
                return self._taken(replies.pop(0))
        reply = self._receive(round(timeout_s * 1e9))
        return None if reply is None else self._taken(reply)

    def _taken(self, reply: Reply) -> Reply:
        if reply.is_final:
            self._waiting.pop(reply.id, None)
        return reply

    def _receive(self, timeout_ns: int) -> Reply | None:
        """Waits in slices, so that a signal's handler runs in between."""
        raw, handle, end_ns = _Reply(), self._open(), time.monotonic_ns() + timeout_ns
        while True:
            left_ns = max(end_ns - time.monotonic_ns(), 0)
            if self._library.bus_llm_client_wait(handle, min(left_ns, SLICE_NS), ctypes.byref(raw)):
                reply = self._reply(raw)
                if reply.id not in self._abandoned:
                    return reply
                if reply.is_final:
                    self._abandoned.discard(reply.id)
            elif left_ns == 0:
                return None

    @staticmethod
    def _reply(raw: _Reply) -> Reply:
        header = raw.header
        return Reply(
            header.id,
            header.kind == LlmReplyKind.FINAL,
            LlmStatus(header.status) if header.kind == LlmReplyKind.FINAL else LlmStatus.PENDING,
            ctypes.string_at(raw.text, header.text_bytes),
            header.text_offset if header.kind == LlmReplyKind.PARTIAL else 0,
            LlmReplyFlag(header.flags & 15),
            header.attempt,
            header.backend.decode(errors="replace"),
            header.http_status,
            header.prompt_tokens,
            header.completion_tokens,
            header.retry_after_ms / 1000,
            raw.submitted_ns,
            header.accepted_ns,
            header.sent_ns,
            header.first_ns,
            header.done_ns,
        )

    def replies(self, identity: int) -> Iterator[Reply]:
        """The replies to one request, its final one last. Those to others are kept for their own turn.

        Raises:
            SignalBusError: It is not outstanding: its final reply was taken already.
        """
        if identity not in self._waiting:
            raise SignalBusError(f"request {identity} is not outstanding")
        while True:
            kept = self._waiting[identity]
            reply = kept.pop(0) if kept else self._receive(SLICE_NS)
            if reply is None:
                continue
            if reply.id == identity:
                yield self._taken(reply)
                if reply.is_final:
                    return
            else:
                self._waiting.setdefault(reply.id, []).append(reply)

    def ask(self, class_name: str, prompt: str | Sequence[dict[str, Any]], **options: Any) -> Reply:
        """Asks and waits for the whole answer; `options` are those of submit().

        Raises:
            LlmError: It ended in another way than OK; the exception has the reply.
            BusyError: No credit now.
        """
        identity = self.submit(class_name, prompt, **options)
        with _Cancelling(self, identity):
            for reply in self.replies(identity):
                if reply.is_final and reply.status != LlmStatus.OK:
                    raise LlmError(reply)
                if reply.is_final:
                    return reply
        raise AssertionError("a final reply ends it")

    def embed(self, class_name: str, text: str, **options: Any) -> Array:
        """The embedding of a text, float32. Raises as ask()."""
        return self.ask(class_name, text, kind=LlmKind.EMBEDDING, **options).embedding

    def stream(self, class_name: str, prompt: str | Sequence[dict[str, Any]], **options: Any) -> Iterator[str]:
        """Asks and yields the answer in pieces as they come; `options` are those of submit().

        Together they are the whole answer: the final reply brings what was left out. Leaving the loop early cancels
        the request.

        Raises:
            LlmError: It ended in another way than OK, after what came of the answer; or the first attempt failed when
                some of its text had been yielded, and the next one says something else: then reply.text is the answer.
            BusyError: No credit now.
        """
        identity = self.submit(class_name, prompt, partials=True, **options)
        decoder = _Utf8()
        shown, attempt = b"", 0
        with _Cancelling(self, identity):
            for reply in self.replies(identity):
                if reply.is_final:
                    if not reply.data.startswith(shown):
                        raise LlmError(reply)
                    rest = decoder.take(reply.data[len(shown) :], final=True)
                    if rest:
                        yield rest
                    if reply.status != LlmStatus.OK:
                        raise LlmError(reply)
                    return
                if reply.flags & LlmReplyFlag.REASONING or reply.offset != len(shown):
                    continue
                attempt = attempt or reply.attempt
                if reply.attempt == attempt:
                    shown += reply.data
                    piece = decoder.take(reply.data)
                    if piece:
                        yield piece

    @property
    def outstanding(self) -> int:
        """Requests whose final reply did not come yet."""
        return int(self._library.bus_llm_client_outstanding(self._open()))

    def waits_for(self) -> str:
        """Why nothing flows yet: the reason, "" when the bridge is attached."""
        return self._message() if self._library.bus_llm_client_maintain(self._open()) else ""

    def close(self) -> None:
        """Leaves the bus; what is outstanding is answered to nobody."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.bus_llm_client_delete(handle)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Utf8:
    """Bytes to text, characters that are cut by a piece's end whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, data: bytes, final: bool = False) -> str:
        return self._decoder.decode(data, final)


class _Cancelling:
    """Takes a request back when its caller leaves before its end, and drops what still comes of it."""

    def __init__(self, client: Client, identity: int) -> None:
        self._client, self._identity = client, identity

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client = self._client
        if self._identity in client._waiting and client._handle is not None:
            client.abandon(self._identity)
