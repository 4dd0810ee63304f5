import logging
from uuid import UUID

import pytest

from edge_agent.uplink import pending
from edge_agent.uplink.correlation import Correlation
from edge_agent.uplink.pending import Pending
from shared import codec
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.sim.cloud import verdict


def header():
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )


def asked(known, count, *, received=True, reference=None):
    headers = [header() for _ in range(count)]
    for each in headers:
        known.ask(each, reference=reference, until_s=None)
    if received:
        known.received([each.sample_id for each in headers])
    return headers


def restarted(file):
    known = Correlation()
    return known, Pending(file, known)


@pytest.mark.parametrize("reference", [7, "mine", None])
def test_sample_that_the_cloud_has_is_known_after_a_restart_with_its_reference(tmp_path, reference):
    known, kept = restarted(tmp_path / "pending")
    (one,) = asked(known, 1, reference=reference)
    kept.save()
    later, _ = restarted(tmp_path / "pending")
    delivered = later.deliver(verdict(one))
    assert (delivered.header, delivered.reference) == (one, reference)
    assert later.deliver(verdict(one)) is None


def test_what_lies_in_the_spool_or_was_answered_is_not_written_down(tmp_path):
    known, kept = restarted(tmp_path / "pending")
    (spooled,) = asked(known, 1, received=False)
    (answered,) = asked(known, 1)
    known.deliver(verdict(answered))
    kept.save()
    assert not (tmp_path / "pending").exists()
    asked(known, 1)
    kept.save()
    later, _ = restarted(tmp_path / "pending")
    assert later.deliver(verdict(spooled)) is None
    assert later.deliver(verdict(answered)) is None


def test_only_the_newest_are_written_down_and_an_empty_list_is_no_file(tmp_path):
    known, kept = restarted(tmp_path / "pending")
    headers = asked(known, pending.MAX_PENDING + 1)
    kept.save()
    later, kept_later = restarted(tmp_path / "pending")
    assert later.deliver(verdict(headers[0])) is None
    for each in headers[1:]:
        assert later.deliver(verdict(each)) is not None
    kept_later.save()
    assert not (tmp_path / "pending").exists()


@pytest.mark.parametrize("reference", [2**70, "x" * 2_000])
def test_reference_that_is_too_large_is_left_out(tmp_path, reference):
    known, kept = restarted(tmp_path / "pending")
    (one,) = asked(known, 1, reference=reference)
    kept.save()
    later, _ = restarted(tmp_path / "pending")
    assert later.deliver(verdict(one)).reference is None


@pytest.mark.parametrize(
    "found", [b"", b"\xff", codec.encode(7), codec.encode([[1, 2]]), codec.encode([[UUID(int=7), b"", None]])]
)
def test_file_that_cannot_be_read_is_said_and_forgotten(tmp_path, caplog, found):
    (tmp_path / "pending").write_bytes(found)
    known, _ = restarted(tmp_path / "pending")
    assert known.unanswered() == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_disk_that_refuses_is_said_and_stops_nothing(tmp_path, caplog):
    known, kept = restarted(tmp_path / "nowhere" / "pending")
    asked(known, 2)
    kept.save()
    assert "2 samples that wait for a verdict are forgotten" in caplog.text
