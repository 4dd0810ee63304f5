"""One replica leads: it alone does what must not be done twice, such as training and taking over orphans.

Who leads is decided by a lock where the data is: an advisory lock of PostgreSQL, or a lock on a file beside SQLite's.
It ends with the process that has it, and the next replica to try has it within seconds. A leader whose connection to
the database breaks stops its work as soon as it notices, at most `_BEAT_S` later: for so long two may work.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_service.errors import StoreError
from cloud_service.notices import Outage
from cloud_service.storage.database import Database

log = logging.getLogger(__name__)

# How often a follower tries and a leader looks whether it still leads.
_BEAT_S = 2.0
# A number of our own choice (PostgreSQL's manual, 13.3.5), different from those of the storage's locks.
_LOCK = 0x65_64_67_65_03

Work = Callable[[], Coroutine[Any, Any, None]]
Beat = Callable[[], Awaitable[None]]


class Leader:
    """Of one replica.

    Args:
        url: the database's, which is open as `database`.
    """

    def __init__(
        self, database: Database, url: str, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._database = database
        parsed = make_url(url)
        self._file = Path(f"{parsed.database}.leader") if parsed.get_backend_name() == "sqlite" else None
        self._sleep = sleep
        self._outage = Outage(log, "who leads is known again", level=logging.WARNING)
        self.leads = False

    async def run(self, works: Mapping[str, Work]) -> None:
        """Whenever this replica leads, run these, until cancelled. What one of them raises comes out."""
        while True:
            failure = None
            try:
                async with self._beat() as beat:
                    self._outage.end()
                    if beat is not None:
                        failure = await self._lead(works, beat)
            except StoreError as err:
                self._outage.begin(f"who leads is not known, so nobody trains or cleans up: {err}")
            # Not from within: there it would pass for an error of the lock.
            if failure is not None:
                raise failure
            await self._sleep(_BEAT_S)

    async def _lead(self, works: Mapping[str, Work], beat: Beat) -> BaseException | None:
        """Work for as long as this replica leads; gives what a work raised."""
        log.info("this replica leads: it does %s for all", ", ".join(works))
        self.leads = True
        working = [asyncio.create_task(work(), name=name) for name, work in works.items()]
        beating = asyncio.create_task(self._beat_on(beat), name="leader-beat")
        try:
            await asyncio.wait([*working, beating], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leads = False
            for task in (*working, beating):
                task.cancel()
            await asyncio.gather(*working, beating, return_exceptions=True)
        for task in working:
            if not task.cancelled() and (err := task.exception()):
                return err
        log.warning("this replica does not lead any more: the database was away")
        return None

    async def _beat_on(self, beat: Beat) -> None:
        while True:
            await self._sleep(_BEAT_S)
            await beat()

    @asynccontextmanager
    async def _beat(self) -> AsyncIterator[Beat | None]:
        """Leading, while the block runs; None: another one leads. What is given raises when that is over.

        Raises:
            StoreError: the database failed, or the lock's file cannot be opened.
        """
        if self._file is not None:
            with _tried(self._file) as mine:
                yield _nothing if mine else None
            return
        async with self._database.reading() as session:
            mine = await session.scalar(text(f"SELECT pg_try_advisory_xact_lock({_LOCK})"))
            yield (lambda: _look(session)) if mine else None


@contextmanager
def _tried(path: Path) -> Iterator[bool]:
    """Whether a lock on the file was free; it is ours while the block runs."""
    try:
        opened = path.open("ab")
    except OSError as err:
        raise StoreError(
            f"{path} cannot be opened ({err.strerror}): free some space there, or let this service write to that folder"
        ) from err
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


async def _nothing() -> None:
    """A lock on a file is not lost."""


async def _look(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))
