"""Samples from an `.npz` file at a steady rate, as if a sensor gave them."""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from threading import Event
from zipfile import BadZipFile

import numpy as np

from edge_agent.decoding import preprocess
from edge_agent.sources.context import Captured, SourceContext
from edge_agent.sources.mailbox import all_of, fed
from edge_agent.sources.settings import ReplaySettings, WhenSlow
from shared.codec import Array
from shared.errors import SettingsError


def samples(settings: ReplaySettings, context: SourceContext, stop: Event) -> Generator[Captured, None, None]:
    """The file's samples in order.

    Raises:
        SettingsError: the file is missing or has no array `x`.
    """
    paced = _paced(settings, context, stop)
    if settings.when_slow is WhenSlow.BLOCK:
        return paced
    return fed(all_of(paced), settings, context, stop)


def _paced(settings: ReplaySettings, context: SourceContext, stop: Event) -> Generator[Captured, None, None]:
    x, reference = _load(settings)
    period_s = 1.0 / settings.rate_hz if settings.rate_hz else 0.0
    next_s = time.monotonic()
    while True:
        for tensor, name in zip(x, reference, strict=True):
            if stop.wait(max(0.0, next_s - time.monotonic())):
                return
            yield Captured(partial(preprocess.lossless, tensor), int(name))
            next_s += period_s
            # A consumer that was late does not cause a burst afterwards.
            late_s = time.monotonic() - period_s
            if period_s and next_s < late_s:
                context.waited(1)
            next_s = max(next_s, late_s)
        if not settings.repeat:
            return


def _load(settings: ReplaySettings) -> tuple[Array, Array]:
    try:
        with open(settings.path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            x: Array = arrays["x"]
            reference: Array = arrays["reference"] if "reference" in arrays else np.arange(len(x))
    # numpy lets these and more through for a file that is no archive, or cut short; each means the same here.
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, BadZipFile) as err:
        raise SettingsError(f"the replay file {settings.path} cannot be used ({err}): it needs an array 'x'") from err
    if len(x) == 0 or reference.shape != x.shape[:1] or reference.dtype.kind not in "iu":
        raise SettingsError(f"the replay file {settings.path} is empty, or 'reference' is not one integer for each 'x'")
    return x, reference
