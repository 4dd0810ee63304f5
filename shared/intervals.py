"""Intervals of proportions that hold where few are counted. Pure."""

from __future__ import annotations

import math

_Z = 1.959964  # of the normal distribution's middle 95 %


def wilson(count: float, total: float) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927), which holds where few are counted; of none (0, 1).

    Args:
        count, total: need not be whole: of weighted samples they are an effective number.
    """
    if total <= 0:
        return 0.0, 1.0
    share, spread = min(1.0, count / total), _Z * _Z / total
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z * math.sqrt(share * (1 - share) / total + spread / total / 4) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)
