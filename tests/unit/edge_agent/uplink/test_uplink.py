"""The uplink against a broker in memory."""

import asyncio
import contextlib
import logging
import time
from random import Random

import numpy as np
import pytest

from edge_agent.ledger import Ledger
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from edge_agent.uplink.correlation import Correlation
from edge_agent.uplink.outbox import Outbox
from edge_agent.uplink.settings import UplinkSettings
from edge_agent.uplink.uplink import Address, Uplink
from shared import messages
from shared.ids import new_id
from shared.messages import (
    BundleReference,
    Desired,
    DeviceState,
    LedgerBytes,
    Reason,
    Receipt,
    Refusal,
    Report,
    SampleHeader,
    SpoolState,
    Target,
    Telemetry,
    UpdateOutcome,
    Verdict,
)
from shared.mqtt import BrokerSettings
from tests.harness import eventually
from tests.sim.broker import SimulatedBroker
from tests.sim.cloud import MessageCloud, accept, agree, refuse, silence, verdict

TENSOR = np.arange(64, dtype=np.uint8).reshape(8, 8)
TOPIC = "edgeloop/v1/demo/cam-1/"


class Bench:
    """An uplink with a listener that writes down what it hears."""

    def __init__(self, folder, *, telemetry_s=100.0, ledger=None, settings=None, **spool):
        self.broker = SimulatedBroker()
        self.spool = Spool(folder / "spool", SpoolSettings(**spool))
        self.outbox = Outbox(folder / "outbox")
        self.ledger = ledger or Ledger(folder / "ledger.json")
        self.correlation = Correlation()
        self.verdicts: list[Verdict] = []
        self.wishes: list[Desired] = []
        self.version = "v1"
        self.with_deferred = True
        self.uplink = Uplink(
            Address("demo", "cam-1"),
            connect=self.broker.connect,
            broker=BrokerSettings(reconnect_first_s=0.01, reconnect_cap_s=0.02),
            spool=self.spool,
            outbox=self.outbox,
            ledger=self.ledger,
            correlation=self.correlation,
            listener=self,
            settings=settings or UplinkSettings(),
            telemetry_interval_s=telemetry_s,
            send_deferred=lambda: self.with_deferred,
            rng=Random(1),
        )

    # uplink.Listener
    def verdict(self, verdict):
        self.verdicts.append(verdict)
        self.spool.acknowledge([verdict.sample_id])

    def desired(self, desired):
        self.wishes.append(desired)

    def state(self):
        return DeviceState(online=True, agent_version=self.version)

    def telemetry(self, *, seq):
        return Telemetry(seq=seq, uptime_s=1.0, tasks={}, ledger=LedgerBytes(), spool=SpoolState())

    def header(self, seq=0):
        return SampleHeader(
            sample_id=new_id(),
            task="digits",
            seq=seq,
            bundle_version="v1",
            prediction=3,
            hardness=0.5,
            reason=Reason.HARD,
        )

    def put(self, count=1, *, deferred=False):
        headers = [self.header(seq) for seq in range(count)]
        for header in headers:
            self.spool.put(header, TENSOR, deferred=deferred)
        self.uplink.wake()
        return headers

    def ask(self, *, seconds=60.0):
        """A sample that somebody waits for."""
        header = self.header()
        self.correlation.ask(header, reference=None, until_s=time.perf_counter() + seconds)
        return header

    def send_now(self, header, tensor=TENSOR):
        return self.uplink.send_now(header, tensor)

    async def connected(self):
        await eventually(lambda: self.uplink.connected, timeout=10, what="there is a connection")

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def delivered(self):
        await self.left(0)

    async def left(self, items):
        await eventually(lambda: self.spool.state().items == items, timeout=10, what=f"{items} samples wait")

    def down(self, channel, payload, *, retain=False):
        self.broker.publish(TOPIC + channel, payload, retain=retain)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.spool.close()


async def test_sample_goes_up_and_leaves_the_spool_with_its_verdict(bench):
    async with MessageCloud(bench.broker.connect, "demo", answer=agree) as cloud, bench.running():
        (header,) = bench.put()
        await bench.delivered()
    ((got, tensor),) = cloud.samples[header.sample_id]
    assert got.model_copy(update={"age_ms": 0}) == header
    assert 0 <= got.age_ms < 10_000
    np.testing.assert_array_equal(tensor, TENSOR)
    assert [each.sample_id for each in bench.verdicts] == [header.sample_id]


