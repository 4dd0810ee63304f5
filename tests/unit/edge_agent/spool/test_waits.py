"""Nothing that the spool does beside it holds up a sample that is put: not a flush, not a clock, not a slow disk."""

import os
import shutil
import sqlite3
import threading
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest

from edge_agent.spool import late
from edge_agent.spool.late import Late
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from edge_agent.status import read_status
from shared.errors import StorageFull
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.sim.clock import SimulatedClock

TENSOR = np.arange(64, dtype=np.uint8)


def header():
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )


def put(spool, count=1):
    headers = [header() for _ in range(count)]
    for each in headers:
        spool.put(each, TENSOR)
    return [each.sample_id for each in headers]


def ids(samples):
    return [each.header.sample_id for each in samples]


def killed(folder, name="after"):
    """The spool as the next start finds it, had this process been killed now."""
    shutil.copytree(folder, folder.with_name(name))
    return Spool(folder.with_name(name), SpoolSettings())


@contextmanager
def database_busy_with_itself(folder):
    """As while the flush begins the log anew: nobody else may write."""
    with closing(sqlite3.connect(folder / "spool.db", isolation_level=None)) as flushing:
        flushing.execute("BEGIN IMMEDIATE")
        yield
        flushing.execute("ROLLBACK")


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path / "spool", SpoolSettings())
    yield spool
    spool.close()


def test_sample_put_while_the_database_is_busy_waits_for_nothing_and_is_safe_at_once(spool, tmp_path):
    before = put(spool)
    with database_busy_with_itself(tmp_path / "spool"):
        began = time.monotonic()
        during = put(spool, 3)
        assert time.monotonic() - began < 0.5  # SQLite would wait for five seconds
        assert ids(spool.due(10)) == [*before, *during]
        assert spool.header(during[0]).sample_id == during[0]
    with closing(killed(tmp_path / "spool")) as after:
        assert ids(after.due(10)) == [*before, *during]
    spool.flush()
    assert (tmp_path / "spool" / "late").stat().st_size == 0
    with closing(killed(tmp_path / "spool", "later")) as after:
        assert ids(after.due(10)) == [*before, *during]


def test_sample_let_go_while_the_database_is_busy_is_gone_for_good(spool, tmp_path):
    (before,) = put(spool)
    with database_busy_with_itself(tmp_path / "spool"):
        (during,) = put(spool)
        began = time.monotonic()
        assert spool.acknowledge([before, during]) == 2
        assert time.monotonic() - began < 0.5
        assert spool.state().items == 0
    (late_one, *_) = put(spool)
    spool.flush()
    with closing(killed(tmp_path / "spool")) as after:
        assert ids(after.due(10)) == [late_one]


def test_late_sample_that_is_let_go_before_it_has_joined_does_not_come_back(spool, tmp_path):
    with database_busy_with_itself(tmp_path / "spool"):
        put_late = put(spool, 2)
    spool.acknowledge(put_late)
    spool.flush()
    with closing(killed(tmp_path / "spool")) as after:
        assert after.state().items == 0


def test_late_rows_of_a_run_that_was_killed_join_even_where_the_disk_refuses_at_first(spool, tmp_path, caplog):
    before = put(spool)
    with database_busy_with_itself(tmp_path / "spool"):
        put_late = put(spool)
    shutil.copytree(tmp_path / "spool", tmp_path / "after")
    with closing(sqlite3.connect(tmp_path / "after" / "spool.db", isolation_level=None)) as failing:
        failing.execute("CREATE TRIGGER failing BEFORE INSERT ON items BEGIN SELECT RAISE(ABORT, 'failing'); END")
        with closing(killed(tmp_path / "after", "meanwhile")) as meanwhile:
            assert ids(meanwhile.due(10)) == [*before, *put_late]
            failing_too = sqlite3.connect(tmp_path / "meanwhile" / "spool.db", isolation_level=None)
            failing_too.execute("DROP TRIGGER failing")
            failing_too.close()
        assert "1 rows that were put late join the others at a later start" in caplog.text
        failing.execute("DROP TRIGGER failing")
    with closing(Spool(tmp_path / "after", SpoolSettings())) as later:
        assert ids(later.due(10)) == [*before, *put_late]


def test_database_that_stays_busy_is_a_disk_that_takes_no_more(spool, tmp_path, caplog):
    with database_busy_with_itself(tmp_path / "spool"):
        put(spool, late.MAX_LATE)
        with pytest.raises(StorageFull, match="locked"):
            put(spool)
    spool.flush()
    assert spool.state().items == late.MAX_LATE
    put(spool)


