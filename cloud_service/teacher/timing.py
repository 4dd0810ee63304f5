"""How long several networks take for a sample; what disturbs the machine falls on all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cloud_service.teacher.model import Array, Network

_ROUNDS = 100
_FEWEST = 5
_SECONDS = 4.0


def fitting_clock(*, threads: int, on_cpu: bool) -> Callable[[], float]:
    """What times a run: the thread's own processor time where that is all a run takes, else the wall's.

    Processor time knows nothing of what else the machine does: beside a busy neighbour the wall's time of a long run,
    such as a batch of 8, is the neighbour's more than its own.
    """
    return time.thread_time if threads == 1 and on_cpu else time.perf_counter


def interleaved_us(
    networks: Sequence[Network],
    samples: Array,
    *,
    sizes: Sequence[Sequence[int]],
    rounds: int = _ROUNDS,
    budget_s: float = _SECONDS,
    clock: Callable[[], float],
) -> list[dict[int, float]]:
    """Microseconds a sample for each network and each of its batch sizes: the shortest time that was seen.

    The shortest, because a median tells how busy the machine was, and a long run is disturbed more often than a short
    one. The networks take turns, batch after batch. It ends after `rounds` of each, or after `budget_s` of all of them
    together, but not before the fifth round.

    Args:
        samples: raw [n, *shape]; repeated where a batch is larger.
        sizes: for each network, the batches to measure.
        clock: seconds; see `fitting_clock`.
    """
    largest = max(size for mine in sizes for size in mine)
    enough = samples[[index % len(samples) for index in range(largest)]]
    times: list[dict[int, list[float]]] = [{size: [] for size in mine} for mine in sizes]
    for network, mine in zip(networks, sizes, strict=True):
        for size in mine:
            network(enough[:size])
    began = clock()
    for done in range(rounds):
        if done >= _FEWEST and clock() - began > budget_s:
            break
        for network, found in zip(networks, times, strict=True):
            for size, spent in found.items():
                start = clock()
                network(enough[:size])
                spent.append((clock() - start) / size)
    return [{size: min(spent) * 1e6 for size, spent in found.items()} for found in times]
