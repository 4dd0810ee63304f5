"""What waits, in memory: which rows there are, which are the least valuable, which the oldest. Pure.

56 bytes a sample in one table; instead of indices on disk, each of which would cost the flash a page for every sample.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.void]

# `number` is the row's, rising; `mark` half of the sample's id; `size` what the sample takes, 0 once it is gone;
# `tries` since the connection was made, `sendings` since the start; `sent_at_s` of the last of them.
ITEM = np.dtype(
    [
        ("number", np.int64),
        ("mark", np.uint64),
        ("created_s", np.float64),
        ("sent_at_s", np.float64),
        ("value", np.float64),
        ("size", np.int32),
        ("segment", np.int32),
        ("tries", np.uint8),
        ("sendings", np.uint8),
        ("rank", np.uint8),
    ],
    align=True,
)
_MOST = 255
_FEWEST_ROWS = 64
# The least valuable are looked for once for so many, of all: looking takes as long as there are many.
_FEWEST_CANDIDATES, _CANDIDATE_SHARE = 64, 64


class Rank(IntEnum):
    """Who goes first: somebody waits for the answer, hard, a random audit, put off until there is time."""

    WANTED = 0
    HARD = 1
    AUDIT = 2
    DEFERRED = 3


class Catalogue:
    """See the module. Not thread-safe: the spool's lock guards it.

    Attributes:
        items: how many wait.
        bytes: what they take.
    """

    def __init__(self, items: Iterable[tuple[Any, ...]], *, max_age_s: float) -> None:
        """Take over what waits already: tuples as `ITEM` has them, by rising number."""
        self._table = np.fromiter(items, ITEM)
        self._end = self.items = len(self._table)
        self.bytes = int(self._table["size"].sum())
        self._max_age_s = max_age_s
        # The least valuable as (worth, number), rising: none outside this list is worth less than its last.
        self._least: list[tuple[float, int]] = []
        self._last = int(self._table["number"][-1]) if self._end else 0

    @property
    def table(self) -> Table:
        """All rows, by rising number; those with a size of 0 are gone."""
        return self._table[: self._end]

    @property
    def next_number(self) -> int:
        """For the next sample's row."""
        return self._last + 1

    def segments(self) -> Counter[int]:
        """How many wait in each segment."""
        return Counter(self.table["segment"].tolist())

    def add(self, sample_id: UUID, *, created_s: float, value: float, size: int, segment: int, rank: Rank) -> None:
        """One more, of `next_number`."""
        if self._end == len(self._table):
            self._make_space()
        number = self._last = self._last + 1
        self._table[self._end] = (number, mark(sample_id), created_s, 0.0, value, size, segment, 0, 0, rank)
        self._end += 1
        self.items += 1
        self.bytes += size
        key = self._key(value, created_s)
        if self._least and key < self._least[-1][0]:
            insort(self._least, (key, number))
            del self._least[2 * self._candidates() :]

    def find(self, ids: Iterable[UUID]) -> list[int]:
        """The numbers of these samples; those that are not here have none."""
        marks = [mark(sample_id) for sample_id in ids]
        own = self.table["mark"]
        found = own == np.uint64(marks[0]) if len(marks) == 1 else np.isin(own, np.array(marks, np.uint64))
        numbers: list[int] = self.table["number"][found & (self.table["size"] > 0)].tolist()
        return numbers

    def remove(self, numbers: Iterable[int]) -> list[int]:
        """These are gone; gives the segment of each that was here."""
        segments = []
        for number in numbers:
            size = self._size(number)
            if size:
                row = self._table[self._index(number)]
                self.items -= 1
                self.bytes -= size
                segments.append(int(row["segment"]))
                row["size"] = 0
        if self._end > _FEWEST_ROWS and 2 * self.items < self._end:
            self._make_space()
        return segments

    def leaving(self, needed: int, value: float, created_s: float) -> list[int] | None:
        """The least valuable that together take `needed` bytes, the older first among equals.

        None: they are worth more than a sample of this value and time, or all together do not take as much.
        """
        limit, count = self._key(value, created_s), self._candidates()
        while self._least and not self._size(self._least[0][1]):
            del self._least[0]
        while True:
            numbers, freed = [], 0
            for key, number in self._least:
                if key > limit:
                    return None
                if size := self._size(number):
                    numbers.append(number)
                    freed += size
                if freed >= needed:
                    return numbers
            if len(numbers) == self.items:
                return None
            count = max(count, 2 * len(numbers))
            self._look_for_the_least(count)

    def older_than(self, created_s: float, limit: int) -> list[int]:
        """Up to `limit` samples that were created before this time."""
        table = self.table
        numbers: list[int] = table["number"][(table["created_s"] < created_s) & (table["size"] > 0)][:limit].tolist()
        return numbers

    def shift(self, seconds: float, latest_s: float) -> None:
        """The clock was set: every time of creation moves with it, none past `latest_s`."""
        self.table["created_s"] = np.minimum(self.table["created_s"] + seconds, latest_s)
        self._least.clear()

    def created_s(self, number: int) -> float | None:
        """When it was put in; None when it is gone."""
        return float(self._table[self._index(number)]["created_s"]) if self._size(number) else None

    def sent(self, number: int, now_s: float) -> None:
        """This one was just given out to be sent."""
        row = self._table[self._index(number)]
        row["sent_at_s"] = now_s
        row["tries"] = min(int(row["tries"]) + 1, _MOST)
        row["sendings"] = min(int(row["sendings"]) + 1, _MOST)

    def not_sent(self, number: int) -> None:
        """This one was given out, and not sent after all."""
        if not self._size(number):
            return
        row = self._table[self._index(number)]
        row["tries"] = max(int(row["tries"]) - 1, 0)
        row["sendings"] = max(int(row["sendings"]) - 1, 0)

    def demote(self, number: int) -> None:
        """Nobody waits for this one any more."""
        row = self._table[self._index(number)]
        row["rank"] = max(int(row["rank"]), Rank.HARD)

    def put_off(self, now_s: float) -> None:
        """Whatever was sent counts as sent just now."""
        self.table["sent_at_s"] = now_s

    def forget_tries(self) -> None:
        """Nothing was sent over this connection yet."""
        self.table["tries"] = 0

    def _index(self, number: int) -> int:
        return int(np.searchsorted(self.table["number"], number))

    def _size(self, number: int) -> int:
        """What it takes; 0 when it is gone."""
        index = self._index(number)
        here = index < self._end and self._table["number"][index] == number
        return int(self._table["size"][index]) if here else 0

    def _key(self, value: float, created_s: float) -> float:
        return value + created_s / self._max_age_s

    def _candidates(self) -> int:
        return max(_FEWEST_CANDIDATES, self.items // _CANDIDATE_SHARE)

    def _look_for_the_least(self, count: int) -> None:
        table, count = self.table, min(count, self.items)
        keys = np.where(table["size"] > 0, table["value"] + table["created_s"] / self._max_age_s, np.inf)
        edge = np.partition(keys, count - 1)[count - 1]
        below = np.flatnonzero(keys < edge)
        # Of those on the edge the older, which come first.
        chosen = np.concatenate([below, np.flatnonzero(keys == edge)[: count - len(below)]])
        self._least = sorted(zip(keys[chosen].tolist(), table["number"][chosen].tolist(), strict=True))

    def _make_space(self) -> None:
        kept = self.table[self.table["size"] > 0]
        self._end = len(kept)
        self._table = np.zeros(max(_FEWEST_ROWS, 2 * self._end), ITEM)
        self._table[: self._end] = kept


def mark(sample_id: UUID) -> int:
    """The half of an id by which a sample is found: 62 random bits in a UUIDv7."""
    return sample_id.int & 0xFFFF_FFFF_FFFF_FFFF