async def test_receipt_lets_go_too(bench):
    async with MessageCloud(bench.broker.connect, "demo", answer=accept), bench.running():
        bench.put(3)
        await bench.delivered()
    assert bench.verdicts == []


@pytest.mark.parametrize(("expiry_s", "told"), [(3_600, True), (0, False)])
async def test_verdict_published_while_the_device_is_away_waits_for_it_at_the_broker(tmp_path, expiry_s, told):
    bench = Bench(tmp_path, settings=UplinkSettings(session_expiry_s=expiry_s))
    async with MessageCloud(bench.broker.connect, "demo", answer=accept):
        async with bench.running():
            (header,) = bench.put()
            await bench.delivered()  # the receipt came: nothing is sent again that the verdict could answer
        bench.down("verdict", messages.encode(verdict(header, 4)))
        async with bench.running():
            await bench.connected()
            await bench.broker.wait_for(TOPIC + "state", count=2)
            for _ in range(20):
                await asyncio.sleep(0)
    assert [each.sample_id for each in bench.verdicts] == ([header.sample_id] if told else [])
    bench.spool.close()


async def test_receipt_marks_what_is_still_to_be_answered(bench):
    async with MessageCloud(bench.broker.connect, "demo", answer=accept), bench.running():
        header = bench.ask(seconds=0.0)
        bench.spool.put(header, TENSOR)
        bench.uplink.wake()
        await bench.delivered()
    assert bench.correlation.unanswered() == [(header, None)]


async def test_refusal_lets_go_of_that_sample_alone(bench, caplog):
    refused = []

    def second_only(header, tensor):
        if header.seq == 1:
            refused.append(header.sample_id)
            return refuse(header, tensor)
        return None

    async with MessageCloud(bench.broker.connect, "demo", answer=second_only), bench.running():
        headers = bench.put(3)
        await bench.left(2)
    assert refused == [headers[1].sample_id]
    assert bench.spool.header(headers[0].sample_id) is not None
    assert bench.spool.header(headers[2].sample_id) is not None
    assert bench.spool.state().refused == 1
    assert "not wanted in this test" in caplog.text


async def test_sample_without_an_answer_is_sent_again(tmp_path):
    bench = Bench(tmp_path, resend_after_s=0.02)
    async with MessageCloud(bench.broker.connect, "demo", answer=silence) as cloud, bench.running():
        (header,) = bench.put()
        await bench.broker.wait_for(TOPIC + "sample", count=3)
        assert bench.spool.state().items == 1
        cloud.answer = agree
        await bench.delivered()
        assert len(cloud.samples[header.sample_id]) >= 3
    bench.spool.close()


async def test_samples_put_while_there_is_no_broker_go_up_when_it_comes(bench):
    bench.broker.refuse_connections()
    async with bench.running():
        headers = bench.put(250)
        async with MessageCloud(bench.broker.connect, "demo") as cloud:
            bench.broker.accept_connections()
            await bench.delivered()
    assert [*cloud.samples] == [each.sample_id for each in headers]


@pytest.mark.parametrize("delivered", [True, False])
async def test_connection_lost_while_publishing_loses_nothing(bench, delivered):
    bench.broker.lose_publishes(3, delivered=delivered, matching=TOPIC + "sample")
    async with MessageCloud(bench.broker.connect, "demo") as cloud, bench.running():
        headers = bench.put(20)
        await bench.delivered()
    assert set(cloud.samples) == {each.sample_id for each in headers}


async def test_no_more_than_max_unanswered_go_up_at_once(tmp_path):
    bench = Bench(tmp_path, max_unanswered=5)
    async with MessageCloud(bench.broker.connect, "demo", answer=silence) as cloud, bench.running():
        headers = bench.put(20)
        await bench.broker.wait_for(TOPIC + "sample", count=5)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(bench.broker.published(TOPIC + "sample")) == 5
        cloud.answer = agree
        for header in headers[:5]:
            bench.down("verdict", messages.encode(verdict(header)))
        await bench.delivered()
    bench.spool.close()


