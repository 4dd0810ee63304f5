"""Labels held against what is stored and served."""

from uuid import UUID

from cloud_service.labelling.corrections import index_of, listing, resolve, unknown
from cloud_service.labelling.returned import Chosen, Fault

A, B, C = (UUID(int=number) for number in range(3))
LABELS = {"pets": ("cat", "dog"), "digits": ("1", "0")}


def test_names_become_indices_of_the_samples_own_task():
    chosen = [Chosen(1, A, "dog"), Chosen(2, B, "1"), Chosen(3, C, 1)]
    found = resolve(chosen, tasks={A: "pets", B: "digits", C: "digits"}, labels=LABELS)
    # "1" is a name, and the first of its task; 1 is an index.
    assert found.labels == ((A, 1), (B, 0), (C, 1))
    assert found.faults == ()


def test_what_cannot_be_taken_says_why():
    chosen = [Chosen(1, A, "dog"), Chosen(2, B, "dog"), Chosen(4, C, 2), Chosen(5, UUID(int=9), "dog")]
    found = resolve(chosen, tasks={A: "pets", B: "sounds", C: "pets"}, labels=LABELS)
    assert found.labels == ((A, 1),)
    assert [(fault.row, fault.why) for fault in found.faults] == [
        (2, "this service serves no task sounds"),
        (4, "pets has no label 2; it has cat, dog"),
        (5, "no such sample is stored"),
    ]


def test_index_of_what_is_no_label_is_none():
    assert [index_of(label, ("cat", "dog")) for label in (0, 1, 2, -1, "cat", "bird", "0")] == [
        0,
        1,
        None,
        None,
        0,
        None,
        None,
    ]


def test_long_lists_are_cut():
    assert unknown("x", "t", [str(n) for n in range(30)]).endswith("18, 19, …")
    faults = [Fault(row, "why") for row in range(1, 14)]
    assert listing(faults).endswith("row 10: why; and 3 more")
    assert listing(faults[:2]) == "row 1: why; row 2: why"
