"""`edgeloop`: run the broker, the service and the demo; look at and drive a running service.

Everything heavy is imported in the command that needs it, so that `edgeloop --help` is quick.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from cloud_service import cli_distill, cli_estimates, cli_labels, cli_remote, cli_tasks, cli_teachers, cli_token
from cloud_service.simulate.cli import simulate
from shared import __version__
from shared.errors import EdgeloopError, SettingsError

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Edge-cloud collaborative inference: run the cloud side, push models, look at the fleet.",
)
app.add_typer(cli_remote.model_app, name="model")
app.add_typer(cli_distill.distill_app, name="distill")
app.add_typer(cli_labels.samples_app, name="samples")
app.add_typer(cli_token.token_app, name="token")
app.command()(cli_remote.devices)
app.command()(simulate)
app.command()(cli_estimates.estimates)
app.command()(cli_estimates.incidents)
app.command()(cli_teachers.teachers)
app.add_typer(cli_tasks.task_app, name="task")
app.command()(cli_tasks.networks)


@app.callback()
def every_command(
    token_file: Annotated[
        Path | None,
        typer.Option(envvar="EDGELOOP_TOKEN_FILE", help="Begins with a service's token; or set EDGELOOP_TOKEN."),
    ] = None,
) -> None:
    """Take what holds for every command."""
    cli_remote.TOKEN_FILE.set(token_file)


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Split(StrEnum):
    """How the demo's field images are split."""

    RANDOM = "random"
    WRITERS = "writers"


Level = Annotated[LogLevel, typer.Option("--log-level", help="How much is logged.")]


def main() -> int:
    """Run the command line; an error of ours is one line on stderr and its own exit code."""
    try:
        app(prog_name="edgeloop")
    except EdgeloopError as err:
        print(f"edgeloop: {err}", file=sys.stderr)  # noqa: T201  # the command's own words
        return err.exit_code
    return 0


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="The settings file, cloud.toml.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="path.to.key=value; may be repeated.")] = None,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run the cloud service until SIGTERM or Ctrl-C."""
    from cloud_service.logs import configure
    from cloud_service.service import serve as run_service
    from cloud_service.settings import CloudSettings
    from shared.pauses import set_imports_aside

    set_imports_aside()
    configure(log_level.value)
    settings = CloudSettings.read(config, overrides=overrides or [])
    _run(run_service(settings))


@app.command()
def broker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 1883,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run the embedded MQTT broker: loopback only, for demonstrations and development."""
    from cloud_service.broker.embedded import serve as run_broker
    from cloud_service.logs import configure

    configure(log_level.value)
    run_broker(port)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Of data and training; devices draw their audits freely.")] = 0,
    devices: Annotated[int, typer.Option(min=1, max=50, help="Edge agents to start.")] = 3,
    report: Annotated[Path | None, typer.Option(help="Write the JSON report here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the plot here (.png or .svg).")] = None,
    split: Annotated[Split, typer.Option(help="writers: test writers are held out.")] = Split.RANDOM,
    serve_after: Annotated[bool, typer.Option("--serve", help="Keep everything running afterwards.")] = False,
    work_dir: Annotated[Path | None, typer.Option(help="Keep everything in this folder.")] = None,
) -> None:
    """Watch the whole loop on real data: devices meet new data, the cloud trains, they get better."""
    try:
        from cloud_service.demo.run import run_demo
    except ImportError as err:
        raise SettingsError(f"the demo is not installed ({err}); type: pip install 'edgeloop[demo]'") from err

    code = run_demo(
        seed=seed, devices=devices, report=report, plot=plot, split=split.value, serve=serve_after, work_dir=work_dir
    )
    raise typer.Exit(code)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; one of our errors comes out of the task groups it was raised in."""
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:
        ours = group.subgroup(EdgeloopError)
        if ours is None or group.split(EdgeloopError)[1] is not None:
            raise
        raise _leaf(ours) from group


def _leaf(err: BaseException) -> BaseException:
    while isinstance(err, BaseExceptionGroup):
        err = err.exceptions[0]
    return err


if __name__ == "__main__":
    sys.exit(main())
