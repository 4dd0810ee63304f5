"""The commands that say what the fleet is worth, and what somebody should look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cloud_service.cli_remote import LOCAL, AsJson, Task, Url, connected
from cloud_service.cli_tables import show

Device = Annotated[str | None, typer.Option(help="Only this device.")]


def estimates(url: Url = LOCAL, task: Task = None, device: Device = None, as_json: AsJson = False) -> None:
    """Show how often the answers are the teacher's, and right: fleet and devices, with 95 % intervals."""
    found = connected(url).get("/api/v1/estimates", {"task": task, "device": device})
    rows = [_row(estimate) for estimate in found["items"]]
    header = ("device", "task", "final answers", "own answers", "audits", "edge right", "teacher right", "warnings")
    show(found, header, rows, as_json=as_json)
    if not as_json and found["at"] is None:
        typer.echo("no estimates yet: the service makes the first ones soon after it has started")


def incidents(
    url: Url = LOCAL,
    task: Task = None,
    device: Device = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what somebody should look at: devices that see something else than before."""
    asked = {"task": task, "device": device, "open": None if everything else "true"}
    found = connected(url).get("/api/v1/incidents", asked)
    rows = [
        (str(incident["id"]), incident["opened_at"], incident["closed_at"] or "", incident["sentence"])
        for incident in found["items"]
    ]
    show(found, ("incident", "since", "until", "what"), rows, as_json=as_json)


def _row(estimate: Mapping[str, Any]) -> tuple[str, ...]:
    agreement = estimate["agreement"]
    labelled = {accuracy["labelled"]: accuracy for accuracy in estimate["accuracy"]}
    accuracy = labelled.get("audits", {})
    return (
        estimate["device"] or "all",
        estimate["task"],
        _interval(agreement["final"]),
        _interval(agreement["own"]),
        str(agreement["audits"]),
        _interval(accuracy.get("edge")),
        _interval(accuracy.get("teacher")),
        "; ".join(estimate["warnings"]),
    )


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None or found["value"] is None:
        return ""
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
