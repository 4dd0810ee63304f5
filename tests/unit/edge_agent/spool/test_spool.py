import sqlite3
from uuid import UUID

import numpy as np
import pytest

from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from shared import codec
from shared.errors import StorageFull
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.sim.clock import SimulatedClock

TENSOR = np.arange(64, dtype=np.uint8).reshape(8, 8)
SIZE = len(codec.encode(TENSOR))
COST = SIZE + 600  # with its row


def header(hardness=0.5, *, reason=Reason.HARD, inclusion=1.0):
    return SampleHeader(
        sample_id=new_id(),
        task="digits",
        seq=1,
        bundle_version="v1",
        prediction=3,
        hardness=hardness,
        reason=reason,
        inclusion_probability=inclusion,
    )


def audit(hardness=0.1, inclusion=0.02):
    return header(hardness, reason=Reason.AUDIT, inclusion=inclusion)


class Bench:
    """A spool on clocks of its own, that can be restarted."""

    def __init__(self, folder):
        self.folder = folder
        self.clock, self.wall = SimulatedClock(), SimulatedClock(start=1e9)
        self.opened = []

    def open(self, **settings):
        spool = Spool(self.folder, SpoolSettings(**settings), monotonic=self.clock, wall=self.wall)
        self.opened.append(spool)
        return spool

    def put(self, spool, *headers):
        for each in headers:
            spool.put(each, TENSOR)
        return [each.sample_id for each in headers]

    def advance(self, seconds):
        self.clock.advance(seconds)
        self.wall.advance(seconds)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path / "spool")
    yield bench
    for spool in bench.opened:
        spool.close()


def ids(samples):
    return [each.header.sample_id for each in samples]


def test_due_gives_each_sample_once_oldest_first(bench):
    spool = bench.open()
    put = bench.put(spool, *(header() for _ in range(5)))
    assert ids(spool.due(3)) == put[:3]
    assert ids(spool.due(10)) == put[3:]
    assert spool.due(10) == []


def test_due_gives_header_tensor_and_age(bench):
    spool = bench.open()
    first = header()
    bench.put(spool, first)
    bench.advance(12.5)
    (item,) = spool.due(1)
    assert (item.header, item.age_s) == (first, 12.5)
    np.testing.assert_array_equal(item.tensor, TENSOR)
    assert item.tensor.dtype == np.uint8


def test_age_is_never_negative_when_the_devices_clock_goes_back(bench):
    spool = bench.open()
    bench.put(spool, header())
    bench.wall.now -= 5000
    assert spool.due(1)[0].age_s == 0.0


def test_acknowledged_samples_are_gone(bench):
    spool = bench.open()
    put = bench.put(spool, *(header() for _ in range(3)))
    assert spool.acknowledge([put[1], new_id()]) == 1
    assert spool.acknowledge([put[1]]) == 0
    assert ids(spool.due(10)) == [put[0], put[2]]
    assert spool.state().items == 2
    assert spool.state().bytes == 2 * COST


def test_refused_sample_is_gone_alone_and_counted(bench):
    spool = bench.open()
    put = bench.put(spool, *(header() for _ in range(3)))
    spool.refuse(put[1])
    spool.refuse(new_id())
    assert ids(spool.due(10)) == [put[0], put[2]]
    assert spool.state().refused == 1


def test_header_is_known_until_the_sample_goes(bench):
    spool = bench.open()
    first = header()
    bench.put(spool, first)
    assert spool.header(first.sample_id) == first
    spool.acknowledge([first.sample_id])
    assert spool.header(first.sample_id) is None


def test_unanswered_sample_is_due_again_after_doubling_waits(bench):
    spool = bench.open(resend_after_s=10.0, resend_cap_s=35.0)
    put = bench.put(spool, header())
    for wait in (10.0, 20.0, 35.0, 35.0):
        assert ids(spool.due(10)) == put
        assert spool.next_due_s() == pytest.approx(wait)
        bench.advance(wait - 0.1)
        assert spool.due(10) == []
        bench.advance(0.1)
        assert spool.next_due_s() == 0.0


