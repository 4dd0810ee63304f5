"""The change detectors of river, imported with the first audit: scipy comes with it, and pandas if there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloud_service.estimates.drift import Detectors
from shared.errors import SettingsError

_ADWIN_DELTA = 0.002
_PAGE_HINKLEY_DELTA, _PAGE_HINKLEY_LAMBDA = 0.2, 50.0


def load() -> Callable[[], Detectors]:
    """What makes a fresh pair; takes about a second the first time.

    Raises:
        SettingsError: river is not installed.
    """
    try:
        from river.drift import ADWIN, PageHinkley
    except ImportError as err:
        raise SettingsError(
            f"drift is watched with river, which cannot be imported ({err}): type: pip install 'edgeloop[cloud]', "
            "or set drift = false in [estimates]"
        ) from err

    def pair() -> Detectors:
        return Detectors(
            adwin=_River(ADWIN(delta=_ADWIN_DELTA)),  # type: ignore[no-untyped-call]  # river has no types here
            page_hinkley=_River(PageHinkley(delta=_PAGE_HINKLEY_DELTA, threshold=_PAGE_HINKLEY_LAMBDA, mode="up")),
        )

    return pair


class _River:
    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def update(self, value: float) -> bool:
        """Feed it; it begins anew by itself after a change."""
        self._detector.update(value)
        return bool(self._detector.drift_detected)
