"""The spool against a disk that is full or gone, for real; killed and without power: tests/e2e/test_spool_kill.py."""

import sqlite3
import subprocess
import sys
import time
from uuid import UUID

import numpy as np
import pytest

from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from shared.errors import StorageFull
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.harness import ROOT
from tests.sim.disk import fill, small_disk

TENSOR = np.arange(4096, dtype=np.uint16)


def header():
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=1536) as folder:
        yield folder


def put_until_full(spool):
    """Ids that were put before the disk took no more."""
    put = []
    with pytest.raises(StorageFull, match="free some space"):
        for _ in range(10_000):
            each = header()
            spool.put(each, TENSOR)
            put.append(each.sample_id)
    return put


def drain(spool):
    got = []
    while batch := spool.due(50):
        got += [each.header.sample_id for each in batch]
        spool.acknowledge([each.header.sample_id for each in batch])
    return got


def test_full_disk_is_one_clear_error_and_loses_nothing_that_was_put(disk, caplog):
    spool = Spool(disk / "spool", SpoolSettings())
    put = put_until_full(spool)
    assert len(put) > 20
    for _ in range(20):
        with pytest.raises(StorageFull):
            spool.put(header(), TENSOR)
    assert caplog.text.count("samples are not kept, inference goes on; free some space") == 1
    assert spool.state().items == len(put)
    spool.close()
    after = Spool(disk / "spool", SpoolSettings())
    assert drain(after) == put
    after.close()


def test_full_disk_is_freed_by_what_the_cloud_takes(disk, caplog):
    caplog.set_level("INFO")
    spool = Spool(disk / "spool", SpoolSettings())
    put = put_until_full(spool)
    assert drain(spool) == put
    spool.flush()
    again = header()
    spool.put(again, TENSOR)
    assert drain(spool) == [again.sample_id]
    assert caplog.text.count("takes samples again") == 1
    spool.close()


def test_disk_filled_by_somebody_else_stops_neither_reading_nor_acknowledging(disk):
    spool = Spool(disk / "spool", SpoolSettings(resend_after_s=0.001))
    put = []
    for _ in range(20):
        put.append(header())
        spool.put(put[-1], TENSOR)
    ids = [each.sample_id for each in put]
    ballast = fill(disk)
    put_until_full(spool)
    got = set()
    for _ in range(10):
        batch = [each.header.sample_id for each in spool.due(50)]
        got |= set(batch)
        for sample_id in batch:
            spool.acknowledge([sample_id])
            spool.refuse(sample_id)
        spool.flush()
        time.sleep(0.002)
    assert got >= set(ids)
    ballast.unlink()
    spool.flush()
    spool.forget_attempts()
    drain(spool)
    assert spool.state().items == 0
    spool.put(header(), TENSOR)
    spool.close()


def test_full_disk_and_full_spool_together_still_are_storage_full(disk):
    spool = Spool(disk / "spool", SpoolSettings(max_bytes=100_000, max_age_s=0.001))
    for _ in range(12):
        spool.put(header(), TENSOR)
    fill(disk)
    raised = 0
    for _ in range(300):
        try:
            spool.put(header(), TENSOR)
        except StorageFull:
            raised += 1
        spool.due(10)
    assert raised > 0
    spool.close()


def test_rows_that_cannot_be_read_are_nothing_due_for_a_while_and_come_back(tmp_path, caplog):
    spool = Spool(tmp_path / "spool", SpoolSettings(resend_after_s=10.0))
    first, second = header(), header()
    spool.put(first, TENSOR)
    assert len(spool.due(10)) == 1
    spool.put(second, TENSOR)
    somebody = sqlite3.connect(tmp_path / "spool" / "spool.db", isolation_level=None)
    somebody.execute("ALTER TABLE items RENAME TO hidden")
    assert spool.due(10) == []
    assert spool.next_due_s() > 1.0
    assert spool.header(first.sample_id) is None
    assert spool.acknowledge([first.sample_id]) == 0
    assert caplog.text.count("the spool's disk takes no more") == 1
    somebody.execute("ALTER TABLE hidden RENAME TO items")
    somebody.close()
    assert drain(spool) == [second.sample_id]
    assert spool.acknowledge([first.sample_id]) == 1
    spool.close()


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from shared.errors import StorageFull
from shared.ids import new_id
from shared.messages import Reason, SampleHeader

spool = Spool(Path(sys.argv[1]), SpoolSettings())
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
refused = 0
for _ in range(500):
    header = SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )
    try:
        spool.put(header, np.zeros(100, np.uint8))
    except StorageFull:
        refused += 1
        continue
    print(header.sample_id)
assert refused > 0, "the limit was never met"
spool.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.put(header.model_copy(update={"sample_id": new_id()}), np.zeros(100, np.uint8))
"""


def test_file_size_limit_refuses_and_ends(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "spool")], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    put = [UUID(line) for line in done.stdout.split()]
    assert len(put) > 50
    spool = Spool(tmp_path / "spool", SpoolSettings())
    got = drain(spool)
    spool.close()
    assert got[: len(put)] == put
    assert len(got) == len(put) + 1
