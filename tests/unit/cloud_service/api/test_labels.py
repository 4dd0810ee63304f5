"""Labels of people through the API: taken whole or not at all, and they win over the teacher."""

import json
from uuid import UUID, uuid4
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from cloud_service.storage.samples import Answer, NewSample, SampleFilter
from tests.sim.bundles import LABELS, sample
from tests.sim.device import header

PATH = "/api/v1/samples/labels"
TEACHER_SAYS = 3


@pytest.fixture
async def ids(samples):
    """Ids of six samples; the teacher has called the first five 3."""
    made = [NewSample("cam-1", header(seq=n, prediction=n), sample(n)) for n in range(6)]
    await samples.add(made)
    says = np.full(10, 0.05, np.float32)
    says[TEACHER_SAYS] = 0.55
    ids = [each.header.sample_id for each in made]
    await samples.answer([(each, Answer(says, "t1")) for each in ids[:5]])
    return ids


async def human(samples) -> dict[UUID, tuple[int, str]]:
    rows = await samples.page(SampleFilter(labelled=True), before=None, limit=100)
    return {row.id: (row.human_label, row.labelled_by) for row in rows}


def batch(*rows: tuple[object, object], **more) -> dict:
    return {"labels": [{"id": str(sample_id), "label": label} for sample_id, label in rows], **more}


async def test_labels_are_stored_by_name_and_by_index(api, ids, samples):
    status, told = await api("POST", PATH, json=batch((ids[0], "7"), (ids[1], 8), by="anna"))
    assert (status, told["labelled"], told["refused"]) == (200, 2, [])
    assert await human(samples) == {ids[0]: (7, "anna"), ids[1]: (8, "anna")}
    await api("POST", PATH, json=batch((ids[0], "6")))
    assert (await human(samples))[ids[0]] == (6, "api")


async def test_correction_wins_over_the_teacher_in_summary_filters_and_training(api, ids, samples):
    await api("POST", PATH, json=batch((ids[0], "7"), (ids[5], "1")))
    _, summary = await api("GET", "/api/v1/samples/summary")
    assert (summary["total"], summary["answered"], summary["labelled"]) == (6, 6, 2)
    assert {(g["label"], g["count"], g["labelled"]) for g in summary["groups"]} == {(3, 4, 0), (7, 1, 1), (1, 1, 1)}
    _, page = await api("GET", "/api/v1/samples?label=7")
    assert [item["id"] for item in page["items"]] == [str(ids[0])]
    # What the teacher said stays on record.
    assert page["items"][0]["verdict"]["label"] == TEACHER_SAYS
    _, histograms = await api("GET", "/api/v1/samples/histograms")
    assert [each["count"] for each in histograms["classes"]] == [0, 1, 0, 4, 0, 0, 0, 1, 0, 0]

    training = await samples.training_set("digits", limit=100)
    learnt = {int(x.argmax()): int(p.argmax()) for x, p in zip(training.x, training.probabilities, strict=True)}
    assert learnt == {0: 7, 1: 3, 2: 3, 3: 3, 4: 3, 5: 1}
    assert training.probabilities[0, 7] == 1.0


WRONG = {
    "no such sample": (uuid4(), "7"),
    "no label 'nine'": (None, "nine"),
    "no label 10": (None, 10),
}


@pytest.mark.parametrize("why", WRONG)
async def test_one_wrong_row_stores_nothing_unless_it_may_be_skipped(api, ids, samples, why):
    sample_id, label = WRONG[why]
    rows = ((ids[0], "7"), (sample_id or ids[1], label), (ids[2], "8"))
    status, problem = await api("POST", PATH, json=batch(*rows))
    assert (status, why in problem["detail"], "row 2" in problem["detail"]) == (422, True, True)
    assert await human(samples) == {}
    status, told = await api("POST", PATH, json=batch(*rows, skip=True))
    assert (told["labelled"], told["refused_total"]) == (2, 1)
    assert (told["refused"][0]["row"], why in told["refused"][0]["why"]) == (2, True)
    assert set(await human(samples)) == {ids[0], ids[2]}


WRONG_BATCHES = [
    {},
    {"labels": []},
    {"labels": [{"id": "5", "label": "1"}]},
    {"labels": [{"id": str(uuid4()), "label": 1.5}]},
    {"labels": [{"id": str(uuid4()), "label": True}]},
    {"labels": [{"id": str(uuid4()), "label": -1}]},
    {"labels": [{"id": str(uuid4()), "label": "1", "note": "x"}]},
    {"labels": [{"id": str(uuid4()), "label": "1"}], "by": ""},
    [],
]


