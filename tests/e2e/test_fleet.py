"""A simulated fleet against two replicas of the service: what the load is, and what may break under it.

Devices keep a sample until somebody named it, so the rule is the same whatever breaks: what a device was told is
stored is in the store exactly once, and what it still holds arrives in the end. The tests share the replicas, one after
the other; each has devices of its own.
"""

import os
import sqlite3
import time
from random import Random

import pytest

from tests.e2e.cloud_process import Cloud
from tests.e2e.fleet_scene import Replicas, check_nothing_lost, under_load
from tests.harness import Mosquitto, Processes, find_mosquitto
from tests.harness import free_port as a_free_port
from tests.harness.brokers import NO_MOSQUITTO
from tests.harness.lines import standing_still
from tests.harness.postgres import NO_POSTGRES, Postgres, find_postgres
from tests.sim.disk import fill, small_disk

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

# Minutes of faults rather than seconds: EDGELOOP_LONG_FAULTS=1 pytest tests/e2e/test_fleet.py
LONG = bool(os.environ.get("EDGELOOP_LONG_FAULTS"))
LOAD_S = 120 if LONG else 3
OUTAGE_S = 60.0 if LONG else 2.5
CRASHES = 60 if LONG else 3
# After minutes of crashes there is much to catch up with, and devices that repeat everything each second make it more.
DRAIN_S, RESEND_S = (400, 5) if LONG else (60, 1)
if LONG:
    pytestmark[1] = pytest.mark.timeout(900)


class Field:
    """A broker, two replicas on one store, and room for fleets."""

    def __init__(self, folder, broker, processes, **urls):
        self.folder, self.broker, self.processes = folder, broker, processes
        self.replicas = Replicas(Cloud(folder / "cloud", broker, a_free_port(), processes), a_free_port(), **urls)
        self.replicas.start()

    def load(self, name, *options, duration_s=LOAD_S):
        basic = ["--devices", "40", "--rate", "4", "--duration", str(duration_s)]
        basic += ["--resend-after", str(RESEND_S), "--drain", str(DRAIN_S)]
        return under_load(name, self.processes, self.broker, self.folder / name, *basic, *options)


@pytest.fixture(scope="module")
def shared_field(tmp_path_factory):
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    folder = tmp_path_factory.mktemp("fleet")
    processes = Processes(folder / "processes")
    try:
        with Mosquitto(folder / "mosquitto") as broker:
            yield Field(folder, broker, processes)
            processes.close()
    finally:
        processes.close()


@pytest.fixture
def field(shared_field, request):
    failed = request.session.testsfailed
    shared_field.replicas.wait_until_up()
    before = len(shared_field.replicas.logs())
    yield shared_field
    if request.session.testsfailed > failed:
        print(shared_field.processes.tails())
    assert "Traceback" not in shared_field.replicas.logs()[before:]


def test_two_replicas_share_the_load_and_bad_frames_disturb_nobody(field):
    options = ("--churn", "12", "--duplicates", "0.1", "--malformed", "0.2", "--deadline-ms", "5000")
    before = field.replicas.counts()
    with field.load("rough", *options) as fleet:
        report = fleet.report()
    check_nothing_lost(field.replicas, fleet, strangers=report["spoilt"]["flipped"])
    assert report["duplicates"] > 10
    assert report["disconnects"] > 45  # forty leave in the end
    assert sum(report["spoilt"].values()) > 30
    assert report["unreadable"] == report["refused"] == 0
    taken = [counts["samples"] - before[name]["samples"] for name, counts in field.replicas.counts().items()]
    assert min(taken) > 0.3 * sum(taken), taken


def test_replicas_killed_at_random_lose_nothing(field):
    rng = Random(11)
    with field.load("killed", "--rate", "4" if LONG else "10", duration_s=LOAD_S + 1) as fleet:
        for _ in range(CRASHES):
            field.replicas.kill_and_start(rng.choice("ab"))
            time.sleep(rng.uniform(0.3, 1.2) * (4 if LONG else 1))  # the moment of the next crash
        field.replicas.wait_until_up()
        fleet.report(timeout=LOAD_S + DRAIN_S)
    check_nothing_lost(field.replicas, fleet)


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_broker_that_goes_away_under_load_loses_nothing(field, how):
    with field.load(f"broker-{how}") as fleet:
        if how == "kill":
            field.broker.kill()
            time.sleep(1.0)  # an outage, not a blink
            field.broker.start()
        else:
            field.broker.restart()
        report = fleet.report(timeout=LOAD_S + DRAIN_S)
    check_nothing_lost(field.replicas, fleet)
    assert report["disconnects"] >= 40


def test_partition_loses_nothing(field):
    with field.load("partition") as fleet:
        with standing_still(field.broker):
            time.sleep(OUTAGE_S)  # longer than the devices wait for an answer
        fleet.report(timeout=LOAD_S + DRAIN_S)
    check_nothing_lost(field.replicas, fleet)


def test_database_that_takes_no_writes_for_a_while_loses_nothing(field):
    with field.load("database") as fleet:
        database = sqlite3.connect(field.replicas.database.partition("///")[2], isolation_level=None, timeout=30)
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(OUTAGE_S)  # the outage
        database.execute("ROLLBACK")
        database.close()
        fleet.report(timeout=LOAD_S + DRAIN_S)
    check_nothing_lost(field.replicas, fleet)


@pytest.mark.parametrize("how", ["kill", "restart"] if LONG else ["kill"])
def test_postgres_that_goes_away_under_load_loses_nothing(tmp_path, mosquitto, processes, how):
    if find_postgres() is None:
        pytest.skip(NO_POSTGRES)
    # Not FAST: with synchronous_commit=off a killed server forgets what it said it had.
    with Postgres(settings=["fsync=off"]) as postgres:
        field = Field(tmp_path, mosquitto, processes, database=postgres.url())
        with field.load(f"postgres-{how}") as fleet:
            if how == "kill":
                postgres.kill()
                time.sleep(1.0)  # an outage, not a blink
                postgres.start()
            else:
                postgres.restart()
            field.replicas.kill_and_start("b")
            fleet.report(timeout=LOAD_S + DRAIN_S)
        field.replicas.wait_until_up()
        check_nothing_lost(field.replicas, fleet)
        assert "Traceback" not in field.replicas.logs()
        processes.close()


def test_full_blob_store_takes_no_samples_and_loses_none(tmp_path, mosquitto, processes):
    with small_disk(tmp_path / "blobs", kilobytes=16_384) as disk:
        field = Field(tmp_path, mosquitto, processes, blobs=f"file://{disk}")
        with field.load("full") as fleet:
            ballast = fill(disk)
            time.sleep(1.0)  # the outage
            before = len(field.replicas.stored("full"))
            time.sleep(OUTAGE_S - 1.5)
            assert len(field.replicas.stored("full")) <= before + 5  # what was under way
            ballast.unlink()
            fleet.report(timeout=LOAD_S + DRAIN_S)
        check_nothing_lost(field.replicas, fleet)
        assert "samples cannot be stored" in field.replicas.logs()
        assert "Traceback" not in field.replicas.logs()
        processes.close()
