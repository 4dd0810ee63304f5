"""What people bring back: which label counts, and which rows cannot be read, each with its number and why."""

import json
from uuid import UUID

import pytest

from cloud_service.labelling import returned
from cloud_service.labelling.returned import Chosen, Fault, agreed, from_label_studio, from_table, read, slim

A, B = UUID(int=0xA), UUID(int=0xB)


def choice(*labels: str, name: str = "label") -> dict:
    return {"type": "choices", "from_name": name, "to_name": "sample", "value": {"choices": list(labels)}}


def annotation(*labels: str, at: str | None = None, **more) -> dict:
    return {"result": [choice(*labels)], **({"updated_at": at} if at else {}), **more}


def task(sample_id: UUID, *annotations: dict) -> dict:
    return {"id": 7, "data": {"sample_id": str(sample_id), "image": "data:…"}, "annotations": list(annotations)}


def labels(found: returned.Returned) -> dict[UUID, str | int]:
    return {each.id: each.label for each in found.chosen}


def test_label_of_each_task_is_found():
    found = from_label_studio([task(A, annotation("cat")), task(B, annotation("dog"))])
    assert found.chosen == (Chosen(1, A, "cat"), Chosen(2, B, "dog"))
    assert found.faults == ()


def test_newest_annotation_counts_whatever_its_place_and_zone():
    old, new = "2026-11-24T10:00:00Z", "2026-11-24T09:30:00.5-01:00"
    for pair in ((annotation("cat", at=old), annotation("dog", at=new)),) * 2:
        assert labels(from_label_studio([task(A, *pair)])) == {A: "dog"}
        assert labels(from_label_studio([task(A, *reversed(pair))])) == {A: "dog"}
    # The same sample imported twice is two tasks.
    assert labels(from_label_studio([task(A, annotation("dog", at=new)), task(A, annotation("cat", at=old))])) == {
        A: "dog"
    }


def test_cancelled_and_empty_annotations_do_not_count():
    late = "2026-11-24T12:00:00Z"
    cancelled = annotation("dog", at=late, was_cancelled=True)
    empty = {"result": [], "updated_at": late}
    nothing = annotation(at=late)
    found = from_label_studio(
        [task(A, annotation("cat", at="2026-11-24T10:00:00Z"), cancelled, empty, nothing), task(B, cancelled)]
    )
    assert (labels(found), found.unlabelled, found.faults) == ({A: "cat"}, 1, ())


def test_task_without_annotations_is_counted_as_unlabelled():
    found = from_label_studio(
        [task(A), {"data": {"sample_id": str(B)}}, {"data": {"sample_id": str(B)}, "annotations": None}]
    )
    assert (found.chosen, found.unlabelled) == ((), 3)


def test_other_controls_beside_the_label_are_left_alone():
    mixed = {"result": [choice("blurred", name="quality"), choice("cat"), {"type": "rectanglelabels", "value": {}}]}
    assert labels(from_label_studio([task(A, mixed)])) == {A: "cat"}
    renamed = {"result": [choice("cat", name="class")]}
    assert labels(from_label_studio([task(A, renamed)])) == {A: "cat"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (3, "no task"),
        ({"data": {"image": "…"}, "annotations": []}, "not exported by edgeloop"),
        ({"data": {"sample_id": 5}, "annotations": []}, "not exported by edgeloop"),
        ({"data": [], "annotations": []}, "not exported by edgeloop"),
        ({"label": "cat"}, "not exported by edgeloop"),
        ({"data": {"sample_id": str(A)}, "annotations": {}}, None),
        ({"data": {"sample_id": str(A)}, "annotations": {"a": 1}}, "no list of annotations"),
        ({"data": {"sample_id": str(A)}, "annotations": [5]}, "no list of annotations"),
        (task(A, {"result": "cat"}), "result is no list"),
        (task(A, {"result": ["cat"]}), "result is no list"),
        (task(A, {"result": [{"type": "choices", "from_name": "label", "value": "cat"}]}), "no list of labels"),
        (
            task(A, {"result": [{"type": "choices", "from_name": "label", "value": {"choices": [1]}}]}),
            "no list of labels",
        ),
        (task(A, annotation("cat", "dog")), "several labels"),
        (task(A, {"result": [choice("cat"), choice("dog")]}), "several labels"),
        (task(A, annotation("cat"), annotation("dog")), "nothing says which is newer"),
        ({"sample_id": str(A), "label": {"choices": ["cat", "dog"]}}, "several labels"),
        ({"data": {"sample_id": "sample 5"}, "annotations": [annotation("cat")]}, "its id is no sample's"),
    ],
)
def test_task_that_cannot_be_read_is_named_and_the_others_are_taken(row, why):
    found = from_label_studio([task(B, annotation("dog")), row])
    assert labels(found) == {B: "dog"}
    assert [(fault.row, why in fault.why) for fault in found.faults] == ([] if why is None else [(2, True)])


