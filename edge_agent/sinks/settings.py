"""Where outcomes and corrections go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.settings import Section


class OutcomeSettings(Section):
    """Where outcomes go, as JSON lines.

    Attributes:
        path: None: nowhere; "-": standard output.
        max_bytes: the file is moved to `<path>.1` when it reaches this.
    """

    path: Path | None = None
    max_bytes: Annotated[int, Field(ge=65_536)] = 64 * 1024**2
