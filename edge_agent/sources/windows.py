"""Windows with overlap over a stream of samples: samples in, whole windows out. Pure."""

from __future__ import annotations

import numpy as np

from shared.codec import Array


class Windows:
    """Cuts a stream into windows of `length` samples, each beginning `hop` samples after the one before.

    A `hop` under `length` overlaps, one over it leaves samples out. Fewer than `length` samples are kept between two
    calls, by reference until their window is whole: the caller does not change them afterwards.
    """

    def __init__(self, *, length: int, hop: int) -> None:
        if length < 1 or hop < 1:
            raise ValueError("a window needs length >= 1 and hop >= 1")
        self._length, self._hop = length, hop
        self._pending: list[Array] = []
        self._count = self._left_out = 0

    def add(self, samples: Array) -> list[Array]:
        """Take samples [n, …]; the windows [length, …] that they complete, each an array of its own.

        Every call must bring the same dtype and the same shape of one sample.
        """
        out = min(self._left_out, len(samples))
        self._left_out -= out
        self._pending.append(samples[out:])
        self._count += len(samples) - out
        if self._count < self._length:
            return []
        stream = np.concatenate(self._pending)
        begins = range(0, self._count - self._length + 1, self._hop)
        following = begins[-1] + self._hop
        rest = stream[following:].copy()
        self._left_out = max(0, following - self._count)
        self._pending, self._count = [rest], len(rest)
        return [stream[begin : begin + self._length].copy() for begin in begins]

    def restart(self) -> None:
        """Forget what waits: the stream has a gap, and no window may span it."""
        self._pending, self._count, self._left_out = [], 0, 0
