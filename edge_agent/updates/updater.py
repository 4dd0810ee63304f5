"""Carries one task's updates through their table: verify → download → stage → activate → commit → report.

Whatever goes wrong, the model that ran before runs on, and a report says what happened. The table itself is in
`lifecycle`; each method `_<state>` below is what one state does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from edge_agent.errors import DownloadFailed, NoWorkingModel
from edge_agent.ledger import Ledger, Purpose
from edge_agent.pipeline import Pipeline
from edge_agent.settings import UpdateSettings
from edge_agent.updates import selftest
from edge_agent.updates.fetch import Fetcher, download
from edge_agent.updates.lifecycle import TABLE, Event, State, resume
from edge_agent.updates.record import Record, Records
from edge_agent.updates.selftest import SelfTester
from edge_agent.updates.slots import Slots
from edge_agent.uplink.outbox import Outbox
from shared import atomic
from shared.errors import BundleError, StorageFull
from shared.ids import new_id
from shared.lifecycle import Runner
from shared.manifest import Manifest
from shared.messages import BundleReference, Report, UpdateFailure, UpdateOutcome

log = logging.getLogger(__name__)

# Not the bundle's fault: with the next connection the same offer is tried again.
_MAY_PASS = (UpdateFailure.DOWNLOAD, UpdateFailure.STORAGE)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an updater needs of the rest of the agent; `changed` tells the uplink that there is news."""

    outbox: Outbox
    ledger: Ledger
    fetcher: Fetcher
    rng: Random
    changed: Callable[[], None]
    self_test: SelfTester = selftest.check_in_child