async def test_deadline_rides_in_the_header(bench):
    async with MessageCloud(bench.broker.connect, "demo", answer=silence) as cloud:
        headers = bench.put(2)
        bench.correlation.ask(headers[0], reference=None, until_s=time.perf_counter() + 60.0)
        async with bench.running():
            await eventually(lambda: len(cloud.samples) == 2, timeout=10, what="both samples arrived")
    got = [cloud.samples[each.sample_id][0][0].deadline_ms for each in headers]
    assert 0 < got[0] <= 60_000
    assert got[1] is None


async def test_state_is_retained_at_the_start_and_after_each_change_and_a_will_follows(bench):
    async with bench.running():
        await bench.broker.wait_for(TOPIC + "state")
        bench.version = "later"
        bench.uplink.state_changed()
        await bench.broker.wait_for(TOPIC + "state", count=2)
        bench.broker.refuse_connections()
        bench.broker.drop_connections()
        await bench.broker.wait_for(TOPIC + "state", count=3)
    states = [messages.decode(DeviceState, frame) for frame in bench.broker.published(TOPIC + "state")]
    assert [(each.online, each.agent_version) for each in states] == [
        (True, "v1"),
        (True, "later"),
        (False, ""),
    ]
    assert messages.decode(DeviceState, bench.broker.retained[TOPIC + "state"]).online is False


async def test_goodbye_is_retained(bench):
    await bench.uplink.say_goodbye()
    assert bench.broker.retained == {}
    async with bench.running():
        await bench.broker.wait_for(TOPIC + "state")
        await bench.uplink.say_goodbye()
    state = messages.decode(DeviceState, bench.broker.retained[TOPIC + "state"])
    assert (state.online, state.agent_version) == (False, "v1")


async def test_telemetry_comes_regularly(tmp_path):
    bench = Bench(tmp_path, telemetry_s=0.01)
    async with bench.running():
        frames = await bench.broker.wait_for(TOPIC + "telemetry", count=3)
    assert [messages.decode(Telemetry, frame).seq for frame in frames[:3]] == [1, 2, 3]
    assert {each.qos for each in bench.broker.publications if each.topic == TOPIC + "telemetry"} == {0}
    bench.spool.close()


async def test_report_is_sent_until_a_receipt_names_it(bench):
    report = Report(
        report_id=new_id(),
        task="digits",
        version="v2",
        bundle_sha256="0" * 64,
        from_version="v1",
        outcome=UpdateOutcome.ACTIVATED,
    )
    async with bench.running():
        bench.outbox.put(report)
        bench.uplink.state_changed()
        await bench.broker.wait_for(TOPIC + "report")
        bench.broker.drop_connections()
        frames = await bench.broker.wait_for(TOPIC + "report", count=2)
        assert [messages.decode(Report, frame) for frame in frames] == [report, report]
        bench.down("receipt", messages.encode(Receipt(accepted=(report.report_id,))))
        await eventually(lambda: not bench.outbox.waiting(), timeout=5, what="the report is let go")
        bench.uplink.state_changed()
        states = len(bench.broker.published(TOPIC + "state"))
        await bench.broker.wait_for(TOPIC + "state", count=states + 1)
    assert len(bench.broker.published(TOPIC + "report")) == 2


async def test_refused_report_is_not_sent_again(bench):
    report = Report(
        report_id=new_id(),
        task="digits",
        version="v2",
        bundle_sha256="0" * 64,
        from_version="v1",
        outcome=UpdateOutcome.FAILED,
    )
    bench.outbox.put(report)
    async with bench.running():
        await bench.broker.wait_for(TOPIC + "report")
        refusal = Refusal(message_id=report.report_id, reason="unknown")
        bench.down("receipt", messages.encode(Receipt(refused=(refusal,))))
        await eventually(lambda: not bench.outbox.waiting(), timeout=5, what="the report is let go")
    assert bench.outbox.waiting() == []


