"""The stages of a training run by name; light, for the command line."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """What may be done alone, in the order of a run; `teach` comes before it, and only when asked for."""

    TEACH = "teach"
    DISTILL = "distill"
    PRUNE = "prune"
    QUANTIZE = "quantize"
    CALIBRATE = "calibrate"
    EVALUATE = "evaluate"
    GATE = "gate"
    BUNDLE = "bundle"
