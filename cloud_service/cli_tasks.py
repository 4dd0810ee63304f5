"""`edgeloop task` and `edgeloop networks`: write a task's file, hold it against its data, choose a student."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_service.cli_tables import show as show_table
from shared.errors import SettingsError

if TYPE_CHECKING:
    from cloud_service.tasks.task import TaskDefinition

task_app = typer.Typer(no_args_is_help=True, help="A task's file: write it, check it, show it.")

File = Annotated[Path, typer.Argument(help="The task's file.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@task_app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="The task's name.")],
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path(),
) -> None:
    """Write a commented task file that checks, with made-up base data beside it."""
    from cloud_service.tasks.template import write_task

    typer.echo(f"wrote {write_task(name, folder)}")


@task_app.command("check")
def check(file: File, as_json: AsJson = False) -> None:
    """Read the data, ask the teacher, run the student once, and say whether it fits the devices."""
    from cloud_service.tasks.checking import WrongSetting
    from cloud_service.tasks.checking import check as check_task
    from cloud_service.tasks.task_file import line_of, read_task_file

    task = read_task_file(file)
    try:
        found = check_task(task)
    except WrongSetting as err:
        line = line_of(file.read_text(encoding="utf-8"), [err.setting])
        raise SettingsError(f"{file}:{line}: {err}") from err
    rows = [(label, str(train), str(held)) for label, (train, held) in found.classes.items()]
    show_table(asdict(found), ("label", "samples", "held out"), rows, as_json=as_json)
    if not as_json:
        typer.echo(
            f"student {task.network.network}: {found.parameters} parameters, {found.macs} MACs, "
            f"{found.int8_bytes} bytes as int8, {found.latency_us:.0f} µs here"
        )
    fits = [name for name in task.profiles if name not in found.unfit]
    if task.profiles and not fits:
        said = "; ".join(f"{name}: {why}" for name, why in found.unfit.items())
        raise SettingsError(f"the student fits no profile ({said}): make it narrower, or raise the limit")
    if not as_json:
        if found.teacher_right is not None:
            typer.echo(f"teacher: right on {found.teacher_right:.1%} of the held-out samples that it was asked")
        for name in task.profiles:
            typer.echo(f"profile {name}: {found.unfit.get(name, 'fits by its size')}")
        for missing in found.missing:
            typer.echo(f"teacher {missing}: not there yet, but needed to train; {_how_to_teach(task, file, missing)}")


def _how_to_teach(task: TaskDefinition, file: Path, missing: str) -> str:
    folder, name = os.path.split(missing)
    if task.teach is None or name != "teacher.pt":
        return "docs/learning.md makes one"
    typed = ["edgeloop", "distill", "run", "--local", str(file), "--stage", "teach", "--out", folder]
    return f"make it with: {shlex.join(typed)}"


@task_app.command("show")
def show(file: File) -> None:
    """Print the whole task as JSON, defaults included."""
    from cloud_service.tasks.task_file import read_task_file

    typer.echo(json.dumps(read_task_file(file).model_dump(mode="json"), indent=2))


def networks(
    zoo: Annotated[bool, typer.Option("--zoo", help="Those of timm and torchvision, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the students by name with what they cost; measured on this host the first time."""
    from cloud_service.networks.listing import list_networks

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeloop" / "networks.json"
    cache.parent.mkdir(parents=True, exist_ok=True)
    found = list_networks(cache, zoo=zoo)
    rows = [
        (
            each.name,
            "×".join(map(str, each.input_shape)),
            *(
                (str(cost.parameters), str(cost.macs), str(cost.int8_bytes), f"{cost.latency_us:.0f}")
                if (cost := each.cost)
                else ("–",) * 4
            ),
            each.about,
        )
        for each in found
    ]
    header = ("network", "input", "parameters", "MACs", "int8 bytes", "µs", "for")
    show_table([asdict(each) for each in found], header, rows, as_json=as_json)
