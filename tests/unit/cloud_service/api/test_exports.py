"""An export through the API: streamed, whole, or visibly broken."""

import io
import json

import aiohttp
import numpy as np
import pytest

from cloud_service.storage.samples import NewSample
from tests.sim.bundles import sample
from tests.sim.device import header

PATH = "/api/v1/samples/export"


@pytest.fixture
async def ids(samples):
    """Ids of forty samples in packs of ten, newest first; the even ones are cam-0's."""
    made = [NewSample(f"cam-{n % 2}", header(seq=n), sample(n % 10, value=n + 1)) for n in range(40)]
    for start in range(0, 40, 10):
        await samples.add(made[start : start + 10])
    return [str(each.header.sample_id) for each in reversed(made)]


async def fetched(api, query: str) -> tuple[str, bytes]:
    async with api.client.get(f"{PATH}?{query}") as response:
        assert response.status == 200
        return response.headers["Content-Disposition"], await response.read()


async def test_each_format_has_the_samples_that_match(api, ids):
    name, content = await fetched(api, "device=cam-1")
    assert 'filename="samples.jsonl"' in name
    assert [json.loads(line)["id"] for line in content.splitlines()] == ids[::2]
    name, content = await fetched(api, "format=label-studio&limit=7")
    assert 'filename="samples.json"' in name
    tasks = json.loads(content)
    assert [task["data"]["sample_id"] for task in tasks] == ids[:7]
    name, content = await fetched(api, "format=npz&device=cam-1&limit=9")
    assert 'filename="samples.npz"' in name
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        assert found["id"].tolist() == ids[::2][:9]
        assert np.array_equal(found["x"][0], sample(9, value=40))


async def test_npz_that_is_not_all_says_where_the_next_one_begins(api, ids):
    found, after = [], ""
    for count in (30, 10):
        async with api.client.get(f"{PATH}?format=npz{after}") as response:
            said = response.headers
            found += np.load(io.BytesIO(await response.read()))["id"].tolist()
        assert said["Edgeloop-Samples"] == str(count)
        after = f"&cursor={said.get('Edgeloop-Next')}"
    assert found == ids
    assert "Edgeloop-Next" not in said
    async with api.client.get(f"{PATH}?format=npz") as response:
        assert response.headers["Edgeloop-Matching"] == "40"


async def test_cursor_holds_for_every_format(api, ids):
    async with api.client.get(f"{PATH}?format=npz") as response:
        after = response.headers["Edgeloop-Next"]
    _, content = await fetched(api, f"cursor={after}")
    assert [json.loads(line)["id"] for line in content.splitlines()] == ids[30:]
    _, content = await fetched(api, f"format=label-studio&cursor={after}")
    assert [task["data"]["sample_id"] for task in json.loads(content)] == ids[30:]


async def test_nothing_is_an_empty_list(api):
    assert (await fetched(api, "format=label-studio"))[1] == b"[]\n"


async def test_head_says_what_it_would_be_and_makes_nothing(api, ids):
    async with api.client.head(f"{PATH}?format=npz") as response:
        assert (response.status, response.content_type, await response.read()) == (200, "application/x-npz", b"")


WRONG = {
    "format=csv": 422,
    "limit=0": 422,
    "format=npz&cursor=nonsense": 422,
    "colour=red": 422,
    "format=npz&task=sounds": 404,
    "format=label-studio&task=sounds": 404,
    "format=npz&device=cam-9": 404,
}


async def test_wrong_exports_are_problems(api):
    for query, status in WRONG.items():
        assert (await api("GET", f"{PATH}?{query}"))[0] == status, query


async def test_export_that_fails_at_once_is_a_problem(api, ids, blobs):
    blobs.broken = True
    for format_ in ("npz", "label-studio"):
        assert (await api("GET", f"{PATH}?format={format_}"))[0] == 503


async def test_export_that_fails_in_the_middle_is_seen_to_be_broken(api, ids, blobs, caplog):
    oldest, content = next(iter(blobs.blobs.items()))
    blobs.blobs[oldest] = b"\xff" * len(content)
    async with api.client.get(f"{PATH}?format=label-studio") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert "an export broke off: a frame of" in caplog.text
    # The service is as well as before.
    blobs.blobs[oldest] = content
    assert len(json.loads((await fetched(api, "format=label-studio"))[1])) == 40
