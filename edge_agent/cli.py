"""`edge-agent`: run the agent as a service, ask what it runs, try one sample."""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import EdgeloopError, SettingsError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file (agent.toml).")]
Overrides = Annotated[list[str], typer.Option("--set", help="Override one setting: path.to.key=value. Repeatable.")]


@app.command()
def run(config: Config, override: Overrides = []) -> None:  # noqa: B006  # typer reads the default, nobody changes it
    """Answer what the sources give until they end, or for ever where there are none; SIGTERM ends it in order."""
    from edge_agent.agent import EdgeAgent

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with EdgeAgent.open(config, overrides=override) as agent:
        agent.run(stop)
        if not stop.is_set() and any(task.sources for task in agent.settings.tasks.values()):
            delivered = agent.wait_until_delivered(30.0)
            logging.getLogger(__name__).info(
                "the sources have ended; %s", "all is delivered" if delivered else "what is not delivered stays spooled"
            )


@app.command()
def infer(
    sample: Annotated[Path, typer.Argument(help="A .npy file with one sample.")],
    config: Config,
    task: Annotated[str | None, typer.Option(help="Where the device has several tasks.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds to wait for a verdict if the sample is hard.")] = 0.0,
    override: Overrides = [],  # noqa: B006  # see `run`
) -> None:
    """Answer one sample and print the outcome as JSON."""
    import numpy as np

    from edge_agent.agent import EdgeAgent

    try:
        with sample.open("rb") as file:
            tensor = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as err:
        raise SettingsError(f"{sample} is not a .npy file with one sample: {err}") from err
    with EdgeAgent.open(config, overrides=override) as agent:
        outcome = agent.infer(tensor, task=task, deadline=deadline, reference=sample.name)
    typer.echo(json.dumps(asdict(outcome), default=str, indent=2))


@app.command()
def status(config: Config, override: Overrides = []) -> None:  # noqa: B006  # see `run`
    """Print what the device runs and what waits, as JSON, from its state folder; the agent may be running."""
    from edge_agent.status import read_status

    typer.echo(json.dumps(read_status(config, override), indent=2))


def main() -> None:
    """The console command: an error of ours is one line and its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except EdgeloopError as err:
        sys.stderr.write(f"edge-agent: {err}\n")
        sys.exit(err.exit_code)


if __name__ == "__main__":
    main()
