"""`edgeloop samples`: out to people and back: export, label, and delete for good."""

from __future__ import annotations

import getpass
import json
import shlex
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from cloud_service import cli_filters
from cloud_service.cli_filters import (
    Bundle,
    Device,
    HumanLabel,
    Label,
    Labelled,
    MaxHardness,
    MinHardness,
    Reason,
    Since,
    Teacher,
    Until,
)
from cloud_service.cli_remote import LOCAL, AsJson, Task, Url, connected
from cloud_service.cli_samples import PATH, samples_app
from shared.errors import SettingsError

if TYPE_CHECKING:
    from http.client import HTTPMessage

    from cloud_service.client import Client

# The whole group: what looks comes from cli_samples, what goes out and back is added here.
__all__ = ["samples_app"]


class Format(StrEnum):
    """What an export is written as."""

    LABEL_STUDIO = "label-studio"
    NPZ = "npz"
    JSONL = "jsonl"


_BY_SUFFIX = {".json": Format.LABEL_STUDIO, ".npz": Format.NPZ, ".jsonl": Format.JSONL}


@samples_app.command("export")
def export_samples(
    file: Annotated[Path, typer.Argument(help="Where to: .json (Label Studio), .npz, .jsonl; - is standard output.")],
    format_: Annotated[Format | None, typer.Option("--format", help="Instead of the file's ending.")] = None,
    config: Annotated[Path | None, typer.Option(help="Write Label Studio's labelling config (XML) here.")] = None,
    task: Task = None,
    device: Device = None,
    label: Label = None,
    human_label: HumanLabel = None,
    reason: Reason = None,
    teacher: Teacher = None,
    bundle: Bundle = None,
    labelled: Labelled = None,
    since: Since = None,
    until: Until = None,
    min_hardness: MinHardness = None,
    max_hardness: MaxHardness = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest so many.")] = None,
    after: Annotated[str | None, typer.Option(help="Go on after this file; it said how.")] = None,
    url: Url = LOCAL,
) -> None:
    """Write samples into a file: for Label Studio, for numpy (npz), or a line of JSON each (no tensors)."""
    chosen = format_ or _BY_SUFFIX.get(file.suffix)
    if chosen is None:
        raise SettingsError(f"cannot tell the format of {file} from its name: add --format")
    asked = cli_filters.scope(
        task=task,
        device=device,
        label=label,
        human_label=human_label,
        reason=reason,
        teacher=teacher,
        bundle=bundle,
        labelled=labelled,
        since=since,
        until=until,
        min_hardness=min_hardness,
        max_hardness=max_hardness,
    )
    client = connected(url)
    if config is not None:
        client.save(f"{PATH}/label-config", config, query={"task": task})
        typer.echo(f"labelling config: {config}", err=True)
    query = {**asked, "format": chosen.value, "limit": limit, "cursor": after}
    if str(file) == "-":
        for part in client.stream(f"{PATH}/export", query):
            sys.stdout.buffer.write(part)
        return
    headers = client.save(f"{PATH}/export", file, query=query)
    typer.echo(f"{_count(file, chosen)} in {file} ({file.stat().st_size:,} bytes)", err=True)
    if "Edgeloop-Next" in headers:
        _say_rest(headers, file, {**asked, "format": format_, "limit": limit}, url=url)