async def test_wrong_batches_are_refused(api):
    for body in WRONG_BATCHES:
        assert (await api("POST", PATH, json=body))[0] == 422, body


async def test_long_lists_of_faults_are_cut(api):
    status, problem = await api("POST", PATH, json=batch(*((uuid4(), "1") for _ in range(30))))
    assert (status, problem["detail"].count("no such sample"), "and 20 more" in problem["detail"]) == (422, 10, True)
    status, problem = await api("POST", PATH, json={"labels": [{"id": "x", "label": "1"}] * 500})
    assert (status, "and 490 more" in problem["detail"], len(problem["detail"]) < 2_000) == (422, True, True)


async def test_bodies_over_the_limit_are_refused_before_they_are_read_whole(api, ids):
    for path in (PATH, f"{PATH}/import"):
        assert (await api("POST", path, data=b" " * 200_001))[0] == 413


def exported(*rows: tuple[UUID, str]) -> list[dict]:
    """What Label Studio's JSON export has of a labelled task."""
    result = {"id": "a", "type": "choices", "from_name": "label", "to_name": "sample", "origin": "manual"}
    return [
        {
            "id": number,
            "data": {"sample_id": str(sample_id), "image": "data:image/png;base64,"},
            "annotations": [
                {
                    "completed_by": 1,
                    "was_cancelled": False,
                    "updated_at": "2026-11-24T10:00:00Z",
                    "result": [{**result, "value": {"choices": [label]}}],
                }
            ],
        }
        for number, (sample_id, label) in enumerate(rows)
    ]


async def test_files_of_label_studio_and_tables_are_imported(api, ids, samples):
    tasks = exported((ids[0], "7"), (ids[1], "8"))
    tasks.append({"data": {"sample_id": str(ids[2])}, "annotations": []})
    status, told = await api("POST", f"{PATH}/import", json=tasks)
    assert (status, told["labelled"], told["unlabelled"]) == (200, 2, 1)
    table = f"id,label\n{ids[3]},5\n".encode()
    _, told = await api("POST", f"{PATH}/import?by=ben", data=table, headers={"Content-Type": "text/csv"})
    assert told["labelled"] == 1
    studio = "label-studio"
    assert await human(samples) == {ids[0]: (7, studio), ids[1]: (8, studio), ids[3]: (5, "ben")}


async def test_file_with_a_wrong_row_is_refused_whole_or_taken_without_it(api, ids, samples):
    tasks = [*exported((ids[0], "7"), (uuid4(), "8"), (ids[1], "bird")), {"data": {}, "annotations": []}]
    status, problem = await api("POST", f"{PATH}/import", json=tasks)
    assert status == 422
    assert all(f"row {row}" in problem["detail"] for row in (2, 3, 4))
    assert await human(samples) == {}
    _, told = await api("POST", f"{PATH}/import?skip=true", json=tasks)
    assert (told["labelled"], [refused["row"] for refused in told["refused"]]) == (1, [2, 3, 4])


async def test_files_that_are_neither_are_refused(api):
    for content in (b"{", b"[1", b'{"a": 1}', b"\xff", b"a,b,c\n"):
        assert (await api("POST", f"{PATH}/import", data=content))[0] == 422, content


async def test_export_goes_to_label_studio_and_comes_back(api, ids, samples):
    async with api.client.get("/api/v1/samples/export?format=label-studio") as response:
        tasks = json.loads(await response.read())
    for task in tasks:
        # Somebody agrees with the teacher where there is one, else with the edge.
        task["annotations"] = [{"result": task["predictions"][0]["result"], "was_cancelled": False}]
    _, told = await api("POST", f"{PATH}/import", json=tasks)
    assert told["labelled"] == 6
    assert {label for label, _ in (await human(samples)).values()} == {3, 5}


async def test_config_has_the_tasks_labels(api):
    async with api.client.get("/api/v1/samples/label-config") as response:
        assert response.content_type == "application/xml"
        view = ET.fromstring(await response.text())
    assert [choice.get("value") for choice in view.iter("Choice")] == list(LABELS)
    assert (await api("GET", "/api/v1/samples/label-config?task=sounds"))[0] == 404
