"""The commands that look at and drive a running service through its API."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_service.cli_report import refused
from cloud_service.cli_tables import show
from shared.errors import SettingsError

if TYPE_CHECKING:
    from cloud_service.client import Client

model_app = typer.Typer(no_args_is_help=True, help="Push models to devices, and list them.")

LOCAL = "http://127.0.0.1:8080"
# Of the command that runs, if it was given.
TOKEN_FILE: ContextVar[Path | None] = ContextVar("token_file", default=None)
# How often `--wait` looks.
_POLL_S = 0.3
# Devices fetched at once.
_PAGE = 1_000

Url = Annotated[str, typer.Option(envvar="EDGELOOP_URL", help="Address of the running service.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Task = Annotated[str | None, typer.Option(help="Only this task.")]


def connected(url: str) -> Client:
    """A client of the service at this address, with the token of EDGELOOP_TOKEN or --token-file.

    Raises:
        SettingsError: the file has no token.
    """
    from cloud_service.client import Client

    file = TOKEN_FILE.get()
    return Client(url, token=os.environ.get("EDGELOOP_TOKEN") or None if file is None else _first_token(file))


def devices(url: Url = LOCAL, as_json: AsJson = False) -> None:
    """List the devices, what they run and how they do."""
    client = connected(url)
    found = client.get("/api/v1/devices", {"limit": _PAGE})
    while found["next"]:
        page = client.get("/api/v1/devices", {"limit": _PAGE, "cursor": found["next"]})
        found = {"items": found["items"] + page["items"], "next": page["next"]}
    rows = [
        (
            device["name"],
            "online" if device["online"] else "offline",
            ", ".join(f"{task} {state['bundle_version']}" for task, state in device["tasks"].items()),
            device["last_seen"],
            str((device["telemetry"] or {}).get("spool", {}).get("items", "")),
        )
        for device in found["items"]
    ]
    show(found, ("device", "state", "runs", "last seen", "waiting"), rows, as_json=as_json)


@model_app.command("push")
def push_model(
    file: Annotated[Path, typer.Argument(help="A bundle file, or an ONNX classifier with --description.")],
    description: Annotated[Path | None, typer.Option(help="JSON that describes an ONNX file.")] = None,
    device: Annotated[list[str] | None, typer.Option(help="Send it to this device; may be repeated.")] = None,
    everywhere: Annotated[bool, typer.Option("--all", help="Send it to every device that runs the task.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until every device has answered.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.0, help="How long --wait waits.")] = 120.0,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Push a model to the registry and, when devices are named, to these."""
    if everywhere and device:
        raise SettingsError("name devices, or say --all, not both")
    if file.suffix == ".onnx" and description is None:
        raise SettingsError(
            "an ONNX file needs --description FILE.json: task, input {shape, dtype}; the rest is optional"
        )
    for reason in refused(file):
        typer.echo(f"warning: the gate of the run beside {file} did not let it through: {reason}", err=True)
    client = connected(url)
    model = client.upload_bundle(file) if description is None else client.upload_model(file, description)
    task, version = model["task"], model["version"]
    if not as_json:
        typer.echo(f"{task} {version} is in the registry ({model['size_bytes']:,} bytes)")
    result: list[dict[str, Any]] = []
    if device or everywhere:
        result = _deployed(client, task, version, devices=device or [], timeout_s=timeout_s if wait else None)
    if result or as_json:
        _show_deployments({"model": model, "deployments": result}, as_json=as_json)
    _all_activated(result, waited=wait)


@model_app.command("deploy")
def deploy_model(
    task: Annotated[str, typer.Argument(help="The model's task.")],
    version: Annotated[str, typer.Argument(help="A version in the registry.")],
    device: Annotated[list[str] | None, typer.Option(help="Send it to this device; may be repeated.")] = None,
    everywhere: Annotated[bool, typer.Option("--all", help="Send it to every device that runs the task.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until every device has answered.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.0, help="How long --wait waits.")] = 120.0,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Send a model that is in the registry to devices: an earlier one, too."""
    if everywhere == bool(device):
        raise SettingsError("name devices, or say --all, one of both")
    result = _deployed(connected(url), task, version, devices=device or [], timeout_s=timeout_s if wait else None)
    _show_deployments({"deployments": result}, as_json=as_json)
    _all_activated(result, waited=wait)


@model_app.command("list")
def list_models(url: Url = LOCAL, task: Task = None, as_json: AsJson = False) -> None:
    """List the models in the registry."""
    found = connected(url).get("/api/v1/models", _only(task))
    rows = [
        (
            m["task"],
            m["version"],
            m["parent"] or "",
            f"{m['size_bytes']:,}",
            m["origin"],
            _shippable(m),
            m["created_at"],
        )
        for m in found["items"]
    ]
    show(found, ("task", "version", "parent", "bytes", "origin", "gate", "created"), rows, as_json=as_json)


def _first_token(file: Path) -> str:
    try:
        words = file.read_text(encoding="utf-8").split(maxsplit=1)
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(f"--token-file: cannot read {file}: {err}") from err
    if not words:
        raise SettingsError(f"--token-file: {file} is empty: it begins with the token")
    return words[0]


def _only(task: str | None) -> dict[str, object]:
    return {"task": task}


def _deployed(
    client: Client, task: str, version: str, *, devices: Sequence[str], timeout_s: float | None
) -> list[dict[str, Any]]:
    """Deploy to these devices, or to all when none is named; with a time-out, wait for how it ends."""
    wanted = {"task": task, "version": version, "devices": list(devices), "all": not devices}
    sent: list[dict[str, Any]] = client.post("/api/v1/deployments", wanted)["items"]
    return sent if timeout_s is None else _awaited(client, sent, timeout_s)


def _all_activated(deployments: Sequence[Mapping[str, Any]], *, waited: bool) -> None:
    if waited and any(row["state"] != "activated" for row in deployments):
        raise typer.Exit(1)


def _show_deployments(whole: Mapping[str, Any], *, as_json: bool) -> None:
    rows = [(d["device"], d["task"], d["version"], d["state"], d["message"]) for d in whole["deployments"]]
    show(whole, ("device", "task", "version", "state", "message"), rows, as_json=as_json)


def _awaited(client: Client, sent: Sequence[Mapping[str, Any]], timeout_s: float) -> list[dict[str, Any]]:
    """The deployments once none is pending, or when the time is over."""
    ids = {row["id"] for row in sent}
    query = {"task": str(sent[0]["task"]), "version": str(sent[0]["version"])}
    until = time.monotonic() + timeout_s
    while True:
        rows = [row for row in client.get("/api/v1/deployments", query)["items"] if row["id"] in ids]
        if all(row["state"] != "pending" for row in rows) or time.monotonic() > until:
            return rows
        time.sleep(_POLL_S)


def _shippable(model: Mapping[str, Any]) -> str:
    return "passed" if model["shippable"] else "did not pass"
