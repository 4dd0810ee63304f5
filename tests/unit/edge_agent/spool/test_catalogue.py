import numpy as np
import pytest

from edge_agent.spool.catalogue import Catalogue, Rank, mark
from shared.ids import new_id

DAY = 86_400.0


def add(catalogue, value=0.5, *, created_s=0.0, size=100, segment=1, rank=Rank.HARD):
    sample_id = new_id()
    catalogue.add(sample_id, created_s=created_s, value=value, size=size, segment=segment, rank=rank)
    return sample_id


def filled(*values, **kept):
    catalogue = Catalogue([], max_age_s=30 * DAY)
    return catalogue, [add(catalogue, value, **kept) for value in values]


def test_added_samples_are_found_by_id_and_counted():
    catalogue, ids = filled(0.1, 0.2, 0.3, size=70)
    assert [catalogue.find([each]) for each in ids] == [[1], [2], [3]]
    assert sorted(catalogue.find([ids[2], new_id(), ids[0]])) == [1, 3]
    assert catalogue.find([new_id()]) == []
    assert catalogue.find([]) == []
    assert (catalogue.items, catalogue.bytes) == (3, 210)
    assert catalogue.segments() == {1: 3}


def test_removed_samples_are_gone_once():
    catalogue, ids = filled(0.1, 0.2, 0.3, segment=9)
    assert catalogue.remove([2, 2, 77]) == [9]
    assert catalogue.remove([2]) == []
    assert catalogue.find(ids) == [1, 3]
    assert (catalogue.items, catalogue.bytes) == (2, 200)


def test_sample_that_was_not_sent_after_all_has_one_try_less_and_one_that_is_gone_changes_nobody():
    catalogue, _ = filled(0.1, 0.2)
    for _ in range(2):
        catalogue.sent(1, 5.0)
        catalogue.sent(2, 5.0)
    catalogue.not_sent(1)
    assert catalogue.table["tries"].tolist() == [1, 2]
    catalogue.remove([1])
    catalogue.not_sent(1)
    assert catalogue.table["tries"].tolist() == [1, 2]
    assert (catalogue.created_s(1), catalogue.created_s(2)) == (None, 0.0)


def test_numbers_rise_and_go_on_after_what_was_there():
    rows = [(4, mark(new_id()), 0.0, 0.0, 0.5, 100, 1, 0, 0, Rank.HARD), (7, 5, 0.0, 0.0, 0.5, 50, 2, 0, 0, Rank.AUDIT)]
    catalogue = Catalogue(rows, max_age_s=DAY)
    assert (catalogue.next_number, catalogue.items, catalogue.bytes) == (8, 2, 150)
    assert catalogue.segments() == {1: 1, 2: 1}
    sample_id = add(catalogue)
    assert catalogue.find([sample_id]) == [8]


def test_memory_of_samples_that_are_gone_is_used_again():
    catalogue = Catalogue([], max_age_s=DAY)
    for _ in range(5_000):
        sample_id = add(catalogue)
        assert catalogue.remove(catalogue.find([sample_id])) == [1]
    assert len(catalogue.table) <= 64
    many = [add(catalogue) for _ in range(5_000)]
    assert sorted(catalogue.find(many[:-3])) == list(range(5_001, 9_998))
    catalogue.remove(catalogue.find(many[:-3]))
    assert len(catalogue.table) <= 2 * 64
    assert len(catalogue.find(many)) == 3


def test_least_valuable_leave_first_and_the_older_among_equals():
    catalogue, _ = filled(0.5, 0.2, 0.9, 0.2, 0.3)
    assert catalogue.leaving(100, 1.0, 0.0) == [2]
    assert catalogue.leaving(350, 1.0, 0.0) == [2, 4, 5, 1]
    assert catalogue.leaving(100, 0.2, 0.0) == [2]
    assert catalogue.leaving(100, 0.19, 0.0) is None
    assert catalogue.leaving(300, 0.29, 0.0) is None
    assert catalogue.leaving(501, 1.0, 0.0) is None