async def test_retained_wish_is_heard_after_connecting(bench):
    reference = BundleReference(version="v2", url="http://x/b", sha256="0" * 64, size_bytes=1)
    wish = Desired(revision=4, tasks={"digits": Target(bundle=reference)})
    bench.down("desired", messages.encode(wish), retain=True)
    async with bench.running():
        await eventually(lambda: bench.wishes, timeout=5, what="the wish is heard")
    assert bench.wishes == [wish]


@pytest.mark.parametrize(
    ("channel", "payload"),
    [
        ("verdict", b""),
        ("verdict", b"\xff\xff"),
        ("verdict", messages.encode(Receipt())),
        ("receipt", b"\xa1\x61a\x01"),
        ("desired", b""),
        ("desired", messages.encode(Receipt()).replace(b"schema_version\x01", b"schema_version\x02")),
        ("receipt", b"\x9f" * 2000),
    ],
)
async def test_malformed_frame_is_one_log_line_and_nothing_else(bench, caplog, channel, payload):
    async with MessageCloud(bench.broker.connect, "demo"), bench.running():
        await bench.broker.wait_for(TOPIC + "state")
        bench.down(channel, payload)
        bench.put()
        await bench.delivered()
    assert caplog.text.count("was not understood and is ignored") == 1
    assert bench.broker.connections_made == 2


async def test_bytes_are_booked_by_purpose(bench):
    async with MessageCloud(bench.broker.connect, "demo"), bench.running():
        bench.put(2)
        await bench.delivered()
        await bench.broker.wait_for(TOPIC + "telemetry")
        await bench.broker.wait_for(TOPIC + "state")
    booked = bench.ledger.bytes()
    assert booked.samples == sum(map(len, bench.broker.published(TOPIC + "sample")))
    assert booked.verdicts == sum(map(len, bench.broker.published(TOPIC + "verdict")))
    sent = sum(map(len, bench.broker.published(TOPIC + "state") + bench.broker.published(TOPIC + "telemetry")))
    assert booked.telemetry == sent


async def test_wake_before_and_after_the_loop_is_harmless(bench):
    bench.uplink.wake()
    async with bench.running():
        await bench.broker.wait_for(TOPIC + "state")
    bench.uplink.wake()
    bench.uplink.state_changed()


def test_wake_after_the_loop_was_closed_is_harmless(bench):
    async def live():
        async with bench.running():
            await bench.broker.wait_for(TOPIC + "state")

    asyncio.run(live())
    bench.uplink.wake()
    assert bench.spool.state().items == 0


async def test_flood_of_malformed_frames_is_one_log_line(bench, caplog):
    async with MessageCloud(bench.broker.connect, "demo"), bench.running():
        await bench.broker.wait_for(TOPIC + "state")
        for _ in range(50):
            bench.down("verdict", b"\xff")
        bench.put()
        await bench.delivered()
    assert caplog.text.count("was not understood and is ignored") == 1


async def test_connection_is_known_and_said_once(bench, caplog):
    caplog.set_level(logging.INFO)
    assert not bench.uplink.connected
    async with bench.running():
        await bench.connected()
        bench.broker.refuse_connections()
        bench.broker.drop_connections()
        await eventually(lambda: not bench.uplink.connected, timeout=5, what="the loss is noticed")
        bench.broker.accept_connections()
        await bench.connected()
    assert not bench.uplink.connected
    assert caplog.text.count("connected to broker 127.0.0.1:1883 as demo/cam-1") == 1


async def test_round_trip_is_the_connections(bench):
    assert bench.uplink.round_trip_s is None
    async with bench.running():
        await bench.connected()
        assert bench.uplink.round_trip_s is None
        bench.uplink._connection.round_trip_s = 0.25
        assert bench.uplink.round_trip_s == 0.25
    assert bench.uplink.round_trip_s is None


async def test_hurried_sample_goes_past_the_spool(bench):
    async with MessageCloud(bench.broker.connect, "demo", answer=silence) as cloud, bench.running():
        await bench.connected()
        header = bench.ask()
        assert bench.send_now(header)
        (frame,) = bench.broker.published(TOPIC + "sample")  # at once, not in a later turn
        await eventually(lambda: cloud.samples, timeout=5, what="it arrived")
    ((got, tensor),) = cloud.samples[header.sample_id]
    assert 59_000 < got.deadline_ms <= 60_000
    assert got.model_copy(update={"deadline_ms": None}) == header
    np.testing.assert_array_equal(tensor, TENSOR)
    assert bench.ledger.bytes().samples == len(frame)
    assert bench.spool.state().items == 0


