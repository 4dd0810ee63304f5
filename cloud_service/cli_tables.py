"""Tables of the commands: as wide as the terminal, and uncut where a program reads them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence

import typer

# Nobody looks at a pipe's width; rich would take 80 columns.
_PIPED_WIDTH = 240


def show(whole: object, header: Sequence[str], rows: Sequence[Sequence[str]], *, as_json: bool) -> None:
    """Print the rows as a table, or the whole as JSON."""
    if as_json:
        typer.echo(json.dumps(whole, indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    # The first column is what people copy into the next command: it is never cut, the others are folded.
    longest = max((len(row[0]) for row in rows), default=0)
    first, *others = header
    columns = [Column(first, min_width=longest, no_wrap=True), *(Column(name, overflow="fold") for name in others)]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False, width=None if _on_a_terminal() else _PIPED_WIDTH)
    console.print(table)


def width() -> int:
    """Columns that a line may have."""
    return shutil.get_terminal_size().columns if _on_a_terminal() else _PIPED_WIDTH


def _on_a_terminal() -> bool:
    return sys.stdout.isatty()
