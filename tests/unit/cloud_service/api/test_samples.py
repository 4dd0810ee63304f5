"""/api/v1/samples over a real store: filters, pages, tensors, histograms, deletion."""

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID, uuid4

import numpy as np
import pytest
from PIL import Image

from cloud_service.storage.samples import Answer, NewSample, SampleFilter
from shared import codec
from shared.messages import Reason
from tests.sim.bundles import sample
from tests.sim.device import header

SAMPLES = "/api/v1/samples"


def uuid(item: dict) -> UUID:
    return UUID(item["id"])


def says(label: int) -> np.ndarray:
    probabilities = np.full(10, 0.05, np.float32)
    probabilities[label] = 0.55
    return probabilities


@pytest.fixture
async def ids(samples):
    """Ids of eight samples: hardness n/10, the even ones cam-0's and audits; the first four answered, two labelled."""
    made = [
        NewSample(
            f"cam-{n % 2}",
            header(
                seq=n,
                prediction=n,
                hardness=n / 10,
                bundle_version=f"v{n % 3}",
                reason=Reason.AUDIT if n % 2 == 0 else Reason.HARD,
            ),
            sample(n),
        )
        for n in range(8)
    ]
    await samples.add(made)
    ids = [each.header.sample_id for each in made]
    await samples.answer([(each, Answer(says(n), f"t{n % 2}")) for n, each in enumerate(ids[:4])])
    await samples.label([(ids[0], 9), (ids[7], 1)], by="anna")
    return ids


FILTERS = [
    ({}, [7, 6, 5, 4, 3, 2, 1, 0]),
    ({"task": "digits"}, [7, 6, 5, 4, 3, 2, 1, 0]),
    ({"task": "sounds"}, []),
    ({"device": "cam-1"}, [7, 5, 3, 1]),
    ({"reason": "audit"}, [6, 4, 2, 0]),
    ({"bundle": "v2"}, [5, 2]),
    ({"teacher": "t1"}, [3, 1]),
    ({"label": "1"}, [7, 1]),
    ({"label": "0"}, []),
    ({"human_label": "9"}, [0]),
    ({"labelled": "true"}, [7, 0]),
    ({"labelled": "false"}, [6, 5, 4, 3, 2, 1]),
    ({"min_hardness": "0.6"}, [7, 6]),
    ({"max_hardness": "0.1"}, [1, 0]),
    ({"since": "2020-01-01T00:00:00Z", "until": "2021-01-01T00:00:00Z"}, []),
    ({"device": "cam-0", "reason": "audit", "min_hardness": "0.3", "labelled": "false"}, [6, 4]),
]


async def test_each_filter_finds_what_it_says(api, ids):
    for query, numbers in FILTERS:
        _, page = await api("GET", f"{SAMPLES}?{urlencode(query)}")
        assert [ids.index(uuid(item)) for item in page["items"]] == numbers, query
        _, summary = await api("GET", f"{SAMPLES}/summary?{urlencode(query)}")
        assert summary["total"] == len(numbers), query


async def test_time_is_a_filter_with_an_open_end(api, ids, samples):
    at = (await samples.one(ids[0])).stored_at
    just_after = (at + timedelta(microseconds=1)).isoformat()
    for query, count in (
        ({"since": at.isoformat()}, 8),
        ({"since": just_after}, 0),
        ({"until": at.isoformat()}, 0),
        ({"until": just_after}, 8),
        ({"since": at.astimezone(UTC).isoformat(), "until": just_after}, 8),
    ):
        _, page = await api("GET", f"{SAMPLES}?{urlencode(query)}")
        assert len(page["items"]) == count, query


WRONG = [
    "since=2026-11-24",
    "since=2026-11-24T10:00:00",
    "since=today",
    "since=2026-11-25T00:00:00Z&until=2026-11-24T00:00:00Z",
    "reason=because",
    "label=bird",
    "task=sounds&label=bird",
    "human_label=",
    "min_hardness=nan",
    "min_hardness=high",
    "labelled=maybe",
    "device=no/slash",
    "cursor=AAAAAAAAAAkAAAAA",
    "cursor=",
    "cursor=!!!!",
    "cursor=" + "A" * 65,
]


async def test_wrong_filters_are_refused(api):
    for query in WRONG:
        assert (await api("GET", f"{SAMPLES}?{query}"))[0] == 422, query


async def test_pages_follow_each_other_under_a_filter_and_lose_nothing_to_new_samples(api, ids, samples):
    listed, path = [], f"{SAMPLES}?limit=2&device=cam-1"
    cursor = ""
    while cursor is not None:
        _, page = await api("GET", path + (f"&cursor={cursor}" if cursor else ""))
        listed += [ids.index(uuid(item)) for item in page["items"]]
        cursor = page["next"]
        await samples.add([NewSample("cam-1", header(), sample(1))])
    assert listed == [7, 5, 3, 1]


async def test_sample_is_shown_with_all_that_is_known(api, ids, samples):
    _, shown = await api("GET", f"{SAMPLES}/{ids[0]}")
    assert (shown["prediction"], shown["prediction_name"], shown["reason"]) == (0, "0", "audit")
    assert (shown["verdict"]["name"], shown["verdict"]["temperature"]) == ("0", 1.0)
    assert (shown["human"]["label"], shown["human"]["name"], shown["human"]["by"]) == (9, "9", "anna")
    assert shown["labels"] == list("0123456789")
    assert shown["payload_bytes"] == len(codec.encode(sample(0)))
    await samples.fail(ids[5], "out of memory")
    _, shown = await api("GET", f"{SAMPLES}/{ids[5]}")
    assert (shown["verdict"], shown["human"], shown["failure"]) == (None, None, "out of memory")