def test_late_rows_are_read_as_far_as_they_are_whole(tmp_path):
    rows = Late(tmp_path / "late")
    values = [(number, bytes(16), 0.5, 1.0, 1, 0, 10, 7, 1, b"h") for number in (1, 2)]
    for each in values:
        rows.put(each)
    rows.close()
    assert Late(tmp_path / "late").rows == {1: values[0], 2: values[1]}
    whole = (tmp_path / "late").read_bytes()
    for cut in range(len(whole)):
        (tmp_path / "late").write_bytes(whole[:cut])
        assert list(Late(tmp_path / "late").rows) == ([1] if cut >= len(whole) // 2 else [])
    (tmp_path / "late").write_bytes(whole[:-1] + b"\xff")
    again = Late(tmp_path / "late")
    assert list(again.rows) == [1]
    again.clear()
    assert Late(tmp_path / "late").rows == {}


def test_log_is_begun_anew_though_samples_keep_coming(tmp_path):
    spool = Spool(tmp_path / "spool", SpoolSettings(max_bytes=1024**2))
    stop = threading.Event()

    def keep_putting():
        while not stop.is_set():
            spool.acknowledge(put(spool))

    thread = threading.Thread(target=keep_putting)
    thread.start()
    log = tmp_path / "spool" / "spool.db-wal"
    try:
        sizes = []
        for _ in range(60):
            time.sleep(0.01)
            spool.flush()
            sizes.append(log.stat().st_size)
    finally:
        stop.set()
        thread.join()
        spool.close()
    assert max(sizes) < 2 * 1024**2


def test_samples_are_put_while_a_slow_disk_gives_what_is_due(spool, tmp_path):
    (first,) = put(spool)
    (segment,) = (tmp_path / "spool" / "segments").iterdir()
    segment.rename(segment.with_suffix(".elsewhere"))
    os.mkfifo(segment)  # opening it waits, as a disk may
    reader = threading.Thread(target=spool.due, args=(10,))
    reader.start()
    second = put(spool)  # with the lock held by the reader this would wait for ever
    assert reader.is_alive()
    with open(segment, "wb"):
        pass
    reader.join(10)
    segment.unlink()
    segment.with_suffix(".elsewhere").rename(segment)
    spool.forget_attempts()
    assert ids(spool.due(10)) == [first, *second]


def test_sample_let_go_while_it_was_read_is_no_damage(spool):
    stop = threading.Event()

    def keep_reading():
        while not stop.is_set():
            spool.forget_attempts()
            spool.due(16)

    reader = threading.Thread(target=keep_reading)
    reader.start()
    for _ in range(200):
        spool.acknowledge(put(spool, 4))
    stop.set()
    reader.join()
    assert (spool.state().items, spool.state().evicted) == (0, {})


def test_clock_that_is_set_changes_no_row_and_every_age_also_after_a_restart(tmp_path):
    clock, wall = SimulatedClock(), SimulatedClock(1_000.0)
    options = {"monotonic": clock, "wall": wall}
    folder = tmp_path / "state" / "spool"
    spool = Spool(folder, SpoolSettings(), **options)

    def advance(seconds):
        clock.advance(seconds)
        wall.advance(seconds)

    def on_disk():
        with closing(sqlite3.connect(folder / "spool.db")) as database:
            return database.execute("SELECT created_s FROM items ORDER BY number").fetchall()

    put(spool, 2)
    advance(100.0)
    wall.advance(50 * 365 * 86_400.0)  # the network told the time
    spool.due(1)
    put(spool)
    advance(100.0)
    wall.now -= 7_200.0  # and somebody set it back
    spool.due(1)
    put(spool)
    advance(11.0)
    raw = on_disk()
    assert [created for (created,) in raw[:2]] == [1_000.0] * 2
    spool.forget_attempts()
    assert [round(each.age_s) for each in spool.due(10)] == [211, 211, 111, 11]
    spool.close()
    with closing(Spool(folder, SpoolSettings(), **options)) as after:
        assert [round(each.age_s) for each in after.due(10)] == [211, 211, 111, 11]
        assert on_disk() == raw
    assert status_of(tmp_path, wall)["oldest_age_s"] == pytest.approx(211.0)


def test_shifts_that_hold_for_no_sample_any_more_are_forgotten(tmp_path):
    clock, wall = SimulatedClock(), SimulatedClock(1_000.0)
    spool = Spool(tmp_path / "spool", SpoolSettings(), monotonic=clock, wall=wall)
    for _ in range(5):
        spool.acknowledge(put(spool))
        clock.advance(20.0)
        wall.advance(5_000.0)
        spool.due(1)
    put(spool)
    with closing(sqlite3.connect(tmp_path / "spool" / "spool.db")) as database:
        (count,) = database.execute("SELECT COUNT(*) FROM shifts").fetchone()
    assert count <= 1
    spool.close()


def status_of(folder, wall):
    (folder / "agent.toml").write_text(
        'site = "a"\ndevice = "b"\nstate_dir = "state"\n[tasks.t]\nbundle = "none.bundle"\n'
    )
    return read_status(folder / "agent.toml", wall=wall)["spool"]
