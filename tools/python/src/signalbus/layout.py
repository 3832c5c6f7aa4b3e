"""The bytes of the bus and of its captures, as NumPy dtypes and enumerations.

Field names, offsets and values are those of shm/ABI.md and consumers/capture_format.h; the tests compare them with the
tables there, which the C headers print.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Descr = list[Any]

MASK = (1 << 64) - 1


class RecordType(IntEnum):
    """What the slots of a ring hold."""

    RAW = 0
    FEATURE = 1
    SIGNAL = 2
    GAP = 3
    LLM_REQUEST = 4
    LLM_REPLY = 5


class FeatureFlag(IntFlag):
    """Bits of `flags` of a feature."""

    VALID = 1
    SNAPSHOT = 2
    RESYNC = 4
    STALE = 8
    CROSSED = 16
    TRADE = 32


class Trigger(IntEnum):
    """What kind of message caused a feature."""

    NONE = 0
    BOOK_TICKER = 1
    DEPTH = 2
    TRADE = 3
    SNAPSHOT = 4


class SignalFlag(IntFlag):
    """Bits of `flags` of a signal."""

    VALID = 1
    STALE = 2
    BATCHED = 4


class Engine(IntEnum):
    """What computed a signal."""

    NONE = 0
    SCALAR = 1
    AVX2 = 2
    AVX512 = 3
    CUDA = 4


class GapCause(IntEnum):
    """Why a recorder has no record of some positions."""

    OVERRUN = 1
    DISK_FULL = 2
    WRITE_ERROR = 3
    REPLACED = 4
    STOPPED = 5


class LlmKind(IntEnum):
    """What a request asks of a language model."""

    CHAT = 1
    COMPLETION = 2
    EMBEDDING = 3
    CANCEL = 4


class LlmRequestFlag(IntFlag):
    """Bits of `flags` of a request."""

    PARTIALS = 1
    IDEMPOTENT = 2
    URGENT = 4
    MESSAGES = 8


class LlmReplyKind(IntEnum):
    """What a reply is."""

    PARTIAL = 1
    FINAL = 2


class LlmStatus(IntEnum):
    """How a request ended."""

    PENDING = 0
    OK = 1
    LENGTH = 2
    REJECTED_QUEUE = 3
    REJECTED_DEADLINE = 4
    EXPIRED = 5
    CANCELLED = 6
    BACKEND_DOWN = 7
    UPSTREAM_4XX = 8
    UPSTREAM_5XX = 9
    TRUNCATED = 10
    BAD_REQUEST = 11
    BRIDGE_RESTART = 12
    LOCAL_TIMEOUT = 13


class LlmReplyFlag(IntFlag):
    """Bits of `flags` of a reply."""

    REASONING = 1
    CUT = 2
    HEDGED = 4
    LOST = 8


class MemberState(IntEnum):
    """State of a member of the bus."""

    BOOT = 1
    RUN = 2
    HALT = 3
    FAIL = 4


class ObjectType(IntEnum):
    """What an entry of a member's directory describes."""

    RING = 1
    POSITION = 2
    COUNTER = 3
    HISTOGRAM = 4
    BOARD = 5
    SYMBOLS = 6
    TEXT = 7
    STAGING = 8
    TABLE = 9


class Policy(IntEnum):
    """What a producer does when its reliable consumer is a whole ring behind."""

    WAIT = 1
    DROP_NEWEST = 2
    OVERWRITE = 3


FEATURE_INPUTS = (
    "spread_bps",
    "imbalance_l1",
    "imbalance_l5",
    "weighted_mid_offset_bps",
    "ofi_l1",
    "ofi_l5",
    "trade_imbalance_1s",
    "return_100ms_bps",
    "return_1s_bps",
    "return_10s_bps",
    "volatility_1s_bps",
    "volatility_10s_bps",
    "trade_rate",
    "queue_depletion",
    "time_since_trade",
    "vpin",
)
"""Names of the sixteen inputs `x` of a feature, in order; formulas and units are in producers/features.h."""

SCORES = ("sell", "flat", "buy")
"""What the three `score` of a signal are the probabilities of."""

