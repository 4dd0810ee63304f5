"""The demo's screen: a live picture on a terminal, one line a step elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cloud_service.demo.snapshot import Snapshot

_BAR_WIDTH = 30
_STATES = {"pending": "yellow", "activated": "green", "failed": "red"}


class Screen:
    """Shows snapshots; `say` is for what should stay on the screen."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)
        self._doing = ""

    def show(self, snapshot: Snapshot) -> None:
        """Draw a snapshot; without a terminal, say what is being done when that changes."""
        if self._console.is_terminal:
            self._live.update(draw(snapshot))
        elif snapshot.doing != self._doing:
            self._console.print(f"[{snapshot.seconds:5.1f} s] {snapshot.doing}", markup=False)
        self._doing = snapshot.doing

    def say(self, what: RenderableType) -> None:
        """Print something that stays."""
        self._console.print(what)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the live picture; what is said from now on is printed as usual."""
        if self._console.is_terminal:
            self._live.stop()


def draw(snapshot: Snapshot) -> RenderableType:
    """The whole picture of a snapshot."""
    title = f"edgeloop demo · {snapshot.seconds:.0f} s"
    parts: list[RenderableType] = [Text(snapshot.doing, style="bold")]
    if snapshot.devices:
        parts.append(_devices(snapshot))
    if snapshot.stored or snapshot.bars:
        parts.append(_cloud(snapshot))
    return Panel(Group(*parts), title=title, title_align="left", border_style="blue")


def _devices(snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, justify in (
        ("device", "left"),
        ("model", "left"),
        ("samples", "right"),
        ("offloaded", "right"),
        ("agrees with teacher", "right"),
        ("waiting", "right"),
        ("update", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # rich's literal, ours are its values
    rollout = dict(reversed(snapshot.rollout))
    for line in snapshot.devices:
        state = rollout.get(line.name, "")
        table.add_row(
            line.name,
            line.version,
            str(line.samples),
            _percent(line.offload_rate),
            _percent(line.agreement),
            str(line.waiting),
            Text(state, style=_STATES.get(state, "dim")),
        )
    return table


def _cloud(snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("cloud", f"{snapshot.stored} samples stored, {snapshot.answered} answered by the teacher", "")
    for bar in snapshot.bars:
        table.add_row(
            f"  {bar.stage}", ProgressBar(total=max(bar.total, 1), completed=bar.done, width=_BAR_WIDTH), bar.message
        )
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