def test_overdue_samples_come_before_fresh_ones(bench):
    spool = bench.open(resend_after_s=10.0)
    old = bench.put(spool, header(), header())
    spool.due(10)
    bench.advance(10)
    fresh = bench.put(spool, header(), header())
    assert ids(spool.due(3)) == [*old, fresh[0]]


def test_next_due_is_none_when_nothing_waits_for_an_answer(bench):
    spool = bench.open()
    put = bench.put(spool, header())
    assert spool.next_due_s() is None
    spool.due(1)
    spool.acknowledge(put)
    assert spool.next_due_s() is None


def test_no_more_than_max_unanswered_are_under_way(bench):
    spool = bench.open(max_unanswered=3)
    put = bench.put(spool, *(header() for _ in range(6)))
    assert ids(spool.due(10)) == put[:3]
    assert spool.due(10) == []
    spool.acknowledge(put[:2])
    assert ids(spool.due(10)) == put[3:5]


def test_forget_attempts_makes_everything_due_again_from_the_first_wait(bench):
    spool = bench.open(resend_after_s=10.0)
    put = bench.put(spool, header(), header())
    spool.due(10)
    bench.advance(10)
    spool.due(10)
    spool.forget_attempts()
    assert ids(spool.due(10)) == put
    assert spool.next_due_s() == pytest.approx(10.0)


def test_one_sample_without_an_answer_does_not_hold_up_the_others(bench):
    spool = bench.open(resend_after_s=10.0, max_unanswered=4)
    stuck, *rest = bench.put(spool, *(header() for _ in range(20)))
    answered = []
    for _ in range(20):
        for sample_id in ids(spool.due(4)):
            if sample_id != stuck:
                spool.acknowledge([sample_id])
                answered.append(sample_id)
    assert answered == rest


def test_full_spool_gives_up_audits_first_then_the_least_hard_never_the_most(bench):
    spool = bench.open(max_bytes=4096)
    room = 4096 // COST
    kept = bench.put(spool, *(header(0.6 + index / 1000) for index in range(room - 2)))
    cheap = bench.put(spool, audit(0.4), audit(0.3))
    more = bench.put(spool, header(0.9))
    assert set(ids(spool.due(1000))) == {*kept, cheap[0], *more}
    more += bench.put(spool, header(0.9))
    more += bench.put(spool, header(0.9))
    assert spool.state().items == room
    spool.forget_attempts()
    assert ids(spool.due(1000)) == [*kept[1:], *more]
    assert spool.state().evicted == {"space": 3}