async def test_nothing_can_be_hurried_without_a_connection(bench):
    header = bench.ask()
    assert not bench.send_now(header)
    bench.broker.refuse_connections()
    async with bench.running():
        await bench.broker.wait_until(lambda: bench.broker.connections_made == 0)
        assert not bench.send_now(header)
    assert not bench.send_now(header)


def test_nothing_can_be_hurried_after_the_loop_has_ended(bench):
    async def live():
        async with bench.running():
            await bench.connected()
            bench.broker.line_is_full = True
            return bench.uplink._connection

    # A caller may hold the connection while the agent ends.
    bench.uplink._connection = asyncio.run(live())
    assert not bench.send_now(bench.ask())


async def test_hurried_sample_waits_for_a_line_that_is_full(bench):
    async with bench.running():
        await bench.connected()
        bench.broker.line_is_full = True
        assert bench.send_now(bench.ask())
        await asyncio.sleep(0.05)
        assert bench.broker.published(TOPIC + "sample") == []
        bench.broker.line_is_full = False
        await bench.broker.wait_for(TOPIC + "sample")
    assert len(bench.broker.published(TOPIC + "sample")) == 1


async def test_hurried_sample_is_given_up_when_nobody_waits_any_more(bench):
    async with bench.running():
        await bench.connected()
        bench.broker.line_is_full = True
        header = bench.ask()
        assert bench.send_now(header)
        await asyncio.sleep(0)
        bench.correlation.forget(header.sample_id)
        await eventually(lambda: bench.uplink._hurried_bytes == 0, timeout=5, what="it is given up")
        bench.broker.line_is_full = False
        await asyncio.sleep(0.03)
    assert bench.broker.published(TOPIC + "sample") == []


async def test_no_more_than_a_few_megabytes_wait_for_the_line(bench):
    tensor = np.zeros((1024, 1024), dtype=np.uint8)
    async with bench.running():
        await bench.connected()
        bench.broker.line_is_full = True
        taken = [bench.send_now(bench.ask(), tensor) for _ in range(10)]
        assert taken == [True] * 3 + [False] * 7
        bench.broker.line_is_full = False
        await bench.broker.wait_for(TOPIC + "sample", count=3)
        await eventually(lambda: bench.uplink._hurried_bytes == 0, timeout=5, what="the line took all")
        assert bench.send_now(bench.ask(), tensor)


async def test_one_that_is_larger_than_all_that_may_wait_goes_alone(bench):
    large = np.zeros((5 * 1024, 1024), dtype=np.uint8)
    async with bench.running():
        await bench.connected()
        bench.broker.line_is_full = True
        assert [bench.send_now(bench.ask(), large) for _ in range(2)] == [True, False]


async def test_verdict_reaches_the_waiting_caller_first_and_the_books_a_little_later(bench):
    async with bench.running():
        await bench.connected()
        header = bench.ask()
        bench.down("verdict", messages.encode(verdict(header, 7)))
        assert bench.correlation.wait(header.sample_id).prediction == 7  # in this very turn
        assert bench.verdicts == []
        await eventually(lambda: bench.verdicts, timeout=5, what="the listener is told")
    assert [each.sample_id for each in bench.verdicts] == [header.sample_id]
    assert bench.ledger.bytes().verdicts == len(messages.encode(verdict(header, 7)))


async def test_verdicts_that_were_given_are_booked_when_the_connection_ends(bench):
    async with bench.running():
        await bench.connected()
        headers = [bench.ask() for _ in range(3)]
        for header in headers:
            bench.down("verdict", messages.encode(verdict(header)))
    assert [each.sample_id for each in bench.verdicts] == [each.sample_id for each in headers]


async def test_second_verdict_on_a_sample_is_booked_like_any_other(bench):
    async with bench.running():
        await bench.connected()
        header = bench.ask()
        for _ in range(2):
            bench.down("verdict", messages.encode(verdict(header)))
        await eventually(lambda: len(bench.verdicts) == 2, timeout=5, what="both are told")


