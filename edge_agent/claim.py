"""A state folder belongs to one agent at a time."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from edge_agent.errors import StateInUse

log = logging.getLogger(__name__)


def claim(folder: Path) -> int:
    """A lock on the state folder, held until the descriptor is closed or the process ends.

    Two agents on one folder would append to the same segment files and lose each other's samples.

    Raises:
        StateInUse: another agent holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        os.close(descriptor)
        raise StateInUse(f"another agent runs on {folder}: stop it, or give this one another state_dir") from err
    except OSError as err:
        log.warning("%s cannot be locked (%s): take care that no second agent runs on it", folder, err)
    return descriptor
