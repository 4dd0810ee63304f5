"""A study's results in words: its table over all seeds, and which of the goals were reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared import atomic
from shared.errors import SettingsError

Measured = Sequence[dict[str, Any]]

FP32, PTQ, QAT, HALF, FACTORY = (
    "distilled, fp32",
    "distilled, int8",
    "distilled, int8-qat",
    "distilled, pruned-50",
    "before: factory, int8",
)
ALL_LABELS, TEACHERS_LABELS = "student, all labels", "student, teacher's labels"
_KNOWN = {
    ALL_LABELS: "all labels that the teacher saw",
    TEACHERS_LABELS: "the teacher's answers as labels, on the same data",
}
_LARGE = 300_000


def in_words(measured: Measured) -> str:
    """Markdown: what was measured, one table, the scores, the goals."""
    first = measured[0]
    said = [f"Seeds {', '.join(str(one['seed']) for one in measured)}. The teacher has seen {first['teacher_saw']}."]
    said += [
        f"- seed {one['seed']}: home {one['home']}; field {one['field']}; {one['sent']} samples were sent"
        for one in measured
    ]
    said += ["", "| | home | field | bytes | latency | |", "|---|---|---|---|---|---|"]
    said += [_row(measured, number) for number in range(len(first["rows"]))]
    said += ["", "| AURC | maximum probability | chosen score | which |", "|---|---|---|---|"]
    said += [_scores(measured, number) for number in range(len(first["scores"]))]
    said += ["", "| goal | measured | reached |", "|---|---|---|"]
    said += [f"| {name} | {value} | {'yes' if reached else '**no**'} |" for name, value, reached in goals(measured)]
    return "\n".join(said) + "\n"


def put_into(page: Path, name: str, table: str) -> None:
    """Replace what stands between the page's `<!-- NAME -->` and `<!-- /NAME -->`."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SettingsError(f"{page} has no place for {name}: add {begin.strip()} and {end}")
    atomic.write_bytes(page, (before + begin + table + end + after).encode())


def goals(measured: Measured) -> list[tuple[str, str, bool]]:
    """Each goal, what was measured, and whether the mean over the seeds reaches it."""

    def mean(name: str, key: str) -> float:
        return _mean(measured, lambda one: _find(one, name)[key])

    lost = {name: 100.0 * (_both(measured, FP32) - _both(measured, name)) for name in (PTQ, QAT, HALF)}
    share = mean(PTQ, "bytes") / mean(FP32, "bytes")
    large = mean(FP32, "bytes") >= _LARGE
    taught = 100.0 * (mean(FP32, "field") - mean("student, home labels", "field"))
    known = ALL_LABELS if any(row["name"] == ALL_LABELS for row in measured[0]["rows"]) else TEACHERS_LABELS
    also = 100.0 * (mean(FP32, "field") - mean(known, "field"))
    regained = _mean(measured, _regained)
    home = 100.0 * (mean(FACTORY, "home") - mean(PTQ, "home"))
    fast = mean(HALF, "latency_ratio")
    areas = [
        (one["when"], one["where"], one["chosen"] - one["max_probability"])
        for each in measured
        for one in each["scores"]
    ]
    worse = max(more for _, _, more in areas)
    better = float(np.mean([more for when, where, more in areas if (when, where) == ("before", "field")]))
    return [
        ("int8 after training within 0.5 point of fp32 (mean of both tests)", f"{lost[PTQ]:+.1f}", lost[PTQ] <= 0.5),
        _trained_in_int8(measured, lost[QAT]),
        (
            "int8 ≤ 0.30× the bytes" + ("" if large else " (asked from 300 KB on; this net is smaller)"),
            f"{share:.2f}×",
            share <= 0.30,
        ),
        ("distillation ≥ 2 points in the field over labels of home", f"{taught:+.1f}", taught >= 2.0),
        (f"… and over {_KNOWN[known]}", f"{also:+.1f}", also >= 2.0),
        ("half the MACs ≤ 1 point", f"{lost[HALF]:+.1f}", lost[HALF] <= 1.0),
        ("half the MACs ≤ 0.6× the latency", f"{fast:.2f}×", fast <= 0.6),
        ("chosen score's AURC nowhere worse", f"{worse:+.4f} at most", worse <= 0.0),
        ("chosen score's AURC better in the field before the update", f"{better:+.4f}", better < 0.0),
        ("one loop regains ≥ 70 % of the gap to the teacher", f"{regained:.0%}", regained >= 0.7),
        ("one loop loses ≤ 1 point at home", f"{home:+.1f}", home <= 1.0),
    ]


def _trained_in_int8(measured: Measured, lost: float) -> tuple[str, str, bool]:
    """Whether training in int8 holds; it is not shown by a file that was quantized after training in its place."""
    taken = sum(_find(one, QAT)["note"].startswith("qat") for one in measured)
    said = f"{lost:+.1f}" if taken == len(measured) else f"taken in {taken} of {len(measured)} seeds"
    return "int8 in training within 0.5 point of fp32", said, taken == len(measured) and lost <= 0.5


def _row(measured: Measured, number: int) -> str:
    rows = [one["rows"][number] for one in measured]
    size = "" if rows[0]["bytes"] is None else f"{np.mean([row['bytes'] for row in rows]):,.0f}"
    ratio = "" if rows[0]["latency_ratio"] is None else f"{np.mean([row['latency_ratio'] for row in rows]):.2f}"
    notes = "; ".join(dict.fromkeys(row["note"] for row in rows))
    home, field = (_spread([row[where] for row in rows]) for where in ("home", "field"))
    return f"| {rows[0]['name']} | {home} | {field} | {size} | {ratio} | {notes} |"


def _scores(measured: Measured, number: int) -> str:
    scores = [one["scores"][number] for one in measured]
    which = ", ".join(score["score"] for score in scores)
    plain, chosen = (np.mean([score[name] for score in scores]) for name in ("max_probability", "chosen"))
    return f"| {scores[0]['when']} the update, {scores[0]['where']} | {plain:.4f} | {chosen:.4f} | {which} |"


def _spread(values: Sequence[float]) -> str:
    low, high = 100.0 * min(values), 100.0 * max(values)
    return f"{100.0 * float(np.mean(values)):.1f} ({low:.1f}–{high:.1f})"


def _find(one: dict[str, Any], name: str) -> dict[str, Any]:
    row: dict[str, Any]
    (row,) = (each for each in one["rows"] if each["name"] == name)
    return row


def _mean(measured: Measured, of: Callable[[dict[str, Any]], float]) -> float:
    return float(np.mean([of(one) for one in measured]))


def _both(measured: Measured, name: str) -> float:
    return _mean(measured, lambda one: (_find(one, name)["home"] + _find(one, name)["field"]) / 2.0)


def _regained(one: dict[str, Any]) -> float:
    before, after = _find(one, FACTORY)["field"], _find(one, PTQ)["field"]
    gap = _find(one, "teacher")["field"] - before
    return float((after - before) / gap) if gap > 0.0 else 1.0
