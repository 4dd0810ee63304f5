"""`edgeloop teachers`: what a settings file's teachers run on here, before the service needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_service.cli_remote import AsJson
from cloud_service.cli_tables import show

if TYPE_CHECKING:
    from cloud_service.settings import CloudSettings

_HEADER = ("task", "teacher", "on", "alone", "in batches", "answers kept", "right", "")


def teachers(
    config: Annotated[Path, typer.Option(help="The settings file, cloud.toml.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="path.to.key=value; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Convert, compare and measure the teachers as the service would at its first start; show what came out."""
    from cloud_service.settings import CloudSettings

    found = list(_found(CloudSettings.read(config, overrides=overrides or [])))
    rows = [row for one in found for row in _rows(one)]
    show({"items": found}, _HEADER, rows, as_json=as_json)


def _found(settings: CloudSettings) -> Iterator[dict[str, Any]]:
    """For each teacher its task, model, version, the version that verdicts will name, and its record."""
    from pydantic import TypeAdapter

    from cloud_service.teacher.loading import open_teachers, together
    from cloud_service.teacher.record import Record

    records = TypeAdapter(Record)
    for name, task in settings.tasks.items():
        opened = open_teachers(task, folder=settings.data_dir / "teachers")
        verdicts = together(task, opened).version
        for teacher, one in zip(task.teacher, opened, strict=True):
            yield {
                "task": name,
                "model": teacher.model,
                "version": one.version,
                "verdicts_name": verdicts,
                **records.dump_python(one.record, mode="json", include={"choice", "checked", "measured"}),
            }


def _rows(one: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row a form that was measured; where none was, what the settings or the circumstances left."""
    choice, model = one["choice"], Path(one["model"]).name
    if not one["measured"]:
        yield one["task"], model, choice["backend"], "", "", "", "", f"taken: {choice['reason']}"
    for form in one["measured"]:
        place = f"{form['backend']}, {form['device']}"
        if form["refused"]:
            yield one["task"], model, place, "", "", "", "", f"does not run: {form['refused']}"
            continue
        spent = {int(size): us for size, us in form["us_per_sample"].items()}
        taken = (form["backend"], form["device"]) == (choice["backend"], choice["device"])
        checked = one["checked"] > 0
        yield (
            one["task"],
            model,
            place,
            f"{spent[1]:.0f} µs",
            f"{spent[max(spent)]:.0f} µs of {max(spent)}",
            f"{form['agreement']:.1%}" if checked else "",
            f"{form['accuracy']:.1%}" if checked else "",
            f"taken: {one['version']}" if taken else "",
        )