def test_json_min_is_read_too():
    rows = [
        {"sample_id": str(A), "label": "cat", "updated_at": "2026-11-24T10:00:00Z"},
        {"sample_id": str(A), "label": "dog", "updated_at": "2026-11-24T11:00:00Z"},
        {"sample_id": str(B)},
    ]
    found = from_label_studio(rows)
    assert (labels(found), found.unlabelled) == ({A: "dog"}, 1)


@pytest.mark.parametrize(
    "text",
    [
        f"{A},cat\n{B},dog\n",
        f"id,label\n{A},cat\n{B},dog",
        f"\ufeffid,label\r\n{A},cat\r\n\r\n{B},dog\r\n",
        f'label,more,ID\n"cat","a,b",{A}\ndog,,{B}\n',
        f"id,sample_id,choice\n1,{A},cat\n2,{B},dog\n",
        f"id,label\n{A},cat\n{A},cat\n{str(B).upper()}, dog \n",
        f"id,label,updated_at\n{A},dog,2026-11-24T10:00:00Z\n{A},cat,2026-11-24T11:00:00Z\n{B},dog,whenever\n",
    ],
)
def test_tables_are_read_as_people_write_them(text):
    found = read(text.encode())
    assert (labels(found), found.faults) == ({A: "cat", B: "dog"}, ())


def test_rows_of_a_table_that_cannot_be_read_have_their_line_and_reason():
    found = from_table(f"id,label\n{A},cat\n\nlonely\nx,dog\n{B},\n{A},dog\n")
    assert found.chosen == ()
    assert found.unlabelled == 1
    assert [(fault.row, fault.id) for fault in found.faults] == [(4, None), (5, "x"), (7, str(A))]
    assert str(found.faults[1]) == "row 5 (x): its id is no sample's"


def test_cell_may_hold_a_picture():
    assert labels(read(f"sample_id,label,image\n{A},cat,{'x' * 300_000}\n".encode())) == {A: "cat"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": 1}', "list of tasks"),
        (b"\xff\xfe", "not text"),
        (b"name,colour\nx,y\n", None),
        (b"a,b,c\n1,2,3\n", "the columns id and label"),
        (b"id,colour\n1,2\n", "the columns id and label"),
        (b'"open', "not CSV"),
    ],
)
def test_files_of_another_kind_are_refused(content, words):
    if words is None:
        assert read(content).faults[0].why == "its id is no sample's"
        return
    with pytest.raises(ValueError, match=words):
        read(content)


def test_nothing_is_nothing():
    assert read(b"") == read(b"[]") == returned.Returned()


def test_slim_file_says_the_same_without_the_pictures():
    tasks = [task(A, annotation("cat")), task(B), {"sample_id": str(A), "label": "cat"}, 3]
    content = json.dumps(tasks).encode()
    small = slim(content)
    assert b"image" not in small
    assert read(small) == read(content)
    for same in (b"id,label\n", b"[", b'{"a": 1}', b"[" * 100_000):
        assert slim(same) == same


def test_batch_that_contradicts_itself_is_a_fault():
    found = agreed([Chosen(1, A, 3), Chosen(2, B, "cat"), Chosen(3, A, 4)])
    assert labels(found) == {B: "cat"}
    assert found.faults == (Fault(3, "labelled 3 in row 1 and 4 in row 3, and nothing says which is newer", str(A)),)
