"""Update reports that the cloud has not named in a receipt yet: small files, sent again until it does."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from shared import atomic, messages
from shared.errors import FrameError
from shared.messages import Report

log = logging.getLogger(__name__)

MAX_REPORTS = 64
_SUFFIX = ".report"


class Outbox:
    """Reports in `folder`, oldest first; the oldest goes when there are more than `MAX_REPORTS`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._reports: dict[UUID, Report] = {}
        for file in sorted(folder.glob(f"*{_SUFFIX}")):
            try:
                report = messages.decode(Report, file.read_bytes())
            except FrameError as err:
                log.warning("the report %s cannot be read (%s) and is dropped", file.name, err)
                atomic.remove(file)
                continue
            self._reports[report.report_id] = report

    def put(self, report: Report) -> None:
        """Keep a report until it is acknowledged.

        Raises:
            StorageFull: the disk took no more; the report is kept in memory only.
        """
        self._reports[report.report_id] = report
        while len(self._reports) > MAX_REPORTS:
            self.acknowledge([next(iter(self._reports))])
        atomic.write_bytes(self._file(report.report_id), messages.encode(report))

    def waiting(self) -> list[Report]:
        """What the cloud has not named yet."""
        return list(self._reports.values())

    def acknowledge(self, ids: Iterable[UUID]) -> None:
        """Drop these; unknown ids are fine."""
        for report_id in ids:
            if self._reports.pop(report_id, None) is None:
                continue
            try:
                atomic.remove(self._file(report_id))
            except OSError as err:
                log.warning("an acknowledged report stays on the disk (%s) and is sent again after a restart", err)

    def _file(self, report_id: UUID) -> Path:
        return self._folder / f"{report_id}{_SUFFIX}"
