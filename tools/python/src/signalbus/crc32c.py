"""CRC-32C (Castagnoli): by google-crc32c or crc32c where one is installed, else by NumPy alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from .layout import Array

_POLYNOMIAL = 0x82F63B78


def _byte_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _byte_table()
_Operator = list[int]  # a linear map over GF(2): what each of the 32 bits becomes


def _bytewise(state: int, data: bytes) -> int:
    for byte in data:
        state = state >> 8 ^ _TABLE[(state ^ byte) & 0xFF]
    return state


def _apply(operator: _Operator, states: Array) -> Array:
    result = np.zeros_like(states)
    for bit, image in enumerate(operator):
        result ^= np.where(states >> np.uint32(bit) & np.uint32(1), np.uint32(image), np.uint32(0))
    return result


def _compose(outer: _Operator, inner: _Operator) -> _Operator:
    return [int(value) for value in _apply(outer, np.array(inner, np.uint32))]


def _zeros(count: int) -> _Operator:
    """The operator that moves a state over `count` bytes of zeros."""
    power = [_bytewise(1 << bit, b"\0") for bit in range(32)]
    result = [1 << bit for bit in range(32)]
    while count:
        if count & 1:
            result = _compose(power, result)
        power = _compose(power, power)
        count >>= 1
    return result


@functools.lru_cache(256)
def _joins(length: int, lanes: int) -> list[_Operator]:
    """For each halving of the lanes what moves a state over the bytes of its right neighbour."""
    operators = [_zeros(length)]
    while 2 ** len(operators) < lanes:
        operators.append(_compose(operators[-1], operators[-1]))
    return operators if lanes > 1 else []


def _word_tables() -> tuple[Array, Array]:
    """What 4 bytes of zeros make of a state, by its low and its high 16 bits."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    operator = _zeros(4)
    return _apply(operator, halves), _apply(operator, halves << np.uint32(16))


_tables: tuple[Array, Array] | None = None


def crc32c_numpy(data: Array) -> int:
    """CRC-32C of a contiguous u8 array: many parts side by side, then joined. Some 100 MB/s."""
    global _tables
    lanes = 1
    while lanes < 2048 and lanes * 64 < len(data):
        lanes *= 2
    length = len(data) // (4 * lanes) * 4
    start = len(data) - length * lanes
    state = _bytewise(0xFFFFFFFF, data[:start].tobytes())
    if length:
        _tables = _tables or _word_tables()
        low, high = _tables
        words = np.ascontiguousarray(np.frombuffer(data[start:].tobytes(), "<u4").reshape(lanes, length // 4).T)
        states = np.zeros(lanes, np.uint32)
        states[0] = state
        for row in words:
            states ^= row
            states = low[states & np.uint32(0xFFFF)] ^ high[states >> np.uint32(16)]
        for operator in _joins(length, lanes):
            states = _apply(operator, states[0::2]) ^ states[1::2]
        state = int(states[0])
    return state ^ 0xFFFFFFFF


def _choose() -> tuple[str, Callable[[Array], int]]:
    try:
        import google_crc32c

        if google_crc32c.implementation == "c":
            value = google_crc32c.value  # takes read-only memory without a copy, and no other

            def of_google(data: Array) -> int:
                return int(value(data.tobytes() if data.flags.writeable else data))

            return "google-crc32c", of_google
    except ImportError:
        pass
    try:
        import crc32c as library

        function = library.crc32c
        return "crc32c", lambda data: int(function(data))
    except ImportError:
        return "numpy", crc32c_numpy


implementation, crc32c = _choose()
"""Which library is used, and the function: CRC-32C of a contiguous u8 array."""
