"""Two slots, A and B, and one small file that says which is active: the device always has a working model."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge_agent.errors import NoWorkingModel
from edge_agent.execution.engine import Engine
from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.settings import ExecutionSettings
from shared import atomic, bundle
from shared.errors import BundleError, StorageFull

log = logging.getLogger(__name__)


class Slot(StrEnum):
    """A place for an unpacked bundle."""

    A = "a"
    B = "b"

    @property
    def other(self) -> Slot:
        return Slot.B if self is Slot.A else Slot.A


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which slot is active and what it holds; `previous` is what was active before, in the other slot."""

    slot: Slot
    version: str
    sha256: str
    previous: Pointer | None = None

    def as_dict(self) -> dict[str, object]:
        """For JSON; only one step back is kept."""
        return {"slot": self.slot.value, "version": self.version, "sha256": self.sha256}


class Slots:
    """The slots of one task in `folder`: `a/`, `b/` and `active.json`; `load` makes engines of them."""

    def __init__(self, folder: Path, load: EngineLoader | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._load = load or EngineLoader(ExecutionSettings())
        self._file = folder / "active.json"

    def pointer(self) -> Pointer | None:
        """What is active; None before the first activation, or when the pointer cannot be read."""
        try:
            value = json.loads(self._file.read_bytes())
            previous = value["previous"]
            return _pointer(value, _pointer(previous) if previous else None)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as err:
            log.error("the slot pointer %s cannot be read (%s)", self._file, err)
            return None

    def inactive(self) -> Slot:
        """The slot that a candidate may use."""
        pointer = self.pointer()
        return pointer.slot.other if pointer else Slot.A

    def path(self, slot: Slot) -> Path:
        """The folder of a slot."""
        return self._folder / slot.value

    def load(self, slot: Slot, *, sha256: str) -> Engine:
        """A warm engine of what lies in a slot.

        Raises:
            BundleError: it is incomplete or altered, or the model does not run.
        """
        return self._load(self.path(slot), sha256=sha256)

    def stage(self, file: Path) -> Path:
        """Unpack a bundle file into the inactive slot and return its folder.

        What was active before lay there: from now on it is no way back, and the candidate is none until it is proven.

        Raises:
            BundleError: the file is not a sound bundle; the slot is empty then.
            StorageFull: the disk took no more.
        """
        pointer = self.pointer()
        if pointer is not None and pointer.previous is not None:
            atomic.write_json(self._file, {**pointer.as_dict(), "previous": None})
        folder = self.path(self.inactive())
        shutil.rmtree(folder, ignore_errors=True)
        bundle.unpack(file, folder)
        return folder

    def empty_inactive(self) -> None:
        """Give up what the inactive slot holds."""
        shutil.rmtree(self.path(self.inactive()), ignore_errors=True)

    def activate(self, slot: Slot, version: str, sha256: str) -> None:
        """Point at a slot, atomically.

        Raises:
            StorageFull: the disk took no more; the old slot stays active.
        """
        before = self.pointer()
        previous = before.as_dict() if before and before.slot is not slot else None
        atomic.write_json(self._file, {**Pointer(slot, version, sha256).as_dict(), "previous": previous})

    def go_back(self) -> Pointer:
        """Point at the other slot again, atomically, and return what is active now.

        Raises:
            NoWorkingModel: there is no other slot to go back to.
            StorageFull: the disk took no more.
        """
        now = self.pointer()
        if now is None or now.previous is None:
            raise NoWorkingModel("there is no earlier model to go back to")
        back = now.previous
        atomic.write_json(self._file, {**back.as_dict(), "previous": None})
        return back

    def open(self, factory: Path) -> Engine:
        """The engine to start with: the active slot's, else the other slot's, else the factory bundle's.

        A slot is the last resort when the pointer cannot be read and the factory bundle is gone.

        Raises:
            NoWorkingModel: none of them loads.
            StorageFull: the factory bundle must be unpacked, and the disk takes no more.
        """
        pointer = self.pointer()
        problems: list[str] = []
        if pointer is not None:
            engine = self._try(pointer.slot, pointer.sha256, problems)
            if engine is not None:
                return engine
            back = pointer.previous
            engine = self._try(back.slot, back.sha256, problems) if back else None
            if back is not None and engine is not None:
                log.error("the active model does not load (%s): back to %s", problems[0], engine.manifest.version)
                self._point_if_possible(back.slot, engine)
                return engine
        try:
            return self._install(factory, problems)
        except BundleError as err:
            problems.append(f"factory bundle {factory}: {err}")
            for slot in Slot if pointer is None else ():
                engine = self._try(slot, "", problems)
                if engine is not None:
                    log.error("slot %s holds a model that loads: it is used", slot.value)
                    self._point_if_possible(slot, engine)
                    return engine
            raise NoWorkingModel("; ".join(problems)) from err

    def _try(self, slot: Slot, sha256: str, problems: list[str]) -> Engine | None:
        try:
            return self.load(slot, sha256=sha256)
        except BundleError as err:
            problems.append(f"slot {slot.value}: {err}")
            return None

    def _install(self, factory: Path, problems: list[str]) -> Engine:
        info = bundle.inspect(factory)
        folder = self.path(Slot.A)
        shutil.rmtree(folder, ignore_errors=True)
        bundle.unpack(factory, folder)
        engine = self.load(Slot.A, sha256=info.sha256)
        if problems:
            log.error("no slot holds a working model (%s): back to the factory bundle", "; ".join(problems))
        self.activate(Slot.A, engine.manifest.version, info.sha256)
        return engine

    def _point_if_possible(self, slot: Slot, engine: Engine) -> None:
        """A pointer that cannot be written must not keep a device from a model that works; the next start finds it."""
        pointer = Pointer(slot, engine.manifest.version, engine.sha256)
        try:
            atomic.write_json(self._file, {**pointer.as_dict(), "previous": None})
        except (OSError, StorageFull) as err:
            log.error("the slot pointer cannot be written: %s", err)


def _pointer(value: dict[str, Any], previous: Pointer | None = None) -> Pointer:
    return Pointer(Slot(value["slot"]), str(value["version"]), str(value["sha256"]), previous)
