"""What a training run came to, for a person: the gate's word, both models' numbers, the scores and the budgets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from cloud_service.cli_tables import show
from shared.errors import SettingsError

Report = Mapping[str, Any]
Rows = list[tuple[str, ...]]

# Classes that a person is shown; the report as JSON has all.
_CLASSES = 20


def read_report(path: Path) -> Report:
    """The report in a run's folder, or in the file itself.

    Raises:
        SettingsError: there is none.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        found: Report = json.loads(file.read_bytes())
    except (OSError, ValueError) as err:
        raise SettingsError(f"{file} is no report of a training run{_why_not(path)}") from err
    return found


def refused(file: Path) -> list[str]:
    """Why the gate of the run in whose folder a bundle lies refused it; empty: it did not, or there is no run."""
    from shared.bundle import sha256_file

    try:
        report: Report = json.loads((file.parent / "report.json").read_bytes())
        made = [{**report, "bundle": "candidate.bundle"}, *report.get("variants", ())]
        mine = [one for one in made if one["bundle"] == file.name and one["bundle_sha256"] == sha256_file(file)]
        return [reason for one in mine if not one["passed"] for reason in one["reasons"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _why_not(folder: Path) -> str:
    if not folder.is_dir():
        return ": there is no such folder"
    try:
        return f": the run failed: {json.loads((folder / 'error.json').read_bytes())['message']}"
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if (folder / "distill.json").exists() or any(folder.glob("*.saved.pt")):
        return ": the run is not finished: `edgeloop distill run --local FILE --out` on the folder goes on with it"
    if (folder / "teach.json").exists():
        return ": only a teacher was trained there"
    return ": name a folder that `distill run` filled"


def show_report(report: Report) -> None:
    """Print a report, as `TrainingReport` has it in JSON."""
    for line in opening(report):
        typer.echo(line)
    for title, header, rows in tables(report):
        if rows:
            typer.echo(f"\n{title}")
            show(None, header, rows, as_json=False)


def opening(report: Report) -> list[str]:
    """The gate's word and what was noted on the way, a line each."""
    lines = [f"gate: {report['version']} passed"]
    if not report["passed"]:
        lines = [
            f"gate: {report['version']} did not pass, it is kept and not shipped",
            *(f"  {reason}" for reason in report["reasons"]),
        ]
    for variant in report.get("variants", ()):
        said = "passed" if variant["passed"] else f"did not pass: {'; '.join(variant['reasons'])}"
        lines.append(f"gate: {variant['version']} {said}")
    lines += _compression(report)
    if (calibration := report.get("calibration")) is None:
        return lines
    lines += [f"note: {note}" for note in calibration["notes"]]
    lines.append(
        f"temperature {calibration['temperature']:.3f}: calibration error {calibration['uncalibrated_error']:.4f} "
        f"without it, {calibration['calibration_error']:.4f} with it"
    )
    lines.append(f"score {calibration['score']}; the learned one: {calibration['deferral_reason']}")
    return lines


def _compression(report: Report) -> list[str]:
    """How each file became int8, a line each."""
    lines = []
    for made in (report, *report.get("variants", ())):
        quantized = made.get("quantized")
        if quantized is None or quantized["how"] is None or quantized["chosen_by"] is None:
            continue
        how, lost, field = quantized["how"], quantized["chosen_by"], quantized["field"]
        floats = f", {len(how['float_layers'])} layers in float" if how["float_layers"] else ""
        on_field = "" if field is None else f", {0.0 - field['share']:+.1%} on field samples"
        lines.append(
            f"int8: {made['version']} by {how['method']}{floats}: {0.0 - lost['share']:+.1%} right answers{on_field}"
        )
    return lines


def tables(report: Report) -> list[tuple[str, Sequence[str], Rows]]:
    """Title, header and rows of each table; one without rows has nothing to say."""
    calibration = report.get("calibration") or {}
    return [
        ("both models", ("", "incumbent", "candidate"), _numbers(report)),
        (
            "further variants",
            ("version", "bytes", "MACs left", "base", "field", "latency", "gate"),
            [_variant(variant) for variant in report.get("variants", ())],
        ),
        (
            "scores: AUROC 0.5 is chance; AURC 0 is best",
            ("score", "AUROC", "AURC"),
            [
                (name, _number(rank["auroc"]), _number(rank["aurc"]))
                for name, rank in calibration.get("rankings", {}).items()
            ],
        ),
        (
            "what each budget would bring",
            ("budget", "threshold", "offloaded", "final answers as the teacher's"),
            [
                (_share(p["budget"]), f"{p['threshold']:.6f}", _share(p["offload_rate"]), _share(p["agreement"]))
                for p in calibration.get("budgets", ())
            ],
        ),
        (
            f"classes on held-out base samples, {_CLASSES} at most, what fell furthest first",
            ("class", "samples", "incumbent", "candidate"),
            _classes(report),
        ),
        (
            "device profiles",
            ("profile", ""),
            [(name, "; ".join(over) or "fits") for name, over in report.get("profiles", {}).items()],
        ),
    ]


def _numbers(report: Report) -> Rows:
    old, new = report["before"] or {}, report["after"]

    def row(what: str, name: str, text: Any) -> tuple[str, ...]:
        return (what, text(old.get(name)), text(new.get(name)))

    rows = [
        row("right on held-out base samples", "base_accuracy", _share),
        row("as the teacher on field samples", "field_agreement", _share),
        row("calibration error", "calibration_error", _number),
        row("offloaded at its own threshold", "offload_rate", _share),
        row("bytes of model.onnx", "model_bytes", _bytes),
    ]
    if (memory := report.get("memory_bytes")) is not None:
        rows.append(("bytes of a session", "", _bytes(memory)))
    if (latency := report.get("latency")) is not None:
        rows.append(("latency", "1.00 ×", f"{latency['ratio']:.2f} × ({latency['low']:.2f} to {latency['high']:.2f})"))
    return rows


def _variant(variant: Mapping[str, Any]) -> tuple[str, ...]:
    after, ratio = variant.get("after", {}), variant.get("latency_ratio")
    return (
        variant["version"],
        _bytes(after.get("model_bytes")),
        _share(variant.get("macs_left")),
        _share(after.get("base_accuracy")),
        _share(after.get("field_agreement")),
        "" if ratio is None else f"{ratio:.2f} ×",
        "passed" if variant["passed"] else "did not pass",
    )


def _classes(report: Report) -> Rows:
    def fall(one: Mapping[str, Any]) -> float:
        before = 1.0 if one["incumbent"] is None else one["incumbent"]
        return float(one["candidate"] - before)

    worst = sorted(report.get("classes", ()), key=fall)[:_CLASSES]
    return [
        (
            one["label"],
            str(one["samples"]),
            _share(one["incumbent"]),
            _share(one["candidate"] if one["samples"] else None),
        )
        for one in worst
    ]


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
