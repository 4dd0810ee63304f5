"""Samples on their way out, page by page, over a real store."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from cloud_service.errors import StoreError
from cloud_service.labelling import exports, returned
from cloud_service.labelling.exports import Wanted
from cloud_service.storage.samples import SampleFilter
from tests.sim.bundles import sample

ALL = SampleFilter()


async def joined(parts) -> bytes:
    return b"".join([part async for part in parts])


@pytest.mark.parametrize(
    ("limit", "at_once", "sizes"), [(None, 2, [2, 2, 1]), (None, 5, [5]), (3, 2, [2, 1]), (4, 2, [2, 2]), (9, 500, [5])]
)
async def test_rows_come_in_pages_up_to_the_limit(samples, stored, limit, at_once, sizes):
    ids = await stored(5)
    pages = [page async for page in exports.rows(samples, Wanted(ALL, limit), at_once=at_once)]
    assert [len(page) for page in pages] == sizes
    assert [row.id for page in pages for row in page] == ids[::-1][: sum(sizes)]


async def test_rows_that_come_in_meanwhile_are_not_among_them(samples, stored):
    ids = await stored(4)
    pages = exports.rows(samples, Wanted(ALL), at_once=2)
    first = await anext(pages)
    await stored(3)
    rest = [row.id async for page in pages for row in page]
    assert [row.id for row in first] + rest == ids[::-1]


async def test_lines_are_one_a_row(samples, stored):
    ids = await stored(3)
    text = await joined(exports.lines(samples, Wanted(ALL), lambda row: str(row.id)))
    assert text.decode().splitlines() == [str(each) for each in reversed(ids)]


async def test_label_studio_gets_the_picture_and_every_answer(samples, stored, digits_task):
    (first, second) = await stored(2)
    await samples.label([(second, 7)], by="anna")
    parts = exports.label_studio_tasks(samples, Wanted(ALL), digits_task, link=lambda row: "http://cloud")
    newest, oldest = json.loads(await joined(parts))
    assert (newest["data"]["sample_id"], oldest["data"]["sample_id"]) == (str(second), str(first))
    assert (newest["data"]["edge"], newest["data"]["teacher"], newest["data"]["device"]) == ("1", "3", "cam-1")
    says = [(each["model_version"], each["score"], each["result"][0]["value"]) for each in newest["predictions"]]
    assert says == [("teacher t1", 0.55, {"choices": ["3"]}), ("edge v1", 0.2, {"choices": ["1"]})]
    assert newest["annotations"][0]["result"][0]["value"] == {"choices": ["7"]}
    assert "annotations" not in oldest
    with Image.open(io.BytesIO(base64.b64decode(oldest["data"]["image"].partition(",")[2]))) as image:
        assert np.array_equal(np.asarray(image)[::16, ::16], sample(0, value=255))


async def test_label_that_the_task_does_not_have_any_more_is_not_offered(samples, stored, digits_task):
    (only,) = await stored(1)
    await samples.label([(only, 9)], by="anna")
    task = digits_task.model_copy(update={"labels": ("none",)})
    (row,) = await samples.page(ALL, before=None, limit=1)
    made = exports.label_studio_task(row, await samples.tensor(row), task, link="")
    assert [each["model_version"] for each in made["predictions"]] == ["edge v1"]
    assert (made["data"]["teacher"], "annotations" in made) == ("#3", False)


async def test_export_comes_back_as_it_went(samples, stored, digits_task):
    ids = await stored(40)
    await samples.label([(each, number % 10) for number, each in enumerate(ids[:30])], by="anna")
    found = returned.read(
        await joined(exports.label_studio_tasks(samples, Wanted(ALL), digits_task, link=lambda row: ""))
    )
    assert {each.id: each.label for each in found.chosen} == {each: str(n % 10) for n, each in enumerate(ids[:30])}
    assert (found.unlabelled, found.faults) == (10, ())


async def test_nothing_is_an_empty_list(samples, digits_task):
    parts = exports.label_studio_tasks(samples, Wanted(ALL), digits_task, link=lambda row: "")
    assert json.loads(await joined(parts)) == []
    assert await joined(exports.lines(samples, Wanted(ALL), str)) == b""


async def test_what_has_lost_its_tensor_or_does_not_fit_the_task_is_left_out(samples, stored, digits_task, blobs):
    await stored(1, tensors=[np.zeros((4, 4), np.uint8)])
    await stored(1)
    objects = set(blobs.blobs)
    (kept,) = await stored(1, tensors=[sample(7)])
    for name in objects:
        del blobs.blobs[name]
    await stored(1, tensors=[np.zeros((8, 8), np.int16)])
    pages = [page async for page in exports.with_tensors(samples, Wanted(ALL), digits_task)]
    assert [row.id for page in pages for row, _ in page] == [kept]


async def test_broken_blob_store_is_an_error_and_not_a_gap(samples, stored, digits_task, blobs):
    await stored(2)
    blobs.broken = True
    with pytest.raises(StoreError):
        await joined(exports.label_studio_tasks(samples, Wanted(ALL), digits_task, link=lambda row: ""))


async def test_what_cannot_be_shown_is_a_link(samples, stored, digits_task):
    tensor = np.zeros((2, 2, 2, 2), np.uint8)
    await stored(1, tensors=[tensor])
    task = digits_task.model_copy(update={"input_shape": tensor.shape})
    parts = exports.label_studio_tasks(samples, Wanted(ALL), task, link=lambda row: f"http://cloud/{row.seq}/tensor")
    (made,) = json.loads(await joined(parts))
    assert 'href="http://cloud/0/tensor"' in made["data"]["link"]


@pytest.mark.parametrize(("room", "sizes"), [(64, [1] * 5), (200, [2, 2, 1]), (1, [1] * 5), (10_000, [5])])
async def test_large_tensors_are_in_memory_a_few_at_a_time(samples, stored, digits_task, room, sizes):
    await stored(5)
    assert exports.tensor_bytes(digits_task) == 64
    pages = exports.with_tensors(samples, Wanted(ALL), digits_task, max_bytes=room)
    assert [len(page) async for page in pages] == sizes
