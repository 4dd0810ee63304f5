"""The registry: every bundle that may be or was shipped, its file under its hash, its lineage in the database."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud_service.errors import Conflict, NotFound
from cloud_service.storage.database import Database, utc_now
from cloud_service.storage.models import Bundle
from cloud_service.tasks.task import TaskDefinition
from shared import atomic, bundle
from shared.bundle import BundleInfo
from shared.errors import BundleError
from shared.manifest import Manifest

log = logging.getLogger(__name__)

_SCRATCH = ".upload-"


class Registry:
    """Imports and finds bundles. A version names one file of a task, for ever.

    Args:
        tasks: what this service serves; a bundle of one of them must fit it.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        tasks: Mapping[str, TaskDefinition],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._folder = folder
        self._tasks = tasks
        self._now = now
        # One import at a time: two of the same file would write through one temporary name.
        self._importing = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    async def add(self, file: Path, *, origin: str, shippable: bool = True) -> Bundle:
        """Import a bundle file; the same file again is the same entry.

        Raises:
            BundleError: it is no bundle, damaged, or does not fit the task.
            Conflict: the task has another file under this version.
            StorageFull: the disk took no more.
        """
        info = await asyncio.to_thread(bundle.inspect, file)
        manifest = info.manifest
        self._check(manifest)
        async with self._importing:
            known = await self._imported(file, info, origin=origin, shippable=shippable)
        if known.sha256 != info.sha256:
            raise Conflict(
                f"task {manifest.task!r} has another bundle as version {manifest.version!r}: "
                "give this one a version of its own"
            )
        return known

    async def get(self, task: str, version: str) -> Bundle:
        """One entry.

        Raises:
            NotFound: the task has no such version.
        """
        async with self._database.reading() as session:
            row = await _find(session, task, version)
        if row is None:
            raise NotFound(f"no version {version!r} of task {task!r}: list them with GET /api/v1/models")
        return row

    async def all(self, task: str | None = None) -> list[Bundle]:
        """Entries, newest first."""
        where = [] if task is None else [Bundle.task == task]
        async with self._database.reading() as session:
            return list(await session.scalars(select(Bundle).where(*where).order_by(Bundle.number.desc())))

    def file(self, sha256: str) -> Path:
        """Where a bundle's file lies."""
        return self._folder / f"{sha256}.bundle"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder on the same disk that is gone when the block ends."""
        with TemporaryDirectory(prefix=_SCRATCH, dir=self._folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    async def _imported(self, file: Path, info: BundleInfo, *, origin: str, shippable: bool) -> Bundle:
        """The entry of this task and version, made where there is none; a file that was lost is put back."""
        manifest, target = info.manifest, self.file(info.sha256)
        async with self._database.reading() as session:
            known = await _find(session, manifest.task, manifest.version)
        if known is not None and known.sha256 != info.sha256:
            return known
        if not await asyncio.to_thread(target.exists):
            await asyncio.to_thread(_copy, file, target)
        if known is not None:
            return known
        async with self._database.writing() as session:
            known = await _find(session, manifest.task, manifest.version)
            if known is None:
                known = Bundle(
                    task=manifest.task,
                    version=manifest.version,
                    sha256=info.sha256,
                    size_bytes=info.size_bytes,
                    parent=manifest.parent,
                    manifest=manifest.model_dump(mode="json"),
                    origin=origin,
                    shippable=shippable,
                    created_at=self._now(),
                )
                session.add(known)
                log.info("task %s: version %s is in the registry (%s)", known.task, known.version, origin)
        return known

    def _check(self, manifest: Manifest) -> None:
        task = self._tasks.get(manifest.task)
        if task is None:
            return
        if manifest.labels != task.labels or manifest.input != task.input:
            raise BundleError(
                f"version {manifest.version!r} does not fit task {task.name!r}: that takes "
                f"{list(task.input_shape)} {task.input_dtype} and has {len(task.labels)} labels"
            )


async def _find(session: AsyncSession, task: str, version: str) -> Bundle | None:
    return await session.scalar(select(Bundle).where(Bundle.task == task, Bundle.version == version))


def _copy(source: Path, target: Path) -> None:
    with atomic.replacing(target) as copy, source.open("rb") as original:
        shutil.copyfileobj(original, copy, 1 << 20)


def is_variant(bundle: Bundle) -> bool:
    """Whether it is one of the further variants of a run, whose own candidate has another version."""
    variant = bundle.manifest.get("lineage", {}).get("variant")  # of a bundle that was pushed it may be anything
    return isinstance(variant, dict) and variant.get("of") != bundle.version
