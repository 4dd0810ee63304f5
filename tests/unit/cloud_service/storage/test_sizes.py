"""What is asked before samples are labelled or deleted."""

from uuid import uuid4

from cloud_service.storage.samples import NewSample, SampleFilter
from shared import codec
from tests.sim.bundles import sample
from tests.sim.device import header


def new(device, tensor, **changes):
    return NewSample(device, header(**changes), tensor)


async def test_size_counts_rows_and_each_payload_once(samples):
    await samples.add([new("cam-1", sample(1)), new("cam-1", sample(1)), new("cam-2", sample(2))])
    one = len(codec.encode(sample(1)))
    size = await samples.size(SampleFilter())
    assert (size.samples, size.payload_bytes) == (3, 2 * one)
    size = await samples.size(SampleFilter(device="cam-1"))
    assert (size.samples, size.payload_bytes) == (2, one)
    size = await samples.size(SampleFilter(device="cam-3"))
    assert (size.samples, size.payload_bytes) == (0, 0)


async def test_tasks_are_told_of_those_that_are_stored(samples):
    made = [new("cam-1", sample(n % 10), task=f"task-{n % 2}") for n in range(1_200)]
    await samples.add(made)
    ids = [each.header.sample_id for each in made]
    assert await samples.tasks_of([*ids, uuid4()]) == {each: f"task-{n % 2}" for n, each in enumerate(ids)}
    assert await samples.tasks_of([]) == {}