async def test_sample_of_a_task_that_is_not_served_has_no_names(api, samples):
    await samples.add([NewSample("cam-1", odd := header(task="sounds", prediction=4), sample(1))])
    _, shown = await api("GET", f"{SAMPLES}/{odd.sample_id}")
    assert (shown["prediction"], shown["prediction_name"], shown["labels"]) == (4, None, None)


ACCEPTS = {
    "application/cbor": "application/cbor",
    "application/x-npy": "application/x-npy",
    "image/png;q=0.5": "image/png",
    "image/avif,image/*;q=0.8": "image/png",
    "text/html,*/*;q=0.1": "application/x-npy",
    "": "application/x-npy",
}


async def test_tensor_comes_as_accept_says(api, ids):
    for accept, kind in ACCEPTS.items():
        async with api.client.get(f"{SAMPLES}/{ids[3]}/tensor", headers={"Accept": accept}) as response:
            content = await response.read()
            assert (response.status, response.content_type, response.headers["Vary"]) == (200, kind, "Accept")
        match kind:
            case "application/cbor":
                tensor = codec.decode(content)
            case "application/x-npy":
                tensor = np.load(io.BytesIO(content), allow_pickle=False)
            case _:
                # The sample is dark (16 of 255), and a picture is for eyes.
                tensor = np.asarray(Image.open(io.BytesIO(content))) // 15
        assert np.array_equal(tensor, sample(3))


class Noting(ThreadPoolExecutor):
    """Notes what is done in its threads."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    def submit(self, fn, /, *arguments):
        # asyncio.to_thread hands over a partial of Context.run and the function.
        self.done.append(getattr(fn.args[0], "__name__", ""))
        return super().submit(fn, *arguments)


async def test_tensor_is_written_beside_the_event_loop(api, ids):
    asyncio.get_running_loop().set_default_executor(noting := Noting())
    for accept in ACCEPTS:
        async with api.client.get(f"{SAMPLES}/{ids[3]}/tensor", headers={"Accept": accept}) as response:
            assert response.status == 200
    assert noting.done.count("_written") == len(ACCEPTS)


async def test_tensor_that_is_no_picture_or_is_not_there_is_a_problem(api, samples, blobs):
    await samples.add([NewSample("mic-1", wave := header(), np.zeros(9, np.int16))])
    path = f"{SAMPLES}/{wave.sample_id}/tensor"
    status, problem = await api("GET", path, headers={"Accept": "image/png"})
    assert (status, "no picture" in problem["detail"]) == (422, True)
    assert (await api("GET", f"{SAMPLES}/{uuid4()}/tensor"))[0] == 404
    assert (await api("GET", f"{SAMPLES}/5/tensor"))[0] == 404
    blobs.broken = True
    assert (await api("GET", path))[0] == 503


async def test_histograms_count_labels_and_hardness(api, ids):
    _, found = await api("GET", f"{SAMPLES}/histograms")
    assert found["task"] == "digits"
    # The first is a 9 and the last a 1 because people say so; 4, 5 and 6 have no label.
    assert [each["count"] for each in found["classes"]] == [0, 2, 1, 1, 0, 0, 0, 0, 0, 1]
    assert [each["name"] for each in found["classes"]] == list("0123456789")
    assert (len(found["hardness"]), sum(found["hardness"])) == (20, 8)
    _, found = await api("GET", f"{SAMPLES}/histograms?task=digits&device=cam-1")
    assert sum(found["hardness"]) == 4
    at = datetime.now(UTC) + timedelta(hours=1)
    _, found = await api("GET", f"{SAMPLES}/histograms?{urlencode({'since': at.isoformat()})}")
    assert sum(found["hardness"]) == 0
    assert (await api("GET", f"{SAMPLES}/histograms?task=sounds"))[0] == 404


async def test_purge_deletes_what_matches_and_nothing_else(api, ids, samples, blobs):
    path = f"{SAMPLES}?device=cam-0&labelled=false"
    size = 3 * len(codec.encode(sample(0)))
    _, told = await api("DELETE", f"{path}&dry_run=true")
    assert told == {"samples": 3, "bytes": size, "blobs": None, "deleted": False}
    assert (await api("GET", f"{SAMPLES}/summary"))[1]["total"] == 8
    _, told = await api("DELETE", path)
    assert told == {"samples": 3, "bytes": size, "blobs": 3, "deleted": True}
    _, page = await api("GET", SAMPLES)
    assert [ids.index(uuid(item)) for item in page["items"]] == [7, 5, 3, 1, 0]


async def test_purge_of_everything_or_of_what_is_not_understood_is_refused(api, ids):
    for query in ("", "?dry_run=true", "?dry_run=false", "?colour=red", "?device=a&limit=5"):
        assert (await api("DELETE", f"{SAMPLES}{query}"))[0] == 422, query
    assert (await api("GET", f"{SAMPLES}/summary"))[1]["total"] == 8


async def test_data_of_a_device_is_deleted_and_does_not_come_back(api, ids, samples):
    path = "/api/v1/devices/cam-1/data"
    assert (await api("DELETE", f"{path}?dry_run=true"))[1]["samples"] == 4
    _, told = await api("DELETE", path)
    assert (told["samples"], told["deleted"]) == (4, True)
    await samples.add([NewSample("cam-1", header(sample_id=ids[1], seq=1), sample(1))])
    assert [row.device for row in await samples.page(SampleFilter(), before=None, limit=9)] == ["cam-0"] * 4
    assert (await api("DELETE", path))[1]["samples"] == 0
    assert (await api("DELETE", f"{path}?all=true"))[0] == 422