class Updater:
    """One task's updates, one at a time."""

    def __init__(
        self, pipeline: Pipeline, slots: Slots, folder: Path, *, settings: UpdateSettings, around: Surroundings
    ) -> None:
        self._pipeline, self._slots, self._folder = pipeline, slots, folder
        self._settings, self._around = settings, around
        self._records = Records(folder)
        self._record: Record | None = None
        self._began_s = 0.0
        self._runner = Runner(
            TABLE,
            {
                State.VERIFYING: self._verify,
                State.DOWNLOADING: self._download,
                State.STAGING: self._stage,
                State.ACTIVATING: self._activate,
                State.COMMITTING: self._commit,
                State.ROLLING_BACK: self._roll_back,
                State.REPORTING: self._report,
            },
            self._save,
        )

    async def resume(self) -> None:
        """Go on with an update that a crash or restart interrupted."""
        record = self._records.load()
        if record is None:
            return
        record = record.model_copy(update={"starts": record.starts + 1})
        state = resume(record.state, record.starts)
        log.info("update to %s: going on in state %s after a restart", record.reference.version, state.value)
        if state is State.ROLLING_BACK and record.failure is UpdateFailure.NONE:
            message = f"the agent ended {record.starts} times in state {record.state!r} of this update"
            record = record.model_copy(update={"failure": UpdateFailure.INTERNAL, "message": message})
        await self._run(record, state)

    async def offer(self, reference: BundleReference, revision: int) -> None:
        """The cloud wants this bundle; nothing happens when it runs already, or failed here under this wish."""
        engine = self._pipeline.engine
        if engine.sha256 == reference.sha256 or self._records.has_failed(reference, revision):
            return
        record = Record(
            state=State.VERIFYING,
            reference=reference,
            revision=revision,
            report_id=new_id(),
            from_version=engine.manifest.version,
        )
        log.info("task %s: update from %s to %s", self._pipeline.name, record.from_version, reference.version)
        await self._run(record, State.VERIFYING)

    async def _run(self, record: Record, state: State) -> None:
        self._began_s = time.monotonic() - record.seconds
        self._record = record
        try:
            await self._walk(state)
        except (StorageFull, OSError) as err:
            # The record itself cannot be written: the offer is retained and comes again with the next connection.
            log.error("task %s: the update stops, its state cannot be saved: %s", self._pipeline.name, err)
        finally:
            self._record = None

    async def _walk(self, state: State) -> None:
        try:
            self._save(state)
            await self._runner.run(state)
        except (StorageFull, OSError):
            raise
        except Exception as err:  # a fault of our own ends this update, never the uplink that runs beside it
            log.exception("task %s: an update met a fault of the agent's own", self._pipeline.name)
            self._failed(UpdateFailure.INTERNAL, err)
            self._save(State.ROLLING_BACK)
            await self._runner.run(State.ROLLING_BACK)

    @property
    def _current(self) -> Record:
        if self._record is None:
            raise RuntimeError("no update is under way")
        return self._record

    @property
    def _file(self) -> Path:
        return self._folder / f"{self._current.reference.sha256[:16]}.download"

    def _save(self, state: State) -> None:
        took = max(0.0, time.monotonic() - self._began_s)
        self._record = self._current.model_copy(update={"state": state.value, "seconds": took})
        self._records.save(self._record)

    def _failed(self, failure: UpdateFailure, err: Exception) -> Event:
        log.error("task %s: update to %s failed: %s", self._pipeline.name, self._current.reference.version, err)
        self._record = self._current.model_copy(update={"failure": failure, "message": str(err)[:2000]})
        return Event.FAILED

    async def _verify(self) -> Event:
        size, limit = self._current.reference.size_bytes, self._settings.max_bytes
        if size > limit:
            err = BundleError(f"a bundle of {size:,} bytes; [updates] max_bytes allows {limit:,}")
            return self._failed(UpdateFailure.REFUSED, err)
        if not self._around.ledger.has_room(size):
            over = DownloadFailed(f"{size:,} bytes are over today's cap: it is tried again on a later connection")
            return self._failed(UpdateFailure.DOWNLOAD, over)
        return Event.ADMITTED

    async def _download(self) -> Event:
        for other in self._folder.glob("*.download"):
            if other != self._file:
                atomic.remove(other)
        try:
            await download(
                self._around.fetcher,
                self._current.reference,
                self._file,
                settings=self._settings,
                rng=self._around.rng,
                count_bytes=lambda count: self._around.ledger.add_bytes(Purpose.UPDATES, count),
            )
        except DownloadFailed as err:
            return self._failed(UpdateFailure.DOWNLOAD, err)
        except StorageFull as err:
            # What came so far is given up first: the record and the report need room.
            atomic.remove(self._file)
            return self._failed(UpdateFailure.STORAGE, err)
        except BundleError as err:
            return self._failed(UpdateFailure.MISMATCH, err)
        return Event.COMPLETE

    async def _stage(self) -> Event:
        if self._already_active():
            return Event.PASSED
        try:
            folder = await asyncio.to_thread(self._slots.stage, self._file)
            result = await self._around.self_test(folder, timeout_s=self._settings.self_test_timeout_s)
        except StorageFull as err:
            atomic.remove(self._file)
            self._slots.empty_inactive()
            return self._failed(UpdateFailure.STORAGE, err)
        except BundleError as err:
            return self._failed(UpdateFailure.SELF_TEST, err)
        log.info(
            "self-test passed: %d golden samples, largest difference %.3f", result.samples, result.largest_difference
        )
        return Event.PASSED

    async def _activate(self) -> Event:
        if self._already_active():
            return Event.SWAPPED
        slot = self._slots.inactive()
        sha256 = self._current.reference.sha256
        try:
            engine = await asyncio.to_thread(self._slots.load, slot, sha256=sha256)
            _check_fits(engine.manifest, self._pipeline.engine.manifest)
            self._slots.activate(slot, engine.manifest.version, sha256)
        except StorageFull as err:
            return self._failed(UpdateFailure.STORAGE, err)
        except BundleError as err:
            return self._failed(UpdateFailure.REFUSED, err)
        self._pipeline.swap(engine)
        return Event.SWAPPED

    async def _commit(self) -> Event:
        if self._pipeline.engine.sha256 != self._current.reference.sha256:
            err = BundleError("it was active and did not load at the next start; what ran before runs again")
            return self._failed(UpdateFailure.INTERNAL, err)
        atomic.remove(self._file)
        self._around.changed()
        log.info("task %s: %s is active", self._pipeline.name, self._pipeline.engine.manifest.version)
        return Event.DONE

    async def _roll_back(self) -> Event:
        pointer = self._slots.pointer()
        if pointer is None or pointer.sha256 != self._current.reference.sha256:
            return Event.DONE
        try:
            if pointer.previous is None:
                raise NoWorkingModel("there is no earlier model")  # noqa: TRY301  # one way to say it
            previous = pointer.previous
            engine = await asyncio.to_thread(self._slots.load, previous.slot, sha256=previous.sha256)
        except (BundleError, NoWorkingModel) as err:
            log.error("task %s: nothing to roll back to (%s); what runs stays", self._pipeline.name, err)
            return Event.DONE
        self._slots.go_back()
        self._pipeline.swap(engine)
        log.warning("task %s: rolled back to %s", self._pipeline.name, engine.manifest.version)
        return Event.DONE

    async def _report(self) -> Event:
        record = self._current
        failed = record.failure is not UpdateFailure.NONE
        if failed:
            if record.failure not in _MAY_PASS:
                self._records.note_failed(record)
            if record.failure is not UpdateFailure.DOWNLOAD:  # that one goes on from these bytes at the next try
                atomic.remove(self._file)
        report = Report(
            report_id=record.report_id,
            task=self._pipeline.name,
            version=record.reference.version,
            bundle_sha256=record.reference.sha256,
            from_version=record.from_version,
            outcome=UpdateOutcome.FAILED if failed else UpdateOutcome.ACTIVATED,
            failure=record.failure,
            message=record.message,
            seconds=time.monotonic() - self._began_s,
        )
        try:
            self._around.outbox.put(report)
        finally:
            self._around.changed()  # on a full disk, too: the report waits in memory
        return Event.DONE

    def _already_active(self) -> bool:
        pointer = self._slots.pointer()
        return pointer is not None and pointer.sha256 == self._current.reference.sha256


def _check_fits(candidate: Manifest, running: Manifest) -> None:
    """A new model must take what the sources give and answer what the users know.

    Raises:
        BundleError: another task, input or set of labels.
    """
    for what in ("task", "input", "labels"):
        ours, theirs = getattr(running, what), getattr(candidate, what)
        if ours != theirs:
            raise BundleError(f"the bundle's {what} is {theirs!r}, this device runs {ours!r}")
