"""What a source knows of the agent it feeds, and what it hands over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.codec import Array
from shared.errors import SampleError
from shared.manifest import TensorSpec
from shared.mqtt import BrokerSettings


@dataclass(frozen=True, slots=True)
class SourceContext:
    """The callables may be called from any thread.

    Attributes:
        task: the task that the samples are for.
        name: this source, in logs and as the end of an MQTT client id; no other source of the device has it.
        spec: the tensor that the task takes at this moment.
        broker: the agent's own, for a source that names none.
        client: the beginning of an MQTT client id, this device's own.
        thin: how many samples there are to each one that is to be taken; 1: all are.
        skipped: told how many samples were not taken because of `thin`.
        overrun: told how many samples were dropped because the agent was slow.
        waited: told how many samples had to wait because the agent was slow.
        refused: told of what came and is no sample of this task.
    """

    task: str
    name: str
    spec: Callable[[], TensorSpec]
    broker: BrokerSettings
    client: str
    thin: Callable[[], int]
    skipped: Callable[[int], None]
    overrun: Callable[[int], None]
    waited: Callable[[int], None]
    refused: Callable[[SampleError], None]


@dataclass(frozen=True, slots=True)
class Captured:
    """A sample as it came in; it is decoded only when it is taken.

    Attributes:
        decode: the task's tensor of it; raises `SampleError` when there is none in it.
    """

    decode: Callable[[TensorSpec], Array]
    reference: int | str
