"""Whether a frame from a device is a sample that its task takes: rules only, no IO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_service.storage.values import NewSample
from shared.errors import SampleError
from shared.manifest import TensorSpec
from shared.messages import Refusal, decode_sample

# What a database's 64-bit integer holds.
MAX_SEQ = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What a task takes: raw tensors of this kind, and labels 0 to `labels` − 1."""

    input: TensorSpec
    labels: int


def admit(device: str, frame: bytes, *, terms: Mapping[str, Terms], max_bytes: int) -> NewSample | Refusal:
    """The sample in a frame, or why the cloud will never take it.

    Raises:
        FrameError: the frame cannot be read, so nobody knows which sample it was.
    """
    header, tensor = decode_sample(frame, max_bytes=max_bytes)
    task = terms.get(header.task)
    if task is None:
        known = ", ".join(sorted(terms)) or "none"
        return Refusal(message_id=header.sample_id, reason=f"unknown task {header.task!r}; the cloud serves: {known}")
    try:
        task.input.check(tensor)
    except SampleError as err:
        return Refusal(message_id=header.sample_id, reason=str(err))
    if header.prediction >= task.labels:
        reason = f"prediction {header.prediction}, but task {header.task!r} has {task.labels} labels"
        return Refusal(message_id=header.sample_id, reason=reason)
    if header.seq > MAX_SEQ:
        return Refusal(message_id=header.sample_id, reason=f"seq is over {MAX_SEQ}")
    return NewSample(device, header, tensor)
