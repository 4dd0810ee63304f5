"""What a budget holds while the data drifts, beside a threshold that stays: synthetic streams, several seeds.

python benchmarks/budget.py            # plays everything (half a minute), writes the results and the table
python benchmarks/budget.py --table    # writes the table from the results that are there

The streams are described in `streams.py`. The controller's steps were chosen on the seeds 0–5 and 20–39; none of them
is reported.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import numpy as np
from streams import COUNT, HALF, Flags, Floats, Stream, calibrated, needed, stream

from edge_agent.deciding.budget import Budget
from edge_agent.deciding.settings import BudgetSettings
from shared.manifest import ScoreSpread
from shared.uncertainty import Score

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "budget.json"
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- budget-table -->", "<!-- /budget-table -->"
SEEDS = range(100, 108)
AUDITS, OFFLOAD, AGREEMENT = 0.05, 0.15, 0.97
DAY_S, BYTES_PER_DAY, SAMPLE_BYTES = 86_400, 20_000_000, 20_000
HARD = (OFFLOAD - AUDITS) / (1 - AUDITS)  # what audits leave of the offload goal
NOTHING = BudgetSettings()
EVERYTHING = BudgetSettings(offload=OFFLOAD, agreement=AGREEMENT, bytes_per_day=BYTES_PER_DAY)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a stream: which samples went up and which were refused; when each came."""

    budget: Budget
    sent: Flags
    refused: Flags
    times: Floats


