"""What happens where a training step does not fit into memory: half the batch, once, said; then a clear error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from cloud_service.errors import ModelError

log = logging.getLogger(__name__)

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
_Result = TypeVar("_Result")


def with_room(work: Callable[[int], _Result], *, batch: int, what: str) -> _Result:
    """`work` over a batch, or over half of it where the first takes more memory than there is.

    Args:
        work: takes the samples of a step; is called again from its beginning.
        batch: wished for.
        what: is trained, for the message.

    Raises:
        ModelError: half of it is too much, too.
    """
    try:
        return work(batch)
    except (MemoryError, RuntimeError) as err:
        if not out_of_memory(err) or batch < 2:
            raise
        log.warning("%s: a batch of %d does not fit into memory: starting again with %d", what, batch, batch // 2)
    try:
        return work(batch // 2)
    except (MemoryError, RuntimeError) as err:
        if not out_of_memory(err):
            raise
        raise ModelError(
            f"{what}: neither {batch} samples a step nor {batch // 2} fit into this machine's memory: lower batch or "
            "views, choose a smaller network, or train on a larger machine"
        ) from err


def out_of_memory(err: BaseException) -> bool:
    """Whether an error of Python's or torch's says that memory ran out; on a CPU torch has no class for it."""
    return isinstance(err, MemoryError | torch.OutOfMemoryError) or any(sign in str(err).lower() for sign in _SIGNS)