def test_oldest_of_very_many_equals_leaves():
    catalogue, _ = filled(*[0.5] * 300)
    assert catalogue.leaving(100, 0.5, 0.0) == [1]
    assert catalogue.leaving(29_950, 0.5, 0.0) == list(range(1, 301))


def test_list_of_the_least_valuable_stays_short():
    catalogue, _ = filled(*[0.5] * 100)
    assert catalogue.leaving(100, 1.0, 0.0) == [1]
    for step in range(1_000):
        add(catalogue, 0.4 - step / 10_000)
    assert len(catalogue._least) <= 128
    assert catalogue.leaving(100, 1.0, 0.0) == [1_100]


def test_age_makes_a_sample_worth_less_by_its_share_of_the_longest():
    catalogue = Catalogue([], max_age_s=10 * DAY)
    add(catalogue, 0.5, created_s=0.0)
    add(catalogue, 0.3, created_s=3 * DAY)
    assert catalogue.leaving(100, 9.0, 4 * DAY) == [1]
    add(catalogue, 0.3, created_s=1 * DAY)
    assert catalogue.leaving(100, 9.0, 4 * DAY) == [3]
    assert catalogue.leaving(200, 9.0, 4 * DAY) == [3, 1]


def test_never_simply_the_oldest_leaves():
    catalogue = Catalogue([], max_age_s=10 * DAY)
    add(catalogue, 0.9, created_s=0.0)
    add(catalogue, 0.1, created_s=5 * DAY)
    assert catalogue.leaving(100, 0.5, 6 * DAY) == [2]


def test_clock_that_was_set_moves_all_times_and_none_into_the_future():
    catalogue = Catalogue([], max_age_s=10 * DAY)
    add(catalogue, 0.5, created_s=DAY)
    add(catalogue, 0.1, created_s=20 * DAY)
    assert catalogue.leaving(100, 9.0, 30 * DAY) == [1]
    catalogue.shift(5 * DAY, 7 * DAY)
    assert catalogue.table["created_s"].tolist() == [6 * DAY, 7 * DAY]
    assert catalogue.leaving(100, 9.0, 30 * DAY) == [2]


def test_older_than_gives_no_more_than_asked_and_no_gone_ones():
    catalogue = Catalogue([], max_age_s=DAY)
    for created_s in (5.0, 1.0, 9.0, 2.0, 3.0):
        add(catalogue, created_s=created_s)
    catalogue.remove([2])
    assert catalogue.older_than(5.0, 10) == [4, 5]
    assert catalogue.older_than(9.5, 2) == [1, 3]


@pytest.mark.parametrize("seed", range(4))
def test_leaving_agrees_with_sorting_all(seed):
    rng = np.random.default_rng(seed)
    catalogue, model = Catalogue([], max_age_s=1_000.0), {}
    for step in range(1_500):
        now = float(step)
        if rng.random() < 0.7 or not model:
            value, size = float(rng.integers(0, 50)) / 10, int(rng.integers(1, 300))
            number = catalogue.next_number
            add(catalogue, value, created_s=now, size=size)
            model[number] = (value + now / 1_000.0, size)
        elif rng.random() < 0.5:
            number = int(rng.choice(list(model)))
            del model[number]
            assert catalogue.remove([number]) == [1]
        needed, value = int(rng.integers(1, 2_000)), float(rng.integers(0, 60)) / 10
        wanted, freed = [], 0
        for number in sorted(model, key=lambda each: (model[each][0], each)):
            if freed >= needed or model[number][0] > value + now / 1_000.0:
                break
            wanted.append(number)
            freed += model[number][1]
        assert catalogue.leaving(needed, value, now) == (wanted if freed >= needed else None)
        if freed >= needed and rng.random() < 0.5:
            catalogue.remove(wanted)
            for number in wanted:
                del model[number]
    assert catalogue.items == len(model)
    assert catalogue.bytes == sum(size for _, size in model.values())