def main() -> int:
    """Play, unless only the table is asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only write the table")
    if not parser.parse_args().table:
        result = {
            "seeds": list(SEEDS),
            "offload": offload_rows(),
            "agreement": agreement_rows(),
            "bytes": byte_rows(),
            "microseconds": {"nothing set": microseconds(NOTHING), "all three set": microseconds(EVERYTHING)},
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = "\n".join(report(json.loads(RESULT.read_text(encoding="utf-8"))))
    print(text)
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "# Benchmarks\n"
    if START not in page:
        page += f"\n## Budget\n\n{START}\n{END}\n"
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")
    return 0


def play(given: Stream, settings: BudgetSettings, start: tuple[float, ScoreSpread], *, times: Floats) -> Played:
    """A device that sends what its budget says and hears of each sample five offloads later."""
    threshold, spread = start
    budget = Budget(settings, audit_fraction=AUDITS, threshold=threshold, score=Score.MAX_PROBABILITY, spread=spread)
    rng, under_way = Random(7), deque[tuple[float, bool, bool]]()
    sent, refused = np.zeros(len(times), np.bool_), np.zeros(len(times), np.bool_)
    for index, (score, differs, now) in enumerate(
        zip(given.scores.tolist(), given.differs.tolist(), times.tolist(), strict=True)
    ):
        hard = score >= (budget.threshold or 0.0)
        audit = not hard and rng.random() < budget.audit_fraction
        goes = (hard or audit) and budget.admits(now, SAMPLE_BYTES)
        sent[index], refused[index] = goes, (hard or audit) and not goes
        budget.observed(score, hard=hard, sent=goes, audited=audit and goes, size_bytes=SAMPLE_BYTES, now_s=now)
        if goes:
            under_way.append((score, audit, differs))
        if len(under_way) > 5:
            judged, audited, differed = under_way.popleft()
            budget.judged(judged, agreed=not differed, audited=audited)
    return Played(budget, sent, refused, times)


def offload_rows() -> list[Row]:
    """The offload goal through each drift, and a threshold that is right before it."""
    rows = []
    for drift in ("none", "shift", "ramp", "bursts", "film"):
        for label, settings in (("fixed", NOTHING), ("budget", BudgetSettings(offload=OFFLOAD))):
            row: Row = {"drift": drift, "threshold": label, "offload": [], "worst": [], "refused": [], "agreement": []}
            for seed in SEEDS:
                given = stream(drift, seed)
                played = play(given, settings, calibrated(seed, offload=HARD), times=np.arange(COUNT, dtype=np.float64))
                row["offload"].append(float(played.sent.mean()))
                row["worst"].append(worst_share(played.sent))
                row["refused"].append(float(played.refused.mean()))
                row["agreement"].append(agreed(given, played))
            rows.append(row)
    return rows


def agreement_rows() -> list[Row]:
    """The agreement goal before and after a change in the middle: alone, and within a limit that may forbid it."""
    kinds = {
        "fixed": NOTHING,
        "goal": BudgetSettings(agreement=AGREEMENT),
        "goal, 15 % at most": BudgetSettings(agreement=AGREEMENT, offload=OFFLOAD),
    }
    rows = []
    for drift in ("none", "overconfident", "shift"):
        for label, settings in kinds.items():
            runs = [agreement_run(drift, seed, settings) for seed in SEEDS]
            rows.append({"drift": drift, "threshold": label} | {key: [run[key] for run in runs] for key in runs[0]})
    return rows


def agreement_run(drift: str, seed: int, settings: BudgetSettings) -> Row:
    """One seed of it."""
    given = stream(drift, seed)
    start = calibrated(seed, agreement=AGREEMENT)
    played = play(given, settings, start, times=np.arange(COUNT, dtype=np.float64))
    state = played.budget.state()
    after = HALF + 1000
    return {
        "before": agreed(given, played, 2000, HALF),
        "next": agreed(given, played, HALF, HALF + 500),
        "then": agreed(given, played, HALF + 500, after),
        "rest": agreed(given, played, after, COUNT),
        "offload_before": float(played.sent[2000:HALF].mean()),
        "offload_rest": float(played.sent[after:].mean()),
        "worst": worst_share(played.sent),
        "needs": needed(Stream(given.scores[HALF:], given.differs[HALF:]), AGREEMENT) / (COUNT - HALF),
        "would_need": state.would_need,
        "goal_met": state.goal_met,
    }


def byte_rows() -> list[Row]:
    """20 MB a day through the shift: samples at even times, in bursts with pauses, and by day only."""
    index = np.arange(4 * 8640)
    steps = {
        "every 10 s": np.full(len(index), 10.0),
        "100 in 100 s, then a pause of 15 min": np.where(index % 100 == 0, 901.0, 1.0),
        "every 5 s, by day only (10 h)": np.where(index % 7200 == 0, 14.0 * 3600, 5.0),
    }
    rows = []
    for arrival, between in steps.items():
        row: Row = {"arrival": arrival, "day": [], "worst": [], "refused": []}
        for seed in SEEDS:
            given, start = stream("shift", seed, len(index)), calibrated(seed, offload=HARD)
            played = play(given, BudgetSettings(bytes_per_day=BYTES_PER_DAY), start, times=np.cumsum(between))
            per_day = SAMPLE_BYTES / BYTES_PER_DAY / (played.times[-1] / DAY_S)
            row["day"].append(float(played.sent.sum() * per_day))
            row["worst"].append(worst_day(played))
            row["refused"].append(float(played.refused.mean()))
        rows.append(row)
    return rows


def microseconds(settings: BudgetSettings) -> float:
    """What a budget costs a sample: threshold, audit fraction, admits and observed, p50 of a hundred batches."""
    scores, (threshold, spread) = stream("none", 1).scores.tolist(), calibrated(1, offload=HARD)
    budget = Budget(settings, audit_fraction=AUDITS, threshold=threshold, score=Score.MAX_PROBABILITY, spread=spread)
    batches, now = [], 0.0
    for first in range(0, COUNT, 200):
        started = time.perf_counter()
        for score in scores[first : first + 200]:
            now += 10.0
            hard = score >= (budget.threshold or 0.0)
            goes = budget.audit_fraction > 0.0 and budget.admits(now, SAMPLE_BYTES) and hard
            budget.observed(score, hard=hard, sent=goes, audited=False, size_bytes=SAMPLE_BYTES, now_s=now)
        batches.append((time.perf_counter() - started) / 200 * 1e6)
    return median(batches)


def worst_share(sent: Flags) -> float:
    """The largest share within any 500 samples."""
    sums = np.concatenate([[0], np.cumsum(sent)])
    return float((sums[500:] - sums[:-500]).max()) / 500


def worst_day(played: Played) -> float:
    """The most bytes within any 24 hours, of what a day may hold."""
    times = played.times[played.sent]
    within = np.searchsorted(times, times + DAY_S) - np.arange(len(times))
    return float(within.max() * SAMPLE_BYTES / BYTES_PER_DAY)


def agreed(given: Stream, played: Played, start: int = 0, end: int = COUNT) -> float:
    """Share of the answers that are the teacher's: corrected ones, and those that stayed and were right."""
    return float(1 - (given.differs & ~played.sent)[start:end].mean())


