"""The demo's picture: accuracy and offload rate over time, with the update marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud_service.demo.measure import CURVE_WINDOW, Curve

_GAP_S = 3.0
_BLUE, _GREEN, _ORANGE, _GREY = "#2563eb", "#059669", "#ea580c", "#6b7280"


def draw(file: Path, curve: Curve, *, updates_s: Sequence[float], teacher: float, title: str) -> None:
    """Write a PNG or SVG, as the file's ending says.

    Args:
        updates_s: when each device took the new model, seconds.
        teacher: the teacher's accuracy on the field test set, drawn as the ceiling.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    axes.axhline(teacher, color=_GREY, linestyle=":", linewidth=1.2, label=f"teacher ({teacher:.3f})")
    axes.plot(
        curve.at_s, _gaps(curve.at_s, curve.system), color=_GREEN, linewidth=2, label="system: own answer or verdict"
    )
    axes.plot(curve.at_s, _gaps(curve.at_s, curve.edge), color=_BLUE, linewidth=2, label="edge: the student alone")
    axes.plot(curve.at_s, _gaps(curve.at_s, curve.offload), color=_ORANGE, linewidth=2, label="offloaded")
    for number, at_s in enumerate(updates_s):
        label = "a device swaps its model" if number == 0 else None
        axes.axvline(at_s, color="black", linestyle="--", linewidth=1, alpha=0.6, label=label)
    axes.set(title=title, xlabel="seconds since the devices started", ylim=(0, 1.02))
    axes.set_ylabel(f"share of the last {CURVE_WINDOW} field test images")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def _gaps(at_s: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The values with a hole where no test image was met for a while (the devices saw the stream then)."""
    return np.where(np.diff(at_s, prepend=at_s[:1]) > _GAP_S, np.nan, values)
