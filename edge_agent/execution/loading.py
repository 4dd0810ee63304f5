"""Loads a slot's model as it was found to run best here; without that knowledge, on the CPU with one thread."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_agent.errors import ModelUnusable
from edge_agent.execution import record, runtime
from edge_agent.execution.choice import SAFE, Choice, Provider
from edge_agent.execution.engine import Engine
from edge_agent.execution.record import Key
from edge_agent.execution.runtime import Opener
from edge_agent.execution.settings import ExecutionSettings
from shared import bundle, manifest

log = logging.getLogger(__name__)


class EngineLoader:
    """Opens engines for one device's settings.

    Nothing that a child process has not proven on this device runs in the agent but the CPU: an accelerator's library
    may take minutes to start, compute something else, or crash the process.
    """

    def __init__(self, settings: ExecutionSettings, *, opener: Opener = runtime.open_session) -> None:
        self.settings = settings
        self._opener = opener

    def __call__(self, slot: Path, *, sha256: str = "") -> Engine:
        """A warm engine. A choice that does not work any more is told and replaced by the CPU.

        Raises:
            BundleError: the bundle is incomplete or altered.
            ModelUnusable: the model does not load or run, or does not fit its manifest.
        """
        choice = self.choice(slot)
        try:
            return Engine(slot, sha256=sha256, choice=choice, opener=self._opener)
        except ModelUnusable as err:
            fallback = Choice(threads=self.settings.threads or 1)
            if choice.provider is Provider.CPU:
                raise
            log.warning("the model in %s does not run on %s (%s): it runs on %s", slot, choice, err, fallback)
            return Engine(slot, sha256=sha256, choice=fallback, opener=self._opener)

    def choice(self, slot: Path) -> Choice:
        """How the slot's model is to run: as was measured, else on the CPU with the threads that the settings say.

        Raises:
            BundleError: the manifest cannot be read.
        """
        key = Key.of(manifest.load(slot / bundle.MANIFEST), self.settings)
        return record.remembered(slot, key) or Choice(SAFE.provider, self.settings.threads or SAFE.threads)
