"""`edgeloop distill`: train new students, in a running service or here, and see what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_service.cli_remote import LOCAL, AsJson, Task, Url, connected
from cloud_service.cli_report import read_report, show_report
from cloud_service.cli_tables import show
from cloud_service.training.stage import Stage
from shared.errors import SettingsError

if TYPE_CHECKING:
    from cloud_service.training.progress import Step

distill_app = typer.Typer(no_args_is_help=True, help="Train new students, and see what came of it.")

# How often `--wait` looks.
_POLL_S = 0.3
# How long one question for more of a log waits.
_FOLLOW_S = 20.0
# How often a stage of a local run tells how far it is.
_TOLD = 10
_WAITING = ("queued", "running")

JobId = Annotated[str, typer.Argument(help="The job's id.")]


@distill_app.command("run")
def run_job(
    task: Annotated[str | None, typer.Argument(help="The task to train a new student of.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the task's.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it has ended.")] = False,
    local: Annotated[Path | None, typer.Option(help="Without a service: the task's file.")] = None,
    samples: Annotated[Path | None, typer.Option(help="With --local: .npz of uploads; none: base data alone.")] = None,
    incumbent: Annotated[Path | None, typer.Option(help="With --local: the bundle to hold it against.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --local: the run's folder.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="With --local: this one alone, again if it was done.")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Queue a training job; or, with --local, run all of it, or one stage, on this computer."""
    if local is not None:
        if task is not None or out is None:
            raise SettingsError("--local FILE brings its own task and needs --out DIR")
        _run_here(local, out=out, samples=samples, incumbent=incumbent, seed=seed, stage=stage, as_json=as_json)
        return
    if task is None or samples is not None or incumbent is not None or out is not None or stage is not None:
        raise SettingsError("name a task; --samples, --incumbent, --stage and --out go with --local FILE")
    client = connected(url)
    job = client.post("/api/v1/jobs", {"task": task, "seed": seed})
    while wait and job["state"] in _WAITING:
        time.sleep(_POLL_S)
        job = client.get(f"/api/v1/jobs/{job['id']}")
    _show_job(job, as_json=as_json)
    if wait and job["state"] != "succeeded":
        raise typer.Exit(1)


@distill_app.command("list")
def list_jobs(url: Url = LOCAL, task: Task = None, as_json: AsJson = False) -> None:
    """List training jobs, and how the triggers stand."""
    client, asked = connected(url), {"task": task}
    found = client.get("/api/v1/jobs", asked)
    # As much as 80 columns hold; `show` has the rest.
    rows = [
        (j["id"], j["task"], j["state"], j["version"] or "", j["created_at"][5:16].replace("T", " "))
        for j in found["items"]
    ]
    header = ("job", "task", "state", "version", "created")
    show(found, header, rows, as_json=as_json)
    if not as_json:
        for trigger in client.get("/api/v1/triggers", asked)["items"]:
            typer.echo(f"{trigger['task']}: {trigger['standing']}: {trigger['reason']}")


@distill_app.command("show")
def show_job(job: JobId, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Show a training job: why it was started, how far it is, what its gate said."""
    _show_job(connected(url).get(f"/api/v1/jobs/{job}"), as_json=as_json)


@distill_app.command("report")
def show_run(
    folder: Annotated[Path, typer.Argument(help="A training run's folder, or its report.json.")],
    as_json: AsJson = False,
) -> None:
    """Show what a training run on this computer came to, whether or not its candidate passed the gate."""
    report = read_report(folder)
    if as_json:
        show(report, (), (), as_json=True)
    else:
        show_report(report)


@distill_app.command("logs")
def show_log(
    job: JobId,
    tail: Annotated[int, typer.Option(min=0, max=10_000, help="The last so many lines.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    url: Url = LOCAL,
) -> None:
    """Print a training job's log."""
    client = connected(url)
    part = client.get(f"/api/v1/jobs/{job}/logs", {"tail": tail})
    typer.echo(part["text"], nl=False)
    while follow and not part["ended"]:
        part = client.get(f"/api/v1/jobs/{job}/logs", {"after": part["next"], "wait_s": _FOLLOW_S})
        typer.echo(part["text"], nl=False)


@distill_app.command("cancel")
def cancel_job(job: JobId, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """End a training job."""
    _show_job(connected(url).delete(f"/api/v1/jobs/{job}"), as_json=as_json)


def _run_here(
    task_file: Path,
    *,
    out: Path,
    samples: Path | None,
    incumbent: Path | None,
    seed: int | None,
    stage: Stage | None,
    as_json: bool,
) -> None:
    from cloud_service.training.local import run_here

    def on_step(step: Step) -> None:
        if as_json:
            return
        if step.done in (0, step.total):
            typer.echo(f"{step.stage}: {step.message or ('ended' if step.done else 'begins')}")
        elif step.done % max(1, step.total // _TOLD) == 0:
            typer.echo(f"{step.stage}: {step.done} of {step.total}, {step.message}")

    report = run_here(task_file, out, samples=samples, incumbent=incumbent, seed=seed, stage=stage, on_step=on_step)
    if stage is not None:
        show(report, (), (), as_json=True)
        if not all(result.get("passed", True) for result in report.values()):
            raise typer.Exit(1)
        return
    if as_json:
        show(report, (), (), as_json=True)
    else:
        show_report(report)
        if report["passed"]:
            typer.echo(f"push it with: edgeloop model push {out / 'candidate.bundle'}")
    if not report["passed"]:
        raise typer.Exit(1)


def _show_job(job: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show(job, (), (), as_json=True)
        return
    typer.echo(f"job {job['id']}: {job['task']}: {job['state']}: {job['message'] or job['version'] or 'no result yet'}")
    typer.echo(f"started by {job['trigger']}{': ' + job['reason'] if job['reason'] else ''}")
    rows = [
        (stage, f"{step['done']}/{step['total']}", step.get("message", "")) for stage, step in job["progress"].items()
    ]
    if rows:
        show(job, ("stage", "done", ""), rows, as_json=False)
    if job["report"] is not None:
        show_report(job["report"])
