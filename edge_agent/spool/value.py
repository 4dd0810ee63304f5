"""What a sample that waits is worth to the cloud: when the spool is full, the least valuable goes first. Pure.

    value = hardness + rarity − age / max_age_s, and every hard sample above every audit

The age counts against each sample at the same pace, so who is worth more than whom never changes while they wait: it is
enough to compare hardness + rarity + (time of creation) / max_age_s.
"""

from __future__ import annotations

from shared.messages import Reason, SampleHeader

# Scores outside [0, 1] (energy) count as they are, but none may lift an audit above a hard sample.
_LARGEST = 1e3
_ABOVE_AUDITS = 1e4


def worth(header: SampleHeader, rarity: float) -> float:
    """hardness + rarity, on a scale on which every hard sample is above every audit.

    Args:
        rarity: in [0, 1]: how unlike the sample is to what went up lately.
    """
    value = min(max(header.hardness + rarity, -_LARGEST), _LARGEST)
    return value if header.reason is Reason.AUDIT else value + _ABOVE_AUDITS