@samples_app.command("label")
def label_samples(
    sample: Annotated[str | None, typer.Argument(help="A sample's id.")] = None,
    label: Annotated[str | None, typer.Argument(help="Its label, by name.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Labels in a file: Label Studio's JSON export, or CSV of id,label.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who says so; you, if left out.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out rows that cannot be taken, and list them.")] = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Say what a sample is, or many from a file; people win over the teacher."""
    if (source is None) == (sample is None) or (sample is None) != (label is None):
        raise SettingsError("give a sample's id and its label, or --from FILE, one of both")
    client, who = connected(url), by or _me()
    if source is None:
        body = {"labels": [{"id": sample, "label": label}], "by": who, "skip": skip}
        result = client.post(f"{PATH}/labels", body)
    else:
        result = _send(client, source, by=who, skip=skip)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    for refused in result["refused"]:
        named = f" ({refused['id']})" if refused["id"] else ""
        typer.echo(f"left out: row {refused['row']}{named}: {refused['why']}", err=True)
    typer.echo(_outcome(result))


@samples_app.command("purge")
def purge(
    task: Task = None,
    device: Device = None,
    label: Label = None,
    human_label: HumanLabel = None,
    reason: Reason = None,
    teacher: Teacher = None,
    bundle: Bundle = None,
    labelled: Labelled = None,
    since: Since = None,
    until: Until = None,
    min_hardness: MinHardness = None,
    max_hardness: MaxHardness = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Delete samples for good; with --device alone, also what it sends again of before."""
    asked = cli_filters.scope(
        task=task,
        device=device,
        label=label,
        human_label=human_label,
        reason=reason,
        teacher=teacher,
        bundle=bundle,
        labelled=labelled,
        since=since,
        until=until,
        min_hardness=min_hardness,
        max_hardness=max_hardness,
    )
    given = [name for name, value in asked.items() if value is not None]
    if not given:
        raise SettingsError("say which samples: --device NAME, --task NAME, --until MOMENT, …")
    path, query = PATH, asked
    whole = given == ["device"]
    if whole:
        path, query = f"/api/v1/devices/{quote(str(device), safe='')}/data", {}
    client = connected(url)
    found = client.delete(path, {**query, "dry_run": True})
    if not found["samples"]:
        typer.echo(json.dumps(found, indent=2) if as_json else "no sample matches: nothing is deleted")
        return
    if not yes:
        _confirm(found, f"all of {device}, and what it sends again of before" if whole else "for good")
    result = client.delete(path, query)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    typer.echo(
        f"deleted {result['samples']:,} samples, {result['bytes']:,} bytes of tensors in {result['blobs']:,} files"
    )


def _say_rest(headers: HTTPMessage, file: Path, asked: Mapping[str, object], *, url: str) -> None:
    """What a file did not take, and the command that fetches it into a file beside it; `asked` as it was typed."""
    typer.echo(f"not all: {int(headers['Edgeloop-Matching']):,} samples match, and one file holds no more", err=True)
    limit = asked["limit"]
    left = None if limit is None else int(str(limit)) - int(headers["Edgeloop-Samples"])
    stem, _, number = file.stem.rpartition("-")
    following = file.with_stem(f"{stem}-{int(number) + 1}" if stem and number.isdigit() else f"{file.stem}-2")
    query = {**asked, "limit": left, "after": headers["Edgeloop-Next"]}
    words = f"samples export {shlex.quote(str(following))}"
    typer.echo(f"more: {cli_filters.command(words, query, url=url)}", err=True)


def _confirm(found: Mapping[str, Any], what: str) -> None:
    if not sys.stdin.isatty():
        raise SettingsError(f"this would delete {found['samples']:,} samples: nobody is here to ask, so say --yes")
    typer.confirm(
        f"delete {found['samples']:,} samples, {found['bytes']:,} bytes ({what})? Nothing brings them back",
        abort=True,
        err=True,
    )


def _send(client: Client, source: Path, *, by: str, skip: bool) -> dict[str, Any]:
    from cloud_service.labelling import returned

    try:
        content = source.read_bytes()
    except OSError as err:
        raise SettingsError(f"cannot read {source}: {err.strerror}") from err
    slim = returned.slim(content)
    kind = "application/json" if slim.lstrip().startswith((b"[", b"{")) else "text/csv"
    return client.send(f"{PATH}/labels/import", slim, kind=kind, query={"by": by, "skip": skip})


def _outcome(result: Mapping[str, Any]) -> str:
    words = [f"labelled {result['labelled']:,}"]
    if result["unlabelled"]:
        words.append(f"{result['unlabelled']:,} have no label in the file")
    if result["refused_total"]:
        words.append(f"{result['refused_total']:,} left out")
    return "; ".join(words)


def _count(file: Path, format_: Format) -> str:
    """How many samples a file has, in words."""
    if format_ is Format.NPZ:
        import numpy as np

        with np.load(file, allow_pickle=False) as archive:
            count = len(archive["id"])
    else:
        with file.open("rb") as lines:
            count = sum(line.lstrip().startswith(b"{") for line in lines)
    return f"{count:,} samples" if count else "no sample matched: none"


def _me() -> str:
    """The account's name; a container may not know it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "edgeloop"
