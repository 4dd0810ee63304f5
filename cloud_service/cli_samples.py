"""`edgeloop samples`: look at what devices found hard, and at what the teacher and people said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
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
from cloud_service.cli_tables import show, width
from shared.errors import SettingsError

if TYPE_CHECKING:
    from cloud_service.client import Client
    from shared.codec import Array

samples_app = typer.Typer(no_args_is_help=True, help="Look at stored samples; export, label and delete them.")

PATH = "/api/v1/samples"
# A list without times fits 80 columns.
_ROOM_FOR_TIMES = 100
_WIDEST_PICTURE = 64
_BAR = 40
# Labels of a verdict that are listed.
_LIKELY = 4
_SAVED_AS = {".npy": "application/x-npy", ".png": "image/png"}


@samples_app.command("list")
def list_samples(
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
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Rows on a page.")] = 20,
    after: Annotated[str | None, typer.Option(help="Go on after this page; its last line says how.")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """List samples, newest first."""
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
    page = connected(url).get(PATH, {**asked, "limit": limit, "cursor": after})
    header, rows = _listing(page["items"])
    if not rows and not as_json:
        typer.echo("no sample matches", err=True)
        return
    show(page, header, rows, as_json=as_json)
    if page["next"] and not as_json:
        following = {**asked, "limit": limit if limit != 20 else None, "after": page["next"]}
        typer.echo(f"\nmore: {cli_filters.command('samples list', following, url=url)}", err=True)


@samples_app.command("show")
def show_sample(
    sample: Annotated[str, typer.Argument(help="The sample's id.")],
    save: Annotated[
        Path | None, typer.Option(help="Write its tensor here: FILE.npy, or FILE.png of a picture.")
    ] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Show everything that is known of a sample, and a picture where it is one."""
    if save is not None and save.suffix not in _SAVED_AS:
        raise SettingsError(f"cannot tell what to write into {save}: name it FILE.npy or FILE.png")
    client = connected(url)
    path = f"{PATH}/{quote(sample, safe='')}"
    found = client.get(path)
    if save is not None:
        client.save(f"{path}/tensor", save, accept=_SAVED_AS[save.suffix])
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    tensor = _tensor(client, path)
    for name, words in _known(found, tensor):
        typer.echo(f"{name:<10}  {words}")
    for line in _picture(tensor):
        typer.echo(line)
    if save is not None:
        typer.echo(f"its tensor is in {save}", err=True)


