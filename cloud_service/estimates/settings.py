"""Settings of the estimates."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.settings import Section


class EstimatesSettings(Section):
    """How the service estimates what its fleet is worth, and watches for drift.

    Attributes:
        every_s: how often the estimates are made anew.
        period_s: how far back they look.
        settle_s: samples younger than this wait for their verdict before the detectors see them.
        corrected_within_s: a verdict that took longer, from the sample's arrival, came too late to be the answer in
            the end; None: every verdict is.
        teacher_accuracy: warn of a teacher that, by the labels people gave, is surely right less often than this.
        drift: watch the scores for drift; needs about 140 MB of memory for river and what it brings.
        watched_streams: devices times tasks that are watched, at most; 18 KB of memory each.
        replay_samples: newest samples of a task that the detectors are fed again when the service starts.
        metrics_devices: devices that get series of their own in `/metrics`, at most; 0: the fleet alone.
    """

    every_s: Annotated[float, Field(gt=0.0)] = 30.0
    period_s: Annotated[float, Field(gt=0.0)] = 86_400.0
    settle_s: Annotated[float, Field(ge=0.0)] = 10.0
    corrected_within_s: Annotated[float, Field(gt=0.0)] | None = None
    teacher_accuracy: Annotated[float, Field(ge=0.0, le=1.0)] = 0.9
    drift: bool = True
    watched_streams: Annotated[int, Field(ge=1)] = 5_000
    replay_samples: Annotated[int, Field(ge=0)] = 50_000
    metrics_devices: Annotated[int, Field(ge=0)] = 1_000