NO_EXCHANGE_TIME = -(1 << 31)
"""`exchange_delay_us` of a feature whose message carries no exchange time."""

_FEATURE_FIELDS: Descr = [
    ("timestamp_ns", "<u8"),
    ("bid_price", "<i8"),
    ("ask_price", "<i8"),
    ("bid_size", "<i8"),
    ("ask_size", "<i8"),
    ("exchange_delay_us", "<i4"),
    ("book_imbalance", "<i4"),
    ("update", "<u4"),
    ("symbol", "<u2"),
    ("trigger", "|u1"),
    ("flags", "|u1"),
    ("x", "<f4", (16,)),
]
_SIGNAL_FIELDS: Descr = [
    ("timestamp_ns", "<u8"),
    ("feature_position", "<u8"),
    ("target_price", "<i8"),
    ("score", "<f4", (3,)),
    ("queue_ns", "<u4"),
    ("inference_ns", "<u4"),
    ("batch", "<u2"),
    ("source", "<u2"),
    ("symbol", "<u2"),
    ("model", "<u2"),
    ("direction", "|i1"),
    ("confidence", "|u1"),
    ("engine", "|u1"),
    ("flags", "|u1"),
]
_GAP_FIELDS: Descr = [
    ("time_ns", "<u8"),
    ("first", "<u8"),
    ("last", "<u8"),
    ("instance", "<u8"),
    ("stream", "<u4"),
    ("cause", "|u1"),
    ("reserved0", "|V19"),
]
_LLM_REQUEST_FIELDS: Descr = [
    ("id", "<u8"),
    ("deadline_ns", "<u8"),
    ("submitted_ns", "<u8"),
    ("text_bytes", "<u4"),
    ("fragment_bytes", "<u4"),
    ("text_offset", "<u4"),
    ("tokens_max", "<u4"),
    ("fragment", "<u2"),
    ("fragments", "<u2"),
    ("reply_slots", "<u2"),
    ("kind", "|u1"),
    ("flags", "|u1"),
    ("temperature", "<f4"),
    ("client_epoch", "<u4"),
    ("class_name", "|S24"),
    ("reserved0", "|V48"),
]
_LLM_REPLY_FIELDS: Descr = [
    ("id", "<u8"),
    ("accepted_ns", "<u8"),
    ("sent_ns", "<u8"),
    ("first_ns", "<u8"),
    ("done_ns", "<u8"),
    ("text_bytes", "<u4"),
    ("fragment_bytes", "<u4"),
    ("text_offset", "<u4"),
    ("prompt_tokens", "<u4"),
    ("completion_tokens", "<u4"),
    ("epoch", "<u4"),
    ("retry_after_ms", "<u4"),
    ("fragment", "<u2"),
    ("fragments", "<u2"),
    ("http_status", "<u2"),
    ("kind", "|u1"),
    ("status", "|u1"),
    ("flags", "|u1"),
    ("attempt", "|u1"),
    ("reserved0", "<u2"),
    ("backend", "|S24"),
    ("reserved1", "|V24"),
]
_STAMP: Descr = [("stamp", "<u8")]

FEATURE = np.dtype(_FEATURE_FIELDS + _STAMP)
"""struct bus_feature, 128 bytes."""
SIGNAL = np.dtype(_SIGNAL_FIELDS + _STAMP)
"""struct bus_signal, 64 bytes."""
GAP = np.dtype(_GAP_FIELDS + _STAMP)
"""struct bus_gap, 64 bytes."""
LLM_REQUEST = np.dtype(_LLM_REQUEST_FIELDS)
"""struct bus_llm_request, 128 bytes; text and the stamp follow."""
LLM_REPLY = np.dtype(_LLM_REPLY_FIELDS)
"""struct bus_llm_reply, 128 bytes; text and the stamp follow."""

SYMBOL = np.dtype(
    [("name", "S20"), ("price_exponent", "|i1"), ("size_exponent", "|i1"), ("reserved0", "<u2"), ("tick_size", "<i8")]
)
"""struct bus_symbol, a row of a symbol table."""

