"""One npz with everything, read back with numpy alone."""

import numpy as np
import pytest

from cloud_service.errors import NotFound
from cloud_service.labelling import archive
from cloud_service.labelling.exports import Wanted
from cloud_service.storage.samples import SampleFilter
from shared.errors import StorageFull
from tests.sim.bundles import LABELS, sample
from tests.sim.disk import fill, small_disk

ALL = SampleFilter()
PLENTY = 1 << 30
TENSOR = 64  # bytes of an 8 × 8 tensor of uint8


async def test_archive_has_every_tensor_and_answer(samples, stored, digits_task, tmp_path):
    ids = [*await stored(3), *await stored(1, answered=False, tensors=[sample(5)])]
    await samples.label([(ids[0], 8)], by="anna")
    made = await archive.write(samples, Wanted(ALL), digits_task, tmp_path, max_bytes=PLENTY)
    assert (made.samples, made.rest) == (4, None)
    with np.load(made.file, allow_pickle=False) as found:
        assert found["id"].tolist() == [str(each) for each in reversed(ids)]
        assert (found["x"].dtype, found["x"].shape) == (np.uint8, (4, 8, 8))
        assert np.array_equal(found["x"][1:], [sample(n, value=n + 1) for n in (2, 1, 0)])
        assert np.array_equal(found["x"][0], sample(5))
        # A person's label, else the teacher's, else none.
        assert found["label"].tolist() == [-1, 3, 3, 8]
        assert found["human"].tolist() == [-1, -1, -1, 8]
        assert found["teacher"].tolist() == [-1, 3, 3, 3]
        assert found["edge"].tolist() == [0, 2, 1, 0]
        assert np.isnan(found["probabilities"][0]).all()
        assert found["probabilities"][3, 3] == np.float32(0.55)
        assert found["labels"].tolist() == list(LABELS)
        assert found["stored_at"].dtype == np.dtype("M8[ms]")
        assert {len(found[name]) for name in found if name != "labels"} == {4}
    assert [each.name for each in tmp_path.iterdir() if each.name == "x"] == []


async def test_archive_takes_the_newest_up_to_a_limit(samples, stored, digits_task, tmp_path):
    ids = await stored(40)
    made = await archive.write(samples, Wanted(ALL, limit=20), digits_task, tmp_path, max_bytes=PLENTY)
    assert (made.samples, made.rest) == (20, None)
    with np.load(made.file) as found:
        assert found["id"].tolist() == [str(each) for each in reversed(ids[20:])]
        assert len(found["x"]) == 20


async def test_archive_of_nothing_is_refused(samples, digits_task, tmp_path):
    with pytest.raises(NotFound, match="nothing to export"):
        await archive.write(samples, Wanted(ALL), digits_task, tmp_path, max_bytes=PLENTY)


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ({"max_bytes": 16 * TENSOR}, [16, 16, 8]),
        ({"max_bytes": 20 * TENSOR + 1}, [20, 20]),
        ({"max_bytes": 1}, [1] * 40),
        ({"max_bytes": PLENTY, "max_samples": 30}, [30, 10]),
        ({"max_bytes": 40 * TENSOR}, [40]),
    ],
)
async def test_archives_one_after_the_other_have_every_sample(samples, stored, digits_task, tmp_path, limits, sizes):
    ids = await stored(40)
    found, counts, rest = [], [], None
    while not counts or rest is not None:
        made = await archive.write(samples, Wanted(ALL, before=rest), digits_task, tmp_path, **limits)
        with np.load(made.file) as content:
            found += content["id"].tolist()
            assert len(content["x"]) == made.samples
        counts.append(made.samples)
        rest = made.rest
    assert counts == sizes
    assert found == [str(each) for each in reversed(ids)]


async def test_full_disk_is_said_to_be_full(samples, stored, digits_task, tmp_path):
    await stored(3)
    with small_disk(tmp_path / "small", kilobytes=8) as folder:
        fill(folder, leave=100)
        with pytest.raises(StorageFull, match="free some space"):
            await archive.write(samples, Wanted(ALL), digits_task, folder, max_bytes=PLENTY)
