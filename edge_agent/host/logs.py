"""Log lines for whoever reads them: with the time for a person, with a priority for systemd's journal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

# sd-daemon(3): what syslog calls them.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7


def set_up(stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> None:
    """Send what is logged to `stream`, standard error unless another is given."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        _ForJournal("%(name)s: %(message)s")
        if _is_journal(stream, environ)
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _ForJournal(logging.Formatter):
    """Each line carries its priority: the journal takes every line of a traceback for an entry of its own."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """systemd.exec(5): JOURNAL_STREAM names the journal's socket; a stream that was redirected since is another."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a stream without a file
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
