"""`edge-agent`: run the agent as a service, ask what it runs, try one sample."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.host.logs import set_up
from shared.errors import EdgeloopError, SettingsError

if TYPE_CHECKING:
    from edge_agent.host.install import Report

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (agent.toml).")]
# Of a table that goes into a file or a log.
_LOG_WIDTH = 200
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; `status` does so wherever nobody looks.")]
Name = Annotated[str, typer.Option(help="The unit's name, for several agents on one machine.")]
Overrides = Annotated[list[str], typer.Option("--set", help="Override one setting: path.to.key=value. Repeatable.")]


@app.command()
def run(config: Config, override: Overrides = []) -> None:  # noqa: B006  # typer reads the default, nobody changes it
    """Answer what the sources give until they end, or for ever where there are none.

    SIGTERM ends it in order, SIGHUP reads the settings anew.
    """
    import faulthandler

    from edge_agent.agent import EdgeAgent
    from edge_agent.footprint import kept_small
    from edge_agent.host.notify import Notifier
    from edge_agent.host.service import Service
    from edge_agent.settings import AgentSettings
    from shared.pauses import set_imports_aside

    set_imports_aside()
    # systemd ends a process that hangs by SIGABRT: where each thread was goes into the journal.
    faulthandler.enable()
    service = Service(
        lambda: AgentSettings.read(config, overrides=override), EdgeAgent.open, notifier=Notifier.from_environment()
    )
    with kept_small(), service.signals():
        service.run()


@app.command()
def infer(
    sample: Annotated[Path, typer.Argument(help="One sample: .npy, .jpg, .png, or .bin of the tensor's bytes.")],
    config: Config,
    task: Annotated[str | None, typer.Option(help="Where the device has several tasks.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds to wait for a verdict if the sample is hard.")] = 0.0,
    override: Overrides = [],  # noqa: B006  # see `run`
) -> None:
    """Answer one sample and print the outcome as JSON."""
    from edge_agent.agent import EdgeAgent
    from edge_agent.decoding import preprocess

    form = preprocess.ENDINGS.get(sample.suffix.lower())
    if form is None:
        raise SettingsError(f"{sample}: a sample is a file that ends in {', '.join(preprocess.ENDINGS)}")
    try:
        body = sample.read_bytes()
    except OSError as err:
        raise SettingsError(f"cannot read the sample {sample}: {err.strerror}") from err
    with EdgeAgent.open(config, overrides=override) as agent:
        agent.model_version(task)  # says which tasks there are, where this is none
        spec = agent.manifests()[task or next(iter(agent.settings.tasks))].input
        outcome = agent.infer(preprocess.decode(body, form, spec), task=task, deadline=deadline, reference=sample.name)
    typer.echo(json.dumps(asdict(outcome), default=str, indent=2))


@app.command()
def status(config: Config, as_json: AsJson = False, override: Overrides = []) -> None:  # noqa: B006  # see `run`
    """Say what the device runs and what waits on it, from its state folder; the agent may be running."""
    from edge_agent.status import read_status

    found = read_status(config, override)
    if as_json or not sys.stdout.isatty():
        typer.echo(json.dumps(found, indent=2))
        return
    from rich.console import Console

    from edge_agent.host.screen import show_status

    show_status(found, Console())


@app.command()
def doctor(config: Config, as_json: AsJson = False, override: Overrides = []) -> None:  # noqa: B006  # see `run`
    """Look at clock, disk, certificates, broker, models, sensors and sources; exit code 1 where something is wrong."""
    from edge_agent.host.checks.finding import Level
    from edge_agent.host.doctor import examine
    from edge_agent.settings import AgentSettings

    findings = list(examine(AgentSettings.read(config, overrides=override)))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        from rich.console import Console

        from edge_agent.host.screen import show_findings

        show_findings(findings, Console(width=None if sys.stdout.isatty() else _LOG_WIDTH))
    if any(finding.level is Level.FAIL for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    config: Config,
    task: Annotated[str | None, typer.Option(help="Where the device has several tasks.")] = None,
    seconds: Annotated[float, typer.Option(help="How long the agent is measured.")] = 3.0,
    choose: Annotated[
        bool, typer.Option("--choose", help="Find out how the model runs best on this device, and keep it.")
    ] = False,
    against: Annotated[Path | None, typer.Option(help="A bundle file to compare with, a float one, say.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    override: Overrides = [],  # noqa: B006  # see `run`
) -> None:
    """Measure the agent on this device: the model's run, all of infer, memory; the agent may be running."""
    from edge_agent.execution.bench import bench as measure
    from edge_agent.execution.bench_report import words
    from edge_agent.settings import AgentSettings

    settings = AgentSettings.read(config, overrides=override)
    report = measure(settings, task=task, seconds=seconds, choose=choose, against=against)
    typer.echo(json.dumps(asdict(report), indent=2) if as_json else words(report))


@app.command()
def install(
    config: Annotated[Path, typer.Option("--config", "-c", help="The settings file.")] = Path(
        "/etc/edge-agent/agent.toml"
    ),
    name: Name = "edge-agent",
    user: Annotated[
        str | None, typer.Option(help="An account of this machine; without it, systemd makes one up.")
    ] = None,
    memory_max: Annotated[str | None, typer.Option(help="Largest memory, such as 300M; half of it all.")] = None,
    cpu_quota: Annotated[str | None, typer.Option(help="100% is one core; four fifths of them all.")] = None,
    enable: Annotated[bool, typer.Option("--enable", help="Start at every boot.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Start now, or anew where it runs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the unit; change nothing.")] = False,
) -> None:
    """Make the agent a hardened systemd service of this machine; done again, only what changed is changed."""
    from edge_agent.host.install import Installer, Wish
    from edge_agent.host.unit import render

    wish = Wish(config, name=name, user=user, memory_max=memory_max, cpu_quota=cpu_quota, enable=enable, start=start)
    if dry_run:
        typer.echo(render(Installer().plan(wish)), nl=False)
        return
    _tell(Installer().install(wish))


@app.command()
def uninstall(name: Name = "edge-agent") -> None:
    """Stop the service and remove its unit; settings, models and samples stay."""
    from edge_agent.host.install import Installer

    _tell(Installer().uninstall(name))


def _tell(report: Report) -> None:
    for line in report.done:
        typer.echo(f"  {line}")
    if report.following:
        typer.echo("next:")
    for line in report.following:
        typer.echo(f"  {line}")


def main() -> None:
    """The console command: an error of ours is one line and its exit code."""
    set_up()
    try:
        app()
    except EdgeloopError as err:
        sys.stderr.write(f"edge-agent: {err}\n")
        sys.exit(err.exit_code)


if __name__ == "__main__":
    main()
