"""What the uplink's tests do not tell of `Arrivals`: what it says of foreign messages."""

import logging

import pytest

from edge_agent.ledger import Ledger
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from edge_agent.uplink.arrivals import Arrivals
from edge_agent.uplink.correlation import Correlation
from edge_agent.uplink.outbox import Outbox
from shared import messages
from shared.ids import new_id
from shared.messages import Reason, Receipt, SampleHeader
from shared.mqtt import Received
from shared.topics import Channel
from tests.sim.cloud import verdict


@pytest.fixture
def arrivals(tmp_path):
    spool = Spool(tmp_path / "spool", SpoolSettings())
    yield Arrivals(
        {"verdicts": Channel.VERDICT, "receipts": Channel.RECEIPT},
        spool=spool,
        outbox=Outbox(tmp_path / "outbox"),
        ledger=Ledger(tmp_path / "ledger.json"),
        correlation=Correlation(),
        addressee=None,
    )
    spool.close()


def test_message_on_another_topic_is_ignored_and_said_once(arrivals, caplog):
    for number in range(3):
        arrivals.take(Received(f"elsewhere/{number}", b""))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "a message on elsewhere/0 came down to a device and is ignored" in caplog.text


def test_glance_leaves_what_is_not_a_verdict_that_somebody_waits_for(arrivals):
    header = SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )
    assert not arrivals.glance(Received("receipts", messages.encode(Receipt())))
    assert not arrivals.glance(Received("verdicts", b"\xff"))
    assert not arrivals.glance(Received("verdicts", messages.encode(verdict(header))))
    assert not arrivals.glance(Received("elsewhere", messages.encode(verdict(header))))
