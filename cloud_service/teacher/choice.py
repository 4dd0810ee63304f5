"""Which backend a teacher runs on: a pure decision over what was measured on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cloud_service.teacher.settings import Backend

# Two measurements this close are the same: repeated ones on a quiet machine differ by 2 to 4 %.
_SAME = 1.05
# A larger batch may cost a sample this much more: under load it saves the service work that is not measured here.
_NO_WORSE = 1.10
# Below this a faster backend saves less than what the service itself spends on a sample.
WORTH_US = 100.0


class Device(StrEnum):
    """Where a backend computes."""

    CPU = "cpu"
    CUDA = "cuda"


# Batch sizes that are measured, and how long a lone sample waits for company.
SIZES = {Device.CPU: (1, 8), Device.CUDA: (1, 8, 32, 64)}
WINDOW_S = {Device.CPU: 0.0, Device.CUDA: 0.002}

# Where two are equally fast: the one that answers exactly as given without torch in memory, then the exact one.
_PREFERRED = (Backend.ONNXRUNTIME, Backend.TORCH, Backend.INT8)


@dataclass(frozen=True, slots=True)
class Measured:
    """One backend on this host.

    Attributes:
        us_per_sample: microseconds a sample, by batch size.
        agreement: share of the checked samples that it answers as the model in the form in which it was given.
        accuracy: share of them that it answers as their labels.
        refused: why it cannot be taken; empty: it can.
    """

    backend: Backend
    device: Device = Device.CPU
    us_per_sample: Mapping[int, float] = field(default_factory=dict)
    agreement: float = 0.0
    accuracy: float = 0.0
    refused: str = ""

    @property
    def max_batch(self) -> int:
        """The largest batch that costs a sample no more than a tenth above the best one."""
        best = min(self.us_per_sample.values())
        return max(size for size, time in self.us_per_sample.items() if time <= _NO_WORSE * best)

    @property
    def best_us(self) -> float:
        """What a sample costs at `max_batch`."""
        return self.us_per_sample[self.max_batch]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a teacher runs on, and why."""

    backend: Backend
    device: Device = Device.CPU
    max_batch: int = SIZES[Device.CPU][-1]
    reason: str = ""

    @property
    def window_s(self) -> float:
        return WINDOW_S[self.device]


def choose(
    measured: Sequence[Measured], *, max_drop: float, checked: int, wish: Backend = Backend.AUTO
) -> Choice | None:
    """The fastest backend whose answers differ from the source's on at most `max_drop` of the samples.

    Rounding to int8 changes answers, so it must be shown not to: of fewer than 1/`max_drop` samples a single one that
    differs would be too many, and that none does says nothing. A wish other than `auto` is granted whatever it costs;
    the reason then says so.

    Args:
        checked: samples that the agreements were counted on.

    Returns:
        None: not one can be taken.
    """
    running = [one for one in measured if not one.refused and wish in {Backend.AUTO, one.backend}]
    held = [one for one in running if not _against_it(one, max_drop, checked)]
    able = held or (running if wish is not Backend.AUTO else [])
    if not able:
        return None
    fastest = min(one.best_us for one in able)
    close = [one for one in able if one.best_us <= _SAME * fastest]
    taken = min(close, key=lambda one: (_PREFERRED.index(one.backend), one.best_us))
    reason = _reason(taken, measured, wish=wish, max_drop=max_drop, checked=checked)
    return Choice(taken.backend, taken.device, taken.max_batch, reason)


def _against_it(one: Measured, max_drop: float, checked: int) -> str:
    """Why `auto` does not take what runs; empty: nothing speaks against it."""
    drop = 1.0 - one.agreement
    if drop > max_drop:
        return f"{drop:.2%} differ"
    if one.backend is Backend.INT8 and checked * max_drop < 1.0:
        return f"held against {checked} samples alone, fewer than 1/max_drop: add to x_eval of the base data"
    return ""


def _reason(taken: Measured, measured: Sequence[Measured], *, wish: Backend, max_drop: float, checked: int) -> str:
    drop = 1.0 - taken.agreement
    numbers = f"{taken.best_us:.0f} µs a sample, {drop:.2%} of the answers differ"
    if wish is not Backend.AUTO:
        over = f"; more than max_drop = {max_drop:g}" if drop > max_drop else ""
        return f"as set: {numbers}{over}"
    others = [_other(one, max_drop, checked) for one in measured if one is not taken]
    return f"{numbers}; " + ("; ".join(others) or "there was no other")


def _other(one: Measured, max_drop: float, checked: int) -> str:
    name = f"{one.backend.value} on {one.device.value}"
    if one.refused:
        return f"{name} does not run ({one.refused})"
    against = _against_it(one, max_drop, checked)
    return f"{name} {one.best_us:.0f} µs" + (f", {against}" if against else "")
