import pytest

from edge_agent.uplink import outbox
from edge_agent.uplink.outbox import Outbox
from shared.errors import StorageFull
from shared.ids import new_id, uuid7
from shared.messages import Report, UpdateOutcome
from tests.sim.disk import fill, read_only, small_disk


def report(version="v2", *, made_ms=None):
    return Report(
        report_id=new_id() if made_ms is None else uuid7(made_ms, bytes(10)),
        task="digits",
        version=version,
        bundle_sha256="0" * 64,
        from_version="v1",
        outcome=UpdateOutcome.ACTIVATED,
    )


def test_reports_wait_until_acknowledged_oldest_first(tmp_path):
    box = Outbox(tmp_path / "out")
    reports = [report(f"v{i}") for i in range(4)]
    for each in reports:
        box.put(each)
    assert box.waiting() == reports
    box.acknowledge([reports[1].report_id, new_id()])
    box.acknowledge([reports[1].report_id])
    assert box.waiting() == [reports[0], *reports[2:]]


def test_reports_survive_a_restart_and_acknowledged_ones_stay_gone(tmp_path):
    box = Outbox(tmp_path / "out")
    first, second = report("v1"), report("v2")
    box.put(first)
    box.put(second)
    box.acknowledge([first.report_id])
    assert Outbox(tmp_path / "out").waiting() == [second]


def test_report_put_again_replaces_itself(tmp_path):
    box = Outbox(tmp_path / "out")
    first = report()
    box.put(first)
    later = first.model_copy(update={"seconds": 9.0})
    box.put(later)
    assert box.waiting() == [later] == Outbox(tmp_path / "out").waiting()


def test_oldest_goes_when_there_are_too_many(tmp_path):
    box = Outbox(tmp_path / "out")
    reports = [report(made_ms=made) for made in range(outbox.MAX_REPORTS + 2)]
    for each in reports:
        box.put(each)
    assert box.waiting() == reports[2:] == Outbox(tmp_path / "out").waiting()


def test_report_that_cannot_be_read_is_dropped_alone(tmp_path, caplog):
    box = Outbox(tmp_path / "out")
    sound = report()
    box.put(sound)
    (tmp_path / "out" / f"{new_id()}.report").write_bytes(b"\xa1\x00")
    assert Outbox(tmp_path / "out").waiting() == [sound]
    assert "is dropped" in caplog.text
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_full_disk_keeps_the_report_in_memory(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        box = Outbox(disk / "out")
        fill(disk)
        first = report()
        with pytest.raises(StorageFull):
            box.put(first)
        assert box.waiting() == [first]
        box.acknowledge([first.report_id])
        assert box.waiting() == []


def test_read_only_disk_does_not_stop_an_acknowledgement(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        box = Outbox(disk / "out")
        first = report()
        box.put(first)
        with read_only(disk):
            box.acknowledge([first.report_id])
        assert box.waiting() == []
