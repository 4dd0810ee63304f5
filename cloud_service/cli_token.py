"""`edgeloop token`: the words that let people and scripts speak to a service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from shared.errors import SettingsError

token_app = typer.Typer(no_args_is_help=True, help="Make tokens for the API of a service.")


@token_app.callback()
def _group() -> None:
    """Keep `new` a command of its own."""


@token_app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Whose it is; kept behind the token.")] = "",
    append: Annotated[Path | None, typer.Option(help="Add it to this file, [http] token_file of the service.")] = None,
) -> None:
    """Print a new token; the service takes it after its next start."""
    from cloud_service.tokens import new_token

    if any(character in name for character in "\r\n"):
        raise SettingsError("a name is one line")
    token = new_token()
    if append is not None:
        _add(append, f"{token} {name}".rstrip())
    typer.echo(token)


def _add(file: Path, line: str) -> None:
    """Add a line to a file that only its owner may read."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as opened:
            before = opened.read()
            opened.write(f"{line}\n" if before.endswith("\n") or not before else f"\n{line}\n")
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(f"cannot add a token to {file}: {err}") from err
