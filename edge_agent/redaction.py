"""A task's redaction hook: the user's own function that may change a sample, or withhold it, before it is spooled."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from shared.codec import Array
from shared.errors import SettingsError
from shared.messages import Reason

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Departing:
    """What a hook is shown of a sample that is about to be spooled.

    Attributes:
        tensor: read-only, of the task's shape and dtype.
        label, confidence: what the device answered.
        reason: why it goes up.
    """

    task: str
    tensor: Array
    label: str
    confidence: float
    reason: Reason


Hook = Callable[[Departing], Any]  # an Array or None, if its author kept to it


class Redaction:
    """Calls a hook; a hook that fails, or gives something else than a tensor of the same kind, withholds the sample."""

    def __init__(self, hook: Hook, name: str) -> None:
        self._hook, self._name = hook, name
        self._said: set[str] = set()

    def __call__(self, departing: Departing) -> Array | None:
        """What may leave the device: the tensor as it is or changed; None: nothing."""
        view = departing.tensor.view()
        view.flags.writeable = False
        try:
            result = self._hook(replace(departing, tensor=view))
        except Exception as err:  # noqa: BLE001  # the user's own code: what it did not finish must not leave the device
            self._complain(f"raised {err!r}")
            return None
        if result is None:
            return None
        if not isinstance(result, np.ndarray) or (result.shape, result.dtype) != (view.shape, view.dtype):
            kind = f"{result.dtype}{list(result.shape)}" if isinstance(result, np.ndarray) else type(result).__name__
            self._complain(f"gave {kind} for {view.dtype}{list(view.shape)}")
            return None
        changed: Array = result
        return changed

    def _complain(self, what: str) -> None:
        if what not in self._said and len(self._said) < 100:
            self._said.add(what)
            log.error("the redaction hook %s %s: such samples are withheld; correct the hook", self._name, what)


def load(name: str | None) -> Redaction | None:
    """The hook that the settings name, `module:function` or `/path/to/file.py:function`; None: no hook.

    Raises:
        SettingsError: there is no such module, file or function, or importing it fails.
    """
    if name is None:
        return None
    where, _, function = name.rpartition(":")
    try:
        hook = getattr(_module(where), function)
    except Exception as err:  # the user's own module may fail in any way while it is imported
        raise SettingsError(f"the redaction hook {name!r} cannot be used ({err}): correct 'redact'") from err
    if not callable(hook):
        raise SettingsError(f"the redaction hook {name!r} is no function: correct 'redact'")
    return Redaction(hook, name)


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    name = f"edge_agent_redaction_{Path(where).stem}"
    spec = importlib.util.spec_from_file_location(name, where)
    if spec is None or spec.loader is None:
        raise ImportError(f"{where} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
