"""A spool of the first releases is taken over with all that waits in it."""

import sqlite3

import numpy as np
import pytest

from edge_agent.spool.connection import PAGE_BYTES, connect
from edge_agent.spool.layout import LAYOUT, lay_out
from edge_agent.spool.segments import Segments
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from shared import codec, messages
from shared.errors import StorageFull
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.sim.clock import SimulatedClock
from tests.sim.disk import fill, small_disk

TENSOR = np.arange(256, dtype=np.uint16)
FIRST_LAYOUT = """
CREATE TABLE items (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, value REAL NOT NULL, created_s REAL NOT NULL,
    segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, crc INTEGER NOT NULL,
    header BLOB NOT NULL
);
CREATE INDEX by_value ON items (value, number);
"""


def header(hardness=0.5, *, reason=Reason.HARD):
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=hardness, reason=reason
    )


def first_release(folder, headers, *, spoil=()):
    """A spool as the first releases left it when they were killed: rows in the database and in its log."""
    folder.mkdir()
    database = sqlite3.connect(folder / "spool.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    database.executescript(FIRST_LAYOUT)
    segments = Segments(folder / "segments", segment_bytes=65536, live={})
    for index, each in enumerate(headers):
        place = segments.append(codec.encode(TENSOR))
        value = each.hardness if each.reason is Reason.AUDIT else 1.0 + each.hardness
        where = (place.segment, place.offset, place.length, place.crc)
        packed = b"\xff" * 40 if index in spoil else messages.encode(each)
        database.execute(
            "INSERT INTO items (id, value, created_s, segment, offset, length, crc, header) VALUES (?,?,?,?,?,?,?,?)",
            (each.sample_id.bytes, value, 1e9 + index, *where, packed),
        )
        if index == len(headers) // 2:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")
    segments.close()
    database.execute("PRAGMA wal_checkpoint(PASSIVE)")
    database.close()
    return [each.sample_id for each in headers]


def opened(folder, **settings):
    clock, wall = SimulatedClock(), SimulatedClock(start=1e9 + 1_000.0)
    return Spool(folder, SpoolSettings(**settings), monotonic=clock, wall=wall)


def drained(spool):
    got = []
    while batch := spool.due(50):
        got += batch
        spool.acknowledge([each.header.sample_id for each in batch])
    return got


def ids(samples):
    return [each.header.sample_id for each in samples]


def test_spool_of_the_first_releases_is_delivered_whole(tmp_path, caplog):
    caplog.set_level("INFO")
    headers = [header(0.3 + index / 1_000) for index in range(203)]
    put = first_release(tmp_path / "spool", headers)
    spool = opened(tmp_path / "spool")
    assert spool.state().items == 203
    got = drained(spool)
    assert ids(got) == put
    assert [each.header for each in got] == headers
    assert [each.age_s for each in got[:3]] == [1_000.0, 999.0, 998.0]
    np.testing.assert_array_equal(got[-1].tensor, TENSOR)
    assert spool.state().evicted == {}
    assert caplog.text.count("203 samples that wait were taken over") == 1
    spool.close()


def test_taken_over_spool_has_this_releases_layout_and_goes_on(tmp_path):
    put = first_release(tmp_path / "spool", [header() for _ in range(30)])
    spool = opened(tmp_path / "spool")
    more = header()
    spool.put(more, TENSOR)
    spool.close()
    database = sqlite3.connect(tmp_path / "spool" / "spool.db")
    assert database.execute("PRAGMA user_version").fetchone() == (LAYOUT,)
    assert database.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("SELECT name FROM sqlite_master WHERE name LIKE '%items%'").fetchall() == [("items",)]
    database.close()
    again = opened(tmp_path / "spool")
    assert ids(drained(again)) == [*put, more.sample_id]
    again.close()


def test_worth_of_what_is_taken_over_is_on_the_new_scale(tmp_path):
    audits = [header(0.9, reason=Reason.AUDIT) for _ in range(2)]
    harder, less_hard = [header(0.9) for _ in range(2)], [header(0.1) for _ in range(2)]
    first_release(tmp_path / "spool", [*harder, *audits, *less_hard])
    cost = len(codec.encode(TENSOR)) + 600
    spool = opened(tmp_path / "spool", max_bytes=6 * cost)
    new = [header(0.4) for _ in range(5)]
    for each in new:
        spool.put(each, TENSOR)
    assert ids(drained(spool)) == [each.sample_id for each in [*harder, *new[1:]]]
    spool.close()


def test_damaged_header_in_the_old_layout_is_given_up_alone(tmp_path):
    put = first_release(tmp_path / "spool", [header() for _ in range(3)], spoil={1})
    spool = opened(tmp_path / "spool")
    assert ids(drained(spool)) == [put[0], put[2]]
    assert spool.state().evicted == {"damaged": 1}
    spool.close()


def test_taking_over_goes_on_after_a_crash_at_any_moment(tmp_path):
    put = first_release(tmp_path / "spool", [header() for _ in range(230)])
    crashes = 0
    for instructions in range(200, 40_000, 500):
        database = connect(tmp_path / "spool" / "spool.db")
        (layout,) = database.execute("PRAGMA user_version").fetchone()
        database.set_progress_handler(lambda: 1, instructions)  # gives up after so many instructions of a statement
        try:
            lay_out(database, layout)
            break
        except sqlite3.OperationalError:
            crashes += 1
        finally:
            database.close()
    assert crashes > 3
    spool = opened(tmp_path / "spool")
    assert ids(drained(spool)) == put
    spool.close()


def test_taking_over_needs_no_more_than_the_reserve_on_a_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=8192) as disk:
        put = first_release(disk / "spool", [header() for _ in range(300)])
        with open(disk / "spool" / "reserve", "wb") as reserve:  # as that release held it
            reserve.write(b"\0" * 256 * 1024)
        fill(disk)
        spool = opened(disk / "spool")
        assert set(ids(drained(spool))) >= set(put)
        spool.close()


