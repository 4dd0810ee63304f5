"""A disk that may be full: some of it held back for the worst moment, and its refusals told once."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


class Reserve:
    """Space held back on the disk, given up when deleting needs it: SQLite cannot delete on a disk without any room.

    Attributes:
        held: False after `give_up`, until `hold` has it again.
    """

    def __init__(self, file: Path, size: int = 256 * 1024) -> None:
        self._file, self._size = file, size
        self.held = False
        with suppress(OSError):
            self.hold()

    def hold(self) -> None:
        """Take the space, if it is not held.

        Raises:
            OSError: the disk has not that much.
        """
        if self.held:
            return
        try:
            # Not truncated first: what the last run held is held still.
            with open(self._file, "ab") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError:
            self._file.unlink(missing_ok=True)
            raise
        self.held = True

    def give_up(self) -> None:
        """Give the space to whoever needs it.

        Raises:
            OSError: the disk is read-only.
        """
        self.held = False
        self._file.unlink(missing_ok=True)


class Refusals:
    """Says once that the disk takes no more, and once that it takes something again."""

    def __init__(self) -> None:
        self._refuses = False

    def refused(self, err: Exception) -> None:
        """The disk did not do what it was asked for."""
        if not self._refuses:
            log.error(
                "the spool's disk takes no more (%s): samples are not kept, inference goes on; free some space", err
            )
        self._refuses = True

    def ended(self) -> None:
        """A sample was kept."""
        if self._refuses:
            log.info("the spool's disk takes samples again")
        self._refuses = False
