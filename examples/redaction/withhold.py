"""A redaction hook that withholds: nothing of some labels, nor anything at night, leaves the device.

[tasks.door]
redact = "withhold.py:withhold"
"""

from __future__ import annotations

import numpy as np

from edge_agent.redaction import Departing
from shared.codec import Array

PRIVATE = {"person", "child"}
DARK = 12.0


def withhold(sample: Departing) -> Array | None:
    """The sample as it is, or None for what must stay."""
    if sample.label in PRIVATE or float(np.mean(sample.tensor)) < DARK:
        return None
    return sample.tensor