def test_full_spool_keeps_the_rare_before_the_common(bench):
    spool = bench.open(max_bytes=4096)
    common = [header(0.7) for _ in range(4096 // COST - 1)]
    rare = header(0.5)
    for each, rarity in [*((each, 0.0) for each in common), (rare, 0.4)]:
        spool.put(each, TENSOR, rarity=rarity)
    bench.put(spool, *(header(0.8) for _ in common))
    left = ids(spool.due(1000))
    assert rare.sample_id in left
    assert not {each.sample_id for each in common} & set(left)
    assert spool.state().evicted == {"space": len(common)}


def test_full_spool_gives_up_the_older_of_two_alike_but_not_the_harder_for_its_age(bench):
    spool = bench.open(max_bytes=4096, max_age_s=1000.0)
    hard_and_old = bench.put(spool, header(0.9))
    room = 4096 // COST - 1
    alike = []
    for _ in range(room):
        bench.advance(100.0)
        alike += bench.put(spool, header(0.2))
    new = bench.put(spool, header(0.5))
    assert ids(spool.due(1000)) == [*hard_and_old, *alike[1:], *new]


def test_worth_outlives_a_restart(bench):
    first = bench.open(max_bytes=4096)
    rare, plain = header(0.5), [header(0.6) for _ in range(4096 // COST - 1)]
    first.put(rare, TENSOR, rarity=0.9)
    bench.put(first, *plain)
    bench.opened.pop().close()
    spool = bench.open(max_bytes=4096)
    new = bench.put(spool, header(0.7))
    assert ids(spool.due(1000)) == [rare.sample_id, *(each.sample_id for each in plain[1:]), *new]


def test_hard_samples_go_before_audits_that_came_earlier(bench):
    spool = bench.open()
    early = bench.put(spool, audit(), audit())
    late = bench.put(spool, header(), header())
    assert ids(spool.due(1000)) == [*late, *early]


def test_deferred_samples_lie_until_there_is_time_also_after_a_restart(bench):
    first = bench.open()
    put_off = header()
    first.put(put_off, TENSOR, deferred=True)
    earlier, wanted = bench.put(first, header()), header()
    first.put(wanted, TENSOR, sent=True)
    first.not_sent(wanted.sample_id)
    assert ids(first.due(10, deferred=False)) == [wanted.sample_id]
    assert first.next_due_s() == pytest.approx(30.0)
    first.acknowledge([wanted.sample_id, *earlier])
    assert first.next_due_s() is None
    bench.opened.pop().close()
    spool = bench.open()
    assert spool.due(10, deferred=False) == []
    assert ids(spool.due(10)) == [put_off.sample_id]


def test_sample_that_nobody_waits_for_any_more_lies_like_the_others(bench):
    spool, wanted = bench.open(), header()
    spool.put(wanted, TENSOR, sent=True)
    bench.advance(31.0)
    assert ids(spool.due(10, deferred=False)) == [wanted.sample_id]
    spool.nobody_waits(wanted.sample_id)
    bench.advance(1_000.0)
    assert spool.due(10, deferred=False) == []
    assert spool.next_due_s() is None
    assert ids(spool.due(10)) == [wanted.sample_id]


def test_given_up_sample_is_counted_and_gone(bench):
    spool = bench.open()
    one, other = bench.put(spool, header(), header())
    spool.give_up(one, "over_cap")
    spool.give_up(one, "over_cap")
    assert (spool.state().items, spool.state().evicted) == (1, {"over_cap": 1})
    assert ids(spool.due(10)) == [other]


def test_next_due_is_by_what_was_asked_for_last(bench):
    spool = bench.open()
    spool.put(header(), TENSOR, deferred=True)
    assert len(spool.due(10)) == 1
    assert spool.next_due_s() == pytest.approx(30.0)
    assert spool.due(10, deferred=False) == []
    assert spool.next_due_s() is None


def test_header_is_that_of_the_very_id(bench):
    spool = bench.open()
    (put,) = bench.put(spool, header())
    alike = UUID(int=put.int ^ (1 << 100))
    assert spool.header(alike) is None


def test_sample_that_the_caller_sends_itself_is_due_again_only_without_an_answer(bench):
    spool = bench.open(resend_after_s=10.0)
    sent = header()
    spool.put(sent, TENSOR, sent=True)
    assert spool.due(10) == []
    assert spool.next_due_s() == pytest.approx(10.0)
    bench.advance(10.0)
    assert ids(spool.due(10)) == [sent.sample_id]
    assert spool.next_due_s() == pytest.approx(20.0)


def test_sample_somebody_waits_for_goes_first_over_a_new_connection(bench):
    spool = bench.open()
    bench.put(spool, header(), header())
    wanted = header()
    spool.put(wanted, TENSOR, sent=True)
    spool.forget_attempts()
    assert ids(spool.due(10))[0] == wanted.sample_id


def test_sample_nobody_waits_for_after_a_restart_is_one_of_many(bench):
    first = bench.open()
    put = bench.put(first, header())
    wanted = header()
    first.put(wanted, TENSOR, sent=True)
    bench.opened.pop().close()
    assert ids(bench.open().due(10)) == [*put, wanted.sample_id]


def test_samples_that_are_never_answered_hold_up_nobody(bench):
    spool = bench.open(max_unanswered=4, resend_after_s=10.0)
    dead = set(bench.put(spool, *(header() for _ in range(12))))
    for _ in range(20):
        spool.due(100)
        bench.advance(10.0)
    for _ in range(20):
        (fresh,) = bench.put(spool, header())
        while fresh not in ids(spool.due(100)):
            bench.advance(spool.next_due_s())
        spool.acknowledge([fresh])
    assert spool.state().items == len(dead)


def test_many_acknowledged_at_once_all_go(bench):
    spool = bench.open()
    put = bench.put(spool, *(header() for _ in range(100)))
    assert spool.acknowledge([*put[:90], new_id(), *put[:5]]) == 90
    assert spool.state().items == 10
    bench.opened.pop().close()
    assert ids(bench.open().due(100)) == put[90:]


def test_header_of_a_damaged_row_is_none(bench):
    spool = bench.open()
    put = bench.put(spool, header())
    database = sqlite3.connect(bench.folder / "spool.db")
    with database:
        database.execute("UPDATE items SET header = x'ff'")
    database.close()
    assert spool.header(put[0]) is None


def test_row_that_somebody_deleted_is_given_up(bench, caplog):
    spool = bench.open()
    bench.put(spool, header())
    database = sqlite3.connect(bench.folder / "spool.db")
    with database:
        database.execute("DELETE FROM items")
    database.close()
    assert spool.due(10) == []
    assert spool.state().items == 0
    assert "its row is gone" in caplog.text


def test_log_does_not_grow_with_what_passes_through(bench):
    spool = bench.open(max_bytes=1024**2)
    wal, sizes = bench.folder / "spool.db-wal", []
    for _ in range(40):
        put = bench.put(spool, *(header() for _ in range(20)))
        spool.flush()
        spool.acknowledge(put)
        sizes.append(wal.stat().st_size)
    assert max(sizes) < 200_000
    assert (bench.folder / "spool.db").stat().st_size < 100_000


def test_database_is_written_once_a_log_not_at_every_flush(bench):
    spool = bench.open(max_bytes=1024**2)
    database = bench.folder / "spool.db"
    moved = []
    for _ in range(30):
        before = database.read_bytes()
        bench.put(spool, *(header() for _ in range(10)))
        spool.flush()
        moved.append(database.read_bytes() != before)
    assert 0 < sum(moved) <= 30 * 10 * 1024 * 1.5 / 65_536 + 1


def test_rows_that_cannot_be_read_are_not_asked_for_in_a_circle(bench):
    spool = bench.open(resend_after_s=10.0)
    put = bench.put(spool, header())
    assert ids(spool.due(10)) == put
    bench.advance(25.0)
    somebody = sqlite3.connect(bench.folder / "spool.db", isolation_level=None)
    somebody.execute("ALTER TABLE items RENAME TO hidden")
    assert spool.next_due_s() == 0.0
    assert spool.due(10) == []
    assert spool.next_due_s() == 10.0
    somebody.execute("ALTER TABLE hidden RENAME TO items")
    somebody.close()
    bench.advance(10.0)
    assert ids(spool.due(10)) == put


def test_payload_whose_row_is_refused_is_taken_back(bench):
    spool = bench.open()
    kept = bench.put(spool, header())
    (segment,) = (bench.folder / "segments").iterdir()
    before = segment.read_bytes()
    somebody = sqlite3.connect(bench.folder / "spool.db", isolation_level=None)
    somebody.execute("ALTER TABLE items RENAME TO hidden")
    with pytest.raises(StorageFull):
        spool.put(header(), TENSOR)
    assert segment.read_bytes() == before
    somebody.execute("ALTER TABLE hidden RENAME TO items")
    somebody.close()
    assert ids(spool.due(10)) == kept


def test_many_past_their_age_go_in_parts(bench):
    spool = bench.open(max_age_s=100.0)
    bench.put(spool, *(header() for _ in range(100)))
    bench.advance(101.0)
    left = []
    for _ in range(4):
        spool.due(1)
        left.append(spool.state().items)
    assert left == [68, 36, 4, 0]
    assert spool.state().evicted == {"age": 100}


def test_full_spool_refuses_what_is_worth_less_than_all_it_keeps(bench):
    spool = bench.open(max_bytes=4096)
    kept = bench.put(spool, *(header(0.8) for _ in range(4096 // COST)))
    with pytest.raises(StorageFull, match="more valuable"):
        spool.put(header(0.7), TENSOR)
    with pytest.raises(StorageFull):
        spool.put(audit(0.79), TENSOR)
    assert ids(spool.due(1000)) == kept
    assert spool.state().evicted == {"space": 2}


def test_audit_of_every_sample_is_still_worth_less_than_a_hard_one(bench):
    spool = bench.open(max_bytes=4096)
    kept = bench.put(spool, *(header(0.3) for _ in range(4096 // COST)))
    with pytest.raises(StorageFull):
        spool.put(audit(0.45, inclusion=1.0), TENSOR)
    assert ids(spool.due(1000)) == kept


def test_refused_large_sample_pushes_nothing_out(bench):
    spool = bench.open(max_bytes=4096)
    small = bench.put(spool, header(0.5))
    kept = bench.put(spool, *(header(0.9) for _ in range(4096 // COST - 1)))
    with pytest.raises(StorageFull):
        spool.put(header(0.7), np.zeros((40, 40), np.uint8))
    assert ids(spool.due(1000)) == [*small, *kept]


def test_sample_larger_than_the_spool_is_refused_with_the_setting_to_raise(bench):
    spool = bench.open(max_bytes=4096)
    with pytest.raises(StorageFull, match=r"\[spool\] max_bytes = 4,096"):
        spool.put(header(), np.zeros((100, 100), np.uint8))
    assert spool.state().items == 0


def test_clock_that_is_set_changes_no_age(bench):
    spool = bench.open(max_age_s=3600.0)
    put = bench.put(spool, header())
    bench.wall.advance(50 * 365 * 86_400.0)  # the time server answered at last
    bench.advance(60.0)
    (sample,) = spool.due(10)
    assert (sample.header.sample_id, sample.age_s) == (put[0], 60.0)
    bench.advance(3600.0)
    assert spool.due(10) == []
    assert spool.state().evicted == {"age": 1}


@pytest.mark.parametrize("seed", range(3))
def test_spool_stays_within_its_bytes_and_keeps_the_most_valuable(bench, seed):
    rng = np.random.default_rng(seed)
    spool = bench.open(max_bytes=8192)
    room = 8192 // COST
    scores = rng.permutation(500) / 1000 + 0.5
    for score in scores:
        try:
            spool.put(header(float(score)), TENSOR)
        except StorageFull:
            continue
        assert spool.state().bytes <= 8192
    got = sorted(each.header.hardness for each in spool.due(1000))
    assert got == sorted(scores)[-room:]
    assert spool.state().evicted["space"] == 500 - room


def test_samples_past_their_age_are_given_up(bench):
    spool = bench.open(max_age_s=100.0)
    bench.put(spool, header())
    bench.advance(60)
    young = bench.put(spool, header())
    bench.advance(41)
    assert ids(spool.due(10)) == young
    assert spool.state().evicted == {"age": 1}
    assert spool.state().items == 1


def test_restart_keeps_everything_in_order(bench):
    put = bench.put(bench.open(), *(header() for _ in range(10)))
    bench.opened.pop().close()
    spool = bench.open()
    assert (spool.state().items, spool.state().bytes) == (10, 10 * COST)
    assert ids(spool.due(100)) == put


def test_restart_without_a_close_keeps_everything(bench):
    first = bench.open()
    put = bench.put(first, *(header() for _ in range(10)))
    assert ids(bench.open().due(100)) == put


def test_segment_files_go_when_their_samples_are_gone(bench):
    spool = bench.open()
    big = np.zeros((200, 200), np.uint8)
    put = []
    for _ in range(10):
        put.append(header())
        spool.put(put[-1], big)
    folder = bench.folder / "segments"
    assert sum(file.stat().st_size for file in folder.iterdir()) > 10 * big.size
    spool.acknowledge([each.sample_id for each in put])
    spool.close()
    bench.opened.clear()
    bench.open()
    assert list(folder.iterdir()) == []


def test_damaged_payload_is_given_up_alone(bench, caplog):
    first = bench.open()
    put = bench.put(first, *(header() for _ in range(3)))
    first.close()
    bench.opened.clear()
    (segment,) = (bench.folder / "segments").iterdir()
    data = bytearray(segment.read_bytes())
    data[SIZE + 40] ^= 0xFF
    segment.write_bytes(data)
    spool = bench.open()
    assert ids(spool.due(10)) == [put[0], put[2]]
    assert spool.state().evicted == {"damaged": 1}
    assert str(put[1]) in caplog.text


def test_damaged_header_is_given_up_alone(bench):
    first = bench.open()
    put = bench.put(first, *(header() for _ in range(3)))
    first.close()
    bench.opened.clear()
    database = sqlite3.connect(bench.folder / "spool.db")
    with database:
        database.execute("UPDATE items SET header = ? WHERE id = ?", (b"\xa1\x00\x00", put[1].bytes))
    database.close()
    spool = bench.open()
    assert ids(spool.due(10)) == [put[0], put[2]]
    assert spool.state().evicted == {"damaged": 1}


@pytest.mark.parametrize("where", ["start", "middle"])
def test_damaged_database_is_put_aside(bench, caplog, where):
    first = bench.open()
    bench.put(first, *(header() for _ in range(200)))
    first.close()
    bench.opened.clear()
    file = bench.folder / "spool.db"
    data = bytearray(file.read_bytes())
    assert len(data) > 20_000
    if where == "start":
        data[:4096] = b"\xff" * 4096
    else:
        data[4096:] = b"\xff" * (len(data) - 4096)
    file.write_bytes(data)
    spool = bench.open()
    assert (bench.folder / "spool.db.damaged").read_bytes() == bytes(data)
    assert "put aside as spool.db.damaged" in caplog.text
    put = bench.put(spool, header())
    assert ids(spool.due(10)) == put


@pytest.mark.parametrize("flushes", [0, 1, 2])
def test_damaged_database_with_a_log_beside_it_does_not_spoil_the_new_one(bench, flushes):
    first = bench.open()
    for _ in range(flushes + 1):
        bench.put(first, *(header() for _ in range(100)))
        log = (bench.folder / "spool.db-wal").read_bytes()
        first.flush()
    assert len(log) > 10_000
    first.close()
    bench.opened.clear()
    (bench.folder / "spool.db").write_bytes(b"\xff" * 8192)
    (bench.folder / "spool.db-wal").write_bytes(log)
    spool = bench.open()
    assert spool.state().items in (0, 100 * (flushes + 1))  # the log alone may hold everything
    while batch := ids(spool.due(1000)):
        spool.acknowledge(batch)
    put = bench.put(spool, header())
    assert ids(spool.due(10)) == put
    spool.close()
    bench.opened.clear()
    assert ids(bench.open().due(10)) == put


def test_due_gives_about_a_megabyte_at_once_but_always_one(bench):
    spool = bench.open()
    put = []
    for size in (600_000, 400_000, 200_000, 3_000_000, 10):
        put.append(header())
        spool.put(put[-1], np.zeros(size, np.uint8))
    batches = [ids(spool.due(100)) for _ in range(4)]
    wanted = [each.sample_id for each in put]
    assert batches == [wanted[:2], wanted[2:3], wanted[3:4], wanted[4:]]


def test_damaged_samples_do_not_hide_the_sound_ones_behind_them(bench):
    first = bench.open()
    put = bench.put(first, *(header() for _ in range(7)))
    first.close()
    bench.opened.clear()
    (segment,) = (bench.folder / "segments").iterdir()
    segment.write_bytes(b"\xff" * (5 * SIZE) + segment.read_bytes()[5 * SIZE :])
    spool = bench.open()
    assert ids([*spool.due(2), *spool.due(2)]) == put[5:]


def test_payload_that_cannot_be_read_now_stays_and_comes_again_with_the_next_connection(bench):
    first = bench.open()
    put = bench.put(first, header())
    first.close()
    bench.opened.clear()
    (segment,) = (bench.folder / "segments").iterdir()
    spool = bench.open()
    segment.rename(bench.folder / "aside")
    segment.mkdir()  # opening it fails as a failing disk does
    assert spool.due(10) == []
    segment.rmdir()
    (bench.folder / "aside").rename(segment)
    spool.forget_attempts()
    assert ids(spool.due(10)) == put


def test_sample_from_before_a_restart_without_a_clock_is_given_up_in_time(bench):
    put = bench.put(bench.open(), header())
    bench.opened.pop().close()
    bench.wall.now -= 30 * 365 * 86_400.0  # the device woke up in the past
    spool = bench.open(max_age_s=3600.0)
    assert ids(spool.due(10)) == put
    bench.wall.advance(30 * 365 * 86_400.0)
    bench.advance(60.0)
    spool.due(10)
    bench.advance(3700.0)
    spool.due(10)
    assert spool.state().evicted == {"age": 1}