def test_disk_without_any_room_is_storage_full_and_loses_nothing(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=8192) as disk:
        put = first_release(disk / "spool", [header() for _ in range(300)])
        ballast = fill(disk)
        with pytest.raises(StorageFull, match="full or read-only"):
            opened(disk / "spool")
        ballast.unlink()
        spool = opened(disk / "spool")
        assert ids(drained(spool)) == put
        spool.close()


def test_large_database_keeps_its_pages_until_less_waits(tmp_path):
    headers = [header() for _ in range(3)]
    first_release(tmp_path / "spool", headers)
    database = sqlite3.connect(tmp_path / "spool" / "spool.db", isolation_level=None)
    # So large that writing it anew would hold up the start.
    database.execute("UPDATE items SET header = zeroblob(2000000)")
    database.close()
    spool = opened(tmp_path / "spool")
    pages = sqlite3.connect(tmp_path / "spool" / "spool.db")
    assert pages.execute("PRAGMA page_size").fetchone() == (4096,)
    pages.close()
    assert drained(spool) == []
    assert spool.state().evicted == {"damaged": 3}
    spool.close()
    spool = opened(tmp_path / "spool")
    pages = sqlite3.connect(tmp_path / "spool" / "spool.db")
    assert pages.execute("PRAGMA page_size").fetchone() == (PAGE_BYTES,)
    pages.close()
    spool.close()


def test_spool_of_a_later_release_is_put_aside(tmp_path, caplog):
    spool = opened(tmp_path / "spool")
    spool.put(header(), TENSOR)
    spool.close()
    database = sqlite3.connect(tmp_path / "spool" / "spool.db", isolation_level=None)
    database.execute(f"PRAGMA user_version={LAYOUT + 1}")
    database.close()
    spool = opened(tmp_path / "spool")
    assert spool.state().items == 0
    assert f"of a later release: layout {LAYOUT + 1}" in caplog.text
    assert (tmp_path / "spool" / "spool.db.damaged").exists()
    spool.close()
