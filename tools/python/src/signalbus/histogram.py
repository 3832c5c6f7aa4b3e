"""Histograms of the live bus."""

from __future__ import annotations

import math

import numpy as np

from . import layout
from .layout import Array


class Histogram:
    """A private copy of a log-linear histogram; values are in `unit`, exact to 1/64.

    Attributes:
        unit: Of the values.
        count: Values recorded.
        minimum: The least value, exact; 0 without values.
        maximum: The greatest value, exact; 0 without values.
        buckets: Values in each bucket (u64).
    """

    def __init__(self, data: bytes, unit: str) -> None:
        """Takes the bytes of a struct bus_histogram."""
        fields = np.frombuffer(data, layout.HISTOGRAM)[0]
        self.unit = unit
        self.buckets: Array = fields["buckets"]
        self.count = int(self.buckets.sum())
        self.sum = int(fields["sum"])
        self.minimum = int(fields["minimum"]) if self.count else 0
        self.maximum = int(fields["maximum"]) if self.count else 0

    @staticmethod
    def bucket(value: int) -> int:
        """The bucket that counts `value`."""
        value = min(value, (1 << 41) - 1)
        shift = max((value | 1).bit_length() - 1, 6) - 6
        return 64 * shift + (value >> shift)

    @staticmethod
    def bounds(bucket: int) -> tuple[int, int]:
        """The lowest and the highest value that a bucket counts."""
        if bucket < 128:
            return bucket, bucket
        shift = bucket // 64 - 1
        low = (bucket - 64 * shift) << shift
        return low, low + (1 << shift) - 1

    @property
    def mean(self) -> float:
        """Mean of all values; NaN without any."""
        return self.sum / self.count if self.count else math.nan

    def percentile(self, percent: float) -> int:
        """The value that `percent` (0..100) of all values do not exceed; 0 without values."""
        if self.count == 0:
            return 0
        rank = max(1, math.ceil(percent / 100 * self.count))
        found = min(int(np.searchsorted(np.cumsum(self.buckets), rank)), len(self.buckets) - 1)
        if found == len(self.buckets) - 1:
            return self.maximum
        return min(self.bounds(found)[1], self.maximum)

    def __repr__(self) -> str:
        p50, p99 = self.percentile(50), self.percentile(99)
        return f"<Histogram {self.count} values, p50 {p50}, p99 {p99}, max {self.maximum} {self.unit}>"