async def test_deferred_samples_go_when_they_may(bench):
    bench.with_deferred = False
    async with MessageCloud(bench.broker.connect, "demo") as cloud, bench.running():
        await bench.connected()
        deferred = bench.put(2, deferred=True)
        earlier = bench.put(1)  # spooled when it could go
        waited_for, given_up = bench.ask(), bench.ask(seconds=-1.0)
        for header in (waited_for, given_up):
            bench.spool.put(header, TENSOR, sent=True)
            bench.spool.not_sent(header.sample_id)
        bench.uplink.wake()
        await bench.left(4)
        await asyncio.sleep(0.05)
        assert set(cloud.samples) == {waited_for.sample_id}
        assert bench.spool.next_due_s() is None
        bench.with_deferred = True
        bench.uplink.wake()
        await bench.delivered()
    everything = {each.sample_id for each in [*deferred, *earlier, waited_for, given_up]}
    assert set(cloud.samples) == everything


class CappedLedger(Ledger):
    """Says no when it is told to."""

    capped = True
    full = False
    number = 0

    def spend(self, purpose, count):
        return not self.full

    def fits_a_day(self, count):
        return True

    def day(self):
        return self.number


async def test_spent_day_keeps_samples_and_telemetry_back_until_the_next(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    ledger = CappedLedger(tmp_path / "ledger.json")
    bench = Bench(tmp_path, telemetry_s=0.01, ledger=ledger)
    ledger.full = True
    async with MessageCloud(bench.broker.connect, "demo") as cloud, bench.running():
        await bench.broker.wait_for(TOPIC + "state")  # what the fleet must know goes up all the same
        bench.put(40)
        await eventually(lambda: "over the cap of a day" in caplog.text, timeout=5, what="the end of the day's bytes")
        header = bench.ask()
        assert not bench.send_now(header)
        await asyncio.sleep(0.1)
        assert (cloud.samples, bench.broker.published(TOPIC + "telemetry")) == ({}, [])
        assert bench.spool.state().items == 40
        assert caplog.text.count("over the cap of a day") == 1
        ledger.full, ledger.number = False, 1
        bench.spool.forget_attempts()
        bench.uplink.wake()
        await bench.delivered()
        frames = await bench.broker.wait_for(TOPIC + "telemetry")
        assert messages.decode(Telemetry, frames[0]).seq == 1  # what was left out has no number
        assert caplog.text.count("a new day has begun") == 1
    bench.spool.close()


async def test_sample_larger_than_a_days_cap_is_counted_and_holds_up_nobody(tmp_path, caplog):
    bench = Bench(tmp_path, ledger=Ledger(tmp_path / "ledger.json", max_bytes_per_day=10_000))
    large = np.zeros((128, 128), dtype=np.uint8)
    async with MessageCloud(bench.broker.connect, "demo") as cloud, bench.running():
        await bench.connected()
        for _ in range(20):
            bench.spool.put(bench.header(), large)
        header = bench.ask()
        bench.spool.put(header, large, sent=True)
        assert bench.send_now(header, large)
        small = bench.put(2)
        await bench.delivered()
        assert set(cloud.samples) == {each.sample_id for each in small}
    assert bench.spool.state().evicted == {"over_cap": 21}
    assert caplog.text.count("larger than the cap of a whole day") == 1
    assert "over the cap of a day:" not in caplog.text
    bench.spool.close()


async def test_hurried_sample_of_a_capped_device_goes_by_the_loop_which_asks(tmp_path):
    ledger = CappedLedger(tmp_path / "ledger.json")
    bench = Bench(tmp_path, ledger=ledger)
    async with bench.running():
        await bench.connected()
        assert bench.send_now(bench.ask())
        assert bench.broker.published(TOPIC + "sample") == []  # not in the caller's thread: asking may take the disk
        await bench.broker.wait_for(TOPIC + "sample")
        ledger.full = True
        assert bench.send_now(bench.ask())
        await asyncio.sleep(0.03)
        assert not bench.send_now(bench.ask())
    assert len(bench.broker.published(TOPIC + "sample")) == 1
    bench.spool.close()