MEMBER_HEADER = np.dtype(
    [
        ("magic", "<u8"),
        ("abi_version", "<u4"),
        ("header_size", "<u4"),
        ("file_size", "<u8"),
        ("layout_hash", "<u8"),
        ("name", "V32"),
        ("kind", "V16"),
        ("boot_id", "V40"),
        ("entry_count", "<u4"),
        ("entry_size", "<u4"),
        ("entry_offset", "<u8"),
        ("instance", "<u8"),
        ("identity", "<u8"),
        ("created_realtime_ns", "<u8"),
        ("pid", "<u4"),
        ("backing", "<u4"),
        ("process_start_ticks", "<u8"),
        ("epoch", "<u8"),
        ("numa_node", "<i4"),
        ("core", "<i4"),
        ("huge_bytes", "<u8"),
        ("reserved0", "V56"),
        ("state", "<u4"),
        ("reserved1", "<u4"),
        ("heartbeat_ns", "<u8"),
        ("realtime_offset_ns", "<i8"),
        ("reserved2", "V232"),
    ]
)
"""struct bus_member_header, the first 512 bytes of a member's file."""

ENTRY = np.dtype(
    [
        ("name", "V32"),
        ("peer", "V32"),
        ("unit", "V16"),
        ("type", "<u4"),
        ("record_type", "<u4"),
        ("record_size", "<u4"),
        ("policy", "<u4"),
        ("depth", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("reserved0", "<u8"),
    ]
)
"""struct bus_entry, a row of a member's directory."""

RING_HEADER = np.dtype(
    [
        ("depth", "<u8"),
        ("record_size", "<u4"),
        ("record_type", "<u4"),
        ("first", "<u8"),
        ("reserved0", "V104"),
        ("sequence", "<u8"),
        ("dropped", "<u8"),
        ("waits", "<u8"),
        ("positions_rejected", "<u8"),
        ("bell", "<u4"),
        ("reserved1", "<u4"),
        ("consumer_instance", "<u8"),
        ("consumed", "<u8"),
        ("reserved2", "V72"),
    ]
)
"""struct bus_ring_header, 256 bytes before the slots."""

POSITION = np.dtype(
    [
        ("position", "<u8"),
        ("ring_instance", "<u8"),
        ("lost", "<u8"),
        ("output_floor", "<u8"),
        ("waiting", "<u8"),
        ("skip_to", "<u8"),
        ("skip_lost", "<u8"),
        ("reserved0", "V72"),
    ]
)
"""struct bus_position, a reliable consumer's place in a ring."""

HISTOGRAM_BUCKETS = 2304
HISTOGRAM = np.dtype(
    [
        ("count", "<u8"),
        ("sum", "<u8"),
        ("minimum", "<u8"),
        ("maximum", "<u8"),
        ("reserved0", "V32"),
        ("buckets", "<u8", (HISTOGRAM_BUCKETS,)),
    ]
)
"""struct bus_histogram."""

MEMBER_MAGIC = int.from_bytes(b"SIGBUS01", "little")
ABI_VERSIONS = (1, 2, 3)
"""What can be read; version 2 added STAGING, version 3 TABLE."""
NAME_BYTES = 32
ENTRIES_MAX = 512
FILE_BYTES_MAX = 1 << 40
RING_DEPTH_MAX = 1 << 30
RECORD_BYTES_MAX = 1 << 20
RING_HEADER_BYTES = 256
STAGING_HEADER_BYTES = 128 << 10
LLM_HEADER_BYTES = 128
LLM_FRAGMENTS_MAX = 1024

_BLOCK_FIELDS: Descr = [
    ("magic", "<u4"),
    ("crc32c", "<u4"),
    ("kind", "<u4"),
    ("count", "<u4"),
    ("first", "<u8"),
    ("last", "<u8"),
    ("first_time_ns", "<u8"),
    ("last_time_ns", "<u8"),
    ("number", "<u4"),
    ("stream", "<u4"),
    ("lost", "<u8"),
]
BLOCK_HEADER = np.dtype(_BLOCK_FIELDS)
"""struct bus_capture_block, the first 64 bytes of a block of a capture."""
BLOCK_MAGIC = int.from_bytes(b"SBK1", "little")
BLOCK_DATA = 1
BLOCK_META = 2
BLOCK_HEADER_BYTES = 64
BLOCK_BYTES_MIN = 4096
BLOCK_BYTES_MAX = 16 << 20
BLOCKS_MAX = 1 << 32
FILE_HEADER_BYTES = 4096

_KNOWN: dict[tuple[int, int], Descr] = {
    (RecordType.FEATURE, 128): _FEATURE_FIELDS,
    (RecordType.SIGNAL, 64): _SIGNAL_FIELDS,
    (RecordType.GAP, 64): _GAP_FIELDS,
}
_WITH_TEXT: dict[int, Descr] = {
    RecordType.LLM_REQUEST: _LLM_REQUEST_FIELDS,
    RecordType.LLM_REPLY: _LLM_REPLY_FIELDS,
}


def _fields(record_type: int, record_size: int) -> Descr | None:
    """What stands before the stamp, where it is known."""
    header = _WITH_TEXT.get(record_type)
    if header is not None and record_size >= LLM_HEADER_BYTES + 64:
        return [*header, ("text", f"|V{record_size - LLM_HEADER_BYTES - 8}")]
    return _KNOWN.get((record_type, record_size))


def known_type(record_type: int, record_size: int) -> RecordType:
    """The type whose fields are known at that size, else RAW."""
    return RecordType(record_type) if _fields(record_type, record_size) is not None else RecordType.RAW


def record_descr(record_type: int, record_size: int) -> Descr:
    """The fields of a record as a NumPy description; bytes and a stamp where they are not known."""
    fields = _fields(record_type, record_size)
    if fields is None:
        name = "bytes" if record_type == RecordType.RAW else f"type{record_type}"
        fields = [(name, f"|V{record_size - 8}")]
    return list(fields) + _STAMP


def record_dtype(record_type: int, record_size: int) -> np.dtype[Any]:
    """The same as a dtype of `record_size` bytes."""
    return np.dtype(record_descr(record_type, record_size))


def block_descr(record_type: int, record_size: int, block_size: int) -> Descr:
    """A whole block of a capture as a NumPy description."""
    capacity = (block_size - BLOCK_HEADER_BYTES) // record_size
    padding = block_size - BLOCK_HEADER_BYTES - capacity * record_size
    descr = [*_BLOCK_FIELDS, ("records", record_descr(record_type, record_size), (capacity,))]
    if padding:
        descr.append(("padding", f"|V{padding}"))
    return descr


def record_times(record_type: int, records: Array) -> Array | None:
    """When each record happened, ns of the bus clock (u64); None where the type carries no time.

    A feature: its receipt. A signal: its completion. A gap: its notice. A request to a language model: its submission.
    A reply: when it was decided.
    """
    kind = known_type(record_type, records.dtype.itemsize)
    if kind == RecordType.FEATURE:
        return records["timestamp_ns"]
    if kind == RecordType.SIGNAL:
        times: Array = records["timestamp_ns"] + records["queue_ns"] + records["inference_ns"]
        return times
    if kind == RecordType.GAP:
        return records["time_ns"]
    if kind == RecordType.LLM_REQUEST:
        return records["submitted_ns"]
    if kind == RecordType.LLM_REPLY:
        return records["done_ns"]
    return None


def fnv1a(data: bytes, value: int = 0xCBF29CE484222325) -> int:
    """The 64-bit FNV-1a hash of `data`, going on from `value`."""
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def stream_id(name: str) -> int:
    """What blocks of the stream "member.ring" carry: the low 32 bits of its FNV-1a hash."""
    return fnv1a(name.encode()) & 0xFFFFFFFF


def record_texts(records: Array) -> list[bytes]:
    """What each of some LLM_REQUEST or LLM_REPLY records carries of its message's text."""
    sizes = records["fragment_bytes"].tolist()
    return [text[:size] for text, size in zip(map(bytes, records["text"]), sizes, strict=True)]