def report(result: Row) -> list[str]:
    """Markdown: three tables and what they say."""
    seeds, cost = result["seeds"], result["microseconds"]
    limited = max(worst for row in result["agreement"] if "most" in row["threshold"] for worst in row["worst"])
    return [
        f"Synthetic scores (`benchmarks/streams.py`), {COUNT:,} samples a stream, seeds {seeds[0]}–{seeds[-1]}; the",
        "controller was tuned on others. Means over the seeds, in brackets the worst of them. Written by",
        "`benchmarks/budget.py`.",
        "",
        f"`offload = {OFFLOAD}`, {AUDITS:.0%} audits within it; beside it a threshold that is right before the drift:",
        "",
        *_offload_table(result["offload"]),
        "",
        f"`agreement = {AGREEMENT}` with {AUDITS:.0%} audits; the change comes in the middle:",
        "",
        *_agreement_table(result["agreement"]),
        "",
        f"Under the limit of 15 % no 500 samples held more than {limited:.1%} offloads.",
        "",
        f"`bytes_per_day` of {BYTES_PER_DAY // 10**6} MB, samples of {SAMPLE_BYTES // 1000} kB, through the shift:",
        "",
        *_bytes_table(result["bytes"]),
        "",
        f"All calls for one sample together, p50: {', '.join(f'{name} {each:.1f} µs' for name, each in cost.items())}.",
    ]


def _offload_table(rows: list[Row]) -> list[str]:
    lines = [
        "| drift | threshold | offloaded | worst 500 samples | refused by the bucket | agreement |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        offload = _cell(row["offload"], lambda shares: max(shares, key=lambda share: abs(share - OFFLOAD)))
        cells = (row["drift"], row["threshold"], offload, _cell(row["worst"], max), _cell(row["refused"], max))
        lines.append(f"| {' | '.join(cells)} | {_cell(row['agreement'], min)} |")
    return lines


def _agreement_table(rows: list[Row]) -> list[str]:
    heads = ["change", "threshold", "before", "next 500", "500 more", "rest", "offloaded, before → rest", "needs"]
    heads += ["says it needs", "says it is met"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row["drift"], row["threshold"], *(_cell(row[key], min) for key in ("before", "next", "then", "rest"))]
        cells += [
            f"{fmean(row['offload_before']):.1%} → {fmean(row['offload_rest']):.1%}",
            f"{fmean(row['needs']):.0%}",
        ]
        if row["would_need"][0] is None:
            cells += ["", ""]
        else:
            cells += [_cell(row["would_need"], max), f"{sum(row['goal_met'])} of {len(row['goal_met'])}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _bytes_table(rows: list[Row]) -> list[str]:
    lines = [
        "| samples come | bytes a day, of the limit | worst 24 hours | refused by the bucket |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = (_cell(row["day"], max), _cell(row["worst"], max), _cell(row["refused"], max))
        lines.append(f"| {row['arrival']} | {' | '.join(cells)} |")
    return lines


def _cell(values: list[float], worst: Callable[[list[float]], float]) -> str:
    return f"{fmean(values):.1%} ({worst(values):.1%})"


if __name__ == "__main__":
    sys.exit(main())