@samples_app.command("summary")
def summarise(
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
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Count samples by task, device and reason."""
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
    found = connected(url).get(f"{PATH}/summary", asked)
    counts: dict[tuple[str, str, str], list[int]] = {}
    for group in found["groups"]:
        total = counts.setdefault((group["task"], group["device"], group["reason"]), [0, 0, 0])
        total[0] += group["count"]
        total[1] += group["count"] if group["label"] is not None else 0
        total[2] += group["labelled"]
    rows = [(*key, *(f"{count:,}" for count in total)) for key, total in counts.items()]
    if len(rows) > 1:
        rows.append(("all", "", "", *(f"{found[name]:,}" for name in ("total", "answered", "labelled"))))
    show(found, ("task", "device", "reason", "samples", "answered", "by people"), rows, as_json=as_json)


@samples_app.command("histogram")
def histogram(
    task: Task = None, device: Device = None, since: Since = None, url: Url = LOCAL, as_json: AsJson = False
) -> None:
    """Show how samples spread over labels and hardness."""
    at = None if since is None else cli_filters.moment(since, datetime.now().astimezone()).isoformat()
    found = connected(url).get(f"{PATH}/histograms", {"task": task, "device": device, "since": at})
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    labels = [(each["name"] or f"#{each['label']}", each["count"]) for each in found["classes"]]
    bins = len(found["hardness"])
    hardness = [
        (f"{number / bins:.2f}–{(number + 1) / bins:.2f}", count) for number, count in enumerate(found["hardness"])
    ]
    for title, counts in (("label", labels), ("hardness", hardness)):
        typer.echo(f"{found['task']} by {title}")
        for line in _bars(counts):
            typer.echo(line)


def when(text: str) -> str:
    """A moment as people here read it: the time of today, else the date as well."""
    at, now = datetime.fromisoformat(text).astimezone(), datetime.now().astimezone()
    return f"{at:%H:%M:%S}" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}"


def _listing(items: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows; a column that would be the same or empty everywhere is left out."""
    columns: dict[str, list[str]] = {
        "id": [item["id"] for item in items],
        "task": [item["task"] for item in items],
        "device": [item["device"] for item in items],
        "edge": [_named(item["prediction_name"], item["prediction"]) for item in items],
        "teacher": [_said(item["verdict"]) or ("failed" if item["failure"] else "") for item in items],
        "person": [_said(item["human"]) for item in items],
        "why": [f"{item['reason']} {item['hardness']:.2f}" for item in items],
        "stored": [when(item["stored_at"]) for item in items],
    }
    if len(set(columns["task"])) < 2:
        del columns["task"]
    if width() < _ROOM_FOR_TIMES:
        del columns["stored"]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def _known(sample: Mapping[str, Any], tensor: Array | None) -> Iterator[tuple[str, str]]:
    """Name and words of everything that is known of a sample."""
    verdict, human = sample["verdict"], sample["human"]
    yield "sample", sample["id"]
    yield "device", f"{sample['device']}, task {sample['task']}, seq {sample['seq']}"
    yield "stored", f"{datetime.fromisoformat(sample['stored_at']).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    shape = "gone" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
    yield "tensor", f"{shape}, {sample['payload_bytes']:,} bytes stored"
    edge = _named(sample["prediction_name"], sample["prediction"])
    yield "edge", f"{edge}, by bundle {sample['bundle_version']}; hardness {sample['hardness']:.3f}"
    yield "sent", f"because {sample['reason']}, as {100 * sample['inclusion_probability']:.3g} % of such samples are"
    if verdict is not None:
        names = sample["labels"] or [f"#{label}" for label in range(len(verdict["probabilities"]))]
        likely = sorted(zip(verdict["probabilities"], names, strict=False), key=lambda pair: -pair[0])[:_LIKELY]
        yield "teacher", f"{_said(verdict)}, by {verdict['teacher']}, {when(verdict['answered_at'])}"
        yield "", ", ".join(f"{name} {chance:.3f}" for chance, name in likely)
    else:
        yield "teacher", f"failed: {sample['failure']}" if sample["failure"] else "has not answered yet"
    yield "person", f"{_said(human)}, by {human['by']}, {when(human['at'])}" if human else "nobody has labelled it"
    if sample["duplicate_of"]:
        yield "duplicate", f"of {sample['duplicate_of']}"
    if sample["duplicates"]:
        yield "duplicates", f"{sample['duplicates']} later ones were like it"


def _picture(tensor: Array | None) -> list[str]:
    from cloud_service.labelling import pictures

    if tensor is None or pictures.kind_of(tensor.shape, tensor.dtype) is not pictures.Kind.IMAGE:
        return []
    return ["", *pictures.sketch(pictures.picture(tensor), width=min(_WIDEST_PICTURE, width()))]


def _tensor(client: Client, path: str) -> Array | None:
    """A sample's tensor; None when the store has lost it."""
    import io

    import numpy as np

    from cloud_service.errors import NotFound

    try:
        content = b"".join(client.stream(f"{path}/tensor", accept=_SAVED_AS[".npy"]))
    except NotFound:
        return None
    tensor: Array = np.load(io.BytesIO(content), allow_pickle=False)
    return tensor


def _bars(counts: Sequence[tuple[str, int]]) -> list[str]:
    most = max((count for _, count in counts), default=0)
    longest = max((len(name) for name, _ in counts), default=0)
    digits = len(f"{most:,}")
    return [
        f"  {name:>{longest}}  {count:>{digits},}  {'█' * (-(-count * _BAR // most) if most else 0)}".rstrip()
        for name, count in counts
    ]


def _said(answer: Mapping[str, Any] | None) -> str:
    return "" if answer is None else _named(answer["name"], answer["label"])


def _named(name: str | None, label: int) -> str:
    return f"#{label}" if name is None else name
