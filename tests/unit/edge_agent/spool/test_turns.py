from collections import Counter

import pytest

from edge_agent.spool.catalogue import ITEM, Catalogue, Rank
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.turns import Turns
from shared.ids import new_id


class Queue:
    """A catalogue and its turns, on a clock that the test moves."""

    def __init__(self, **settings):
        self.catalogue = Catalogue([], max_age_s=1e6)
        self.turns = Turns(SpoolSettings(**settings))
        self.now = 1_000.0

    def put(self, count=1, *, rank=Rank.HARD, size=100):
        numbers = []
        for _ in range(count):
            numbers.append(self.catalogue.next_number)
            self.catalogue.add(new_id(), created_s=0.0, value=0.5, size=size, segment=1, rank=rank)
        return numbers

    def due(self, limit=1_000, *, deferred=True):
        numbers = self.turns.due(self.catalogue.table, self.now, limit, deferred=deferred)
        for number in numbers:
            self.catalogue.sent(number, self.now)
        return numbers

    def next_due_s(self, *, deferred=True):
        return self.turns.next_due_s(self.catalogue.table, self.now, deferred=deferred)


def test_item_takes_what_the_catalogue_says():
    assert ITEM.itemsize == 56


def test_wanted_go_first_then_the_hard_oldest_first():
    queue = Queue()
    hard = queue.put(2)
    wanted = queue.put(1, rank=Rank.WANTED)
    assert queue.due() == [*wanted, *hard]


def test_six_of_eight_turns_are_the_urgent_ones_while_all_wait():
    queue = Queue(resend_after_s=1.0, resend_cap_s=1.0)
    stubborn = queue.put(20)
    for _ in range(3):
        assert queue.due() == stubborn
        queue.now += 1.0
    urgent, lesser = queue.put(60), [*queue.put(10, rank=Rank.AUDIT), *queue.put(10, rank=Rank.DEFERRED)]
    got = [queue.due(1)[0] for _ in range(80)]
    kinds = ["urgent" if number in urgent else "lesser" if number in lesser else "stubborn" for number in got]
    for start in range(0, 80, 8):
        assert Counter(kinds[start : start + 8]) == {"urgent": 6, "lesser": 1, "stubborn": 1}
    assert [number for number in got if number in lesser] == lesser[:10]  # audits before what was put off


def test_turns_that_nobody_else_wants_are_the_urgent_ones_and_the_other_way_round():
    queue = Queue()
    hard = queue.put(30)
    assert queue.due() == hard
    audits = queue.put(30, rank=Rank.AUDIT)
    assert queue.due() == audits


def test_lesser_ones_are_sent_however_many_urgent_ones_come():
    queue = Queue()
    (audit,) = queue.put(1, rank=Rank.AUDIT)
    for _ in range(8):
        queue.put(1)
        if queue.due(1) == [audit]:
            return
    pytest.fail("an audit waited for ever")


def test_what_nobody_waits_for_lies_until_it_is_asked_for():
    queue = Queue()
    put_off, hard = queue.put(3, rank=Rank.DEFERRED), queue.put(2)
    audits, wanted = queue.put(1, rank=Rank.AUDIT), queue.put(1, rank=Rank.WANTED)
    assert queue.due(deferred=False) == wanted
    assert queue.due(deferred=False) == []
    assert queue.due() == [*hard, *audits, *put_off]


def test_unanswered_sample_comes_again_after_doubling_waits_up_to_the_cap():
    queue = Queue(resend_after_s=10.0, resend_cap_s=35.0)
    put = queue.put()
    for wait in (10.0, 20.0, 35.0, 35.0):
        assert queue.due() == put
        assert queue.next_due_s() == wait
        queue.now += wait - 0.1
        assert queue.due() == []
        queue.now += 0.1
        assert queue.next_due_s() == 0.0


def test_wait_stays_at_the_cap_after_thousands_of_tries():
    queue = Queue(resend_after_s=10.0, resend_cap_s=1e9)
    put = queue.put()
    for _ in range(300):
        assert queue.due() == put
        queue.now += 1e9
    assert queue.due() == put


def test_no_more_than_max_unanswered_within_one_wait():
    queue = Queue(max_unanswered=3, resend_after_s=10.0)
    put = queue.put(8)
    assert queue.due() == put[:3]
    assert queue.due() == []
    queue.catalogue.remove(put[:2])
    assert queue.due() == put[3:5]
    queue.now += 10.0
    assert queue.due() == [put[2], put[3], put[4]]


def test_window_full_of_what_is_never_answered_opens_by_itself():
    queue = Queue(max_unanswered=4, resend_after_s=10.0, resend_cap_s=3_600.0)
    dead = queue.put(4)
    alive = queue.put(40)
    answered = []
    while len(answered) < len(alive):
        while batch := queue.due():
            new = [number for number in batch if number not in dead]
            queue.catalogue.remove(new)
            answered += new
        queue.now += queue.next_due_s()
    assert answered == alive
    assert queue.now - 1_000.0 <= 30.0


def test_thousands_that_are_never_answered_do_not_hold_up_what_is_new():
    queue = Queue(max_unanswered=8, resend_after_s=10.0, resend_cap_s=80.0)
    dead = set(queue.put(400))
    for _ in range(400):
        queue.due()
        queue.now += 10.0
    waited = []
    for _ in range(50):
        (fresh,) = queue.put(1)
        started = queue.now
        while fresh not in queue.due():
            queue.now += queue.next_due_s()
        queue.catalogue.remove([fresh])
        waited.append(queue.now - started)
    assert max(waited) <= 10.0
    sent = queue.catalogue.table
    assert all(sent["sendings"][sent["size"] > 0] > 0)
    assert len(dead) == queue.catalogue.items


def test_next_due_is_none_when_only_something_new_can_change_it():
    queue = Queue()
    assert queue.next_due_s() is None
    put = queue.put(2)
    assert queue.next_due_s() is None
    queue.due()
    queue.catalogue.remove(put)
    assert queue.next_due_s() is None


def test_next_due_of_a_full_window_is_when_it_opens():
    queue = Queue(max_unanswered=2, resend_after_s=10.0)
    queue.put(1)
    queue.due()
    queue.now += 4.0
    queue.put(2)
    queue.due()
    assert queue.due() == []
    assert queue.next_due_s() == 6.0  # for the third; the first is due then as well
    queue.now += 6.0
    assert len(queue.due()) == 1


def test_next_due_ignores_what_may_not_be_sent():
    queue = Queue(resend_after_s=10.0)
    queue.put(1, rank=Rank.DEFERRED)
    assert len(queue.due()) == 1
    assert queue.next_due_s() == 10.0
    assert queue.next_due_s(deferred=False) is None


def test_next_due_never_says_now_when_nothing_is_due():
    queue = Queue(max_unanswered=3, resend_after_s=10.0, resend_cap_s=40.0)
    queue.put(7)
    queue.put(2, rank=Rank.DEFERRED)
    for step in range(400):
        deferred = step % 3 == 0
        while queue.due(2, deferred=deferred):
            pass
        wait = queue.next_due_s(deferred=deferred)
        if wait is None:
            queue.put(1)
            continue
        assert wait > 0.0
        queue.now += wait


def test_due_takes_about_a_megabyte_but_always_one():
    queue = Queue()
    put = queue.put(3, size=500_000) + queue.put(1, size=3_000_000) + queue.put(1, size=10)
    assert [queue.due(), queue.due(), queue.due(), queue.due()] == [put[:2], put[2:3], put[3:4], put[4:]]
