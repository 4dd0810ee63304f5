from random import Random

import pytest

from cloud_service.simulate.device import Device
from cloud_service.simulate.plan import Faults, Keeping, Plan, Samples
from cloud_service.simulate.tally import Tally
from cloud_service.simulate.world import World
from shared import messages
from shared.errors import FrameError
from shared.ids import new_id
from shared.messages import DeviceState, Reason, Receipt, Refusal, Telemetry, Verdict
from shared.topics import Channel, parse
from tests.sim.bundles import sample
from tests.sim.clock import SimulatedClock
from tests.sim.wire_broker import WireBroker

TENSORS = [sample(3), sample(4)]


class Scene:
    """A device, its clock and the broker's end of its connection."""

    def __init__(self, **plan):
        self.clock = SimulatedClock()
        self.lost = []
        self.tally = Tally()
        self.world = World(
            Plan(site="demo", **({"keeping": Keeping(resend_after_s=10.0)} | plan)),
            TENSORS,
            self.tally,
            Random(1),
            self.clock,
        )
        self.device = Device("cam-1", self.world, on_lost=lambda device, why: self.lost.append(why))
        self.broker = WireBroker()

    def connect(self, **broker):
        self.broker = WireBroker(**broker)
        self.broker.attach(self.device.dial())
        return self

    def up(self, channel):
        return [p.payload for p in self.broker.published if parse(p.topic).channel is channel]

    def samples(self):
        return [messages.decode_sample(frame) for frame in self.up(Channel.SAMPLE)]

    def ids(self):
        return [header.sample_id for header, _ in self.samples()]

    def verdict(self, sample_id):
        made = Verdict(
            sample_id=sample_id, task="digits", prediction=1, probabilities=(0.1, 0.9), teacher="t", latency_ms=1
        )
        self.broker.send("edgeloop/v1/demo/cam-1/verdict", messages.encode(made))

    def receipt(self, accepted=(), refused=()):
        made = Receipt(accepted=tuple(accepted), refused=tuple(Refusal(message_id=i, reason="no") for i in refused))
        self.broker.send("edgeloop/v1/demo/cam-1/receipt", messages.encode(made))


@pytest.fixture
def scene():
    return Scene().connect()


def test_device_says_that_it_is_there_and_its_will_that_it_is_not(scene):
    (state,) = [messages.decode(DeviceState, payload) for payload in scene.up(Channel.STATE)]
    assert state.online
    assert state.tasks["digits"].bundle_version == "simulated"
    assert messages.encode(DeviceState(online=False)) in scene.broker.connect
    assert b"edge-demo-cam-1" in scene.broker.connect


def test_sample_is_one_of_the_tensors_and_counts(scene):
    scene.device.make_sample(scene.clock())
    scene.device.make_sample(scene.clock())
    (first, tensor), (second, _) = scene.samples()
    assert (first.seq, second.seq, first.task) == (1, 2, "digits")
    assert any((tensor == each).all() for each in TENSORS)
    assert scene.tally.samples == scene.tally.transmissions == 2


def test_audits_say_with_what_chance_they_were_drawn():
    scene = Scene(samples=Samples(audits=1.0)).connect()
    scene.device.make_sample(scene.clock())
    ((header, _),) = scene.samples()
    assert (header.reason, header.inclusion_probability) == (Reason.AUDIT, 1.0)
    assert header.hardness < 0.5


def test_sample_is_kept_until_its_verdict(scene):
    scene.device.make_sample(scene.clock())
    scene.clock.advance(0.5)
    assert scene.device.kept == 1
    scene.verdict(scene.ids()[0])
    assert scene.device.kept == 0
    assert scene.tally.verdicts == 1
    assert scene.tally.verdict.quantile_s(0.5) == pytest.approx(0.5, rel=0.02)


def test_receipt_ends_the_keeping_and_the_verdict_is_still_timed(scene):
    scene.device.make_sample(scene.clock())
    scene.receipt(accepted=scene.ids())
    assert (scene.device.kept, scene.tally.receipted, scene.tally.verdicts) == (0, 1, 0)
    scene.verdict(scene.ids()[0])
    assert (scene.tally.verdicts, scene.tally.repeated) == (1, 0)
    scene.verdict(scene.ids()[0])
    scene.receipt(accepted=scene.ids())
    assert (scene.tally.verdicts, scene.tally.repeated) == (1, 2)


def test_refused_sample_is_not_sent_again(scene):
    scene.device.make_sample(scene.clock())
    scene.receipt(refused=[*scene.ids(), new_id()])
    scene.clock.advance(100)
    scene.device.look(scene.clock())
    assert (scene.device.kept, scene.tally.refused, scene.tally.repeated, scene.tally.transmissions) == (0, 1, 1, 1)


def test_sample_without_an_answer_is_sent_again_after_waits_that_double(scene):
    scene.device.make_sample(scene.clock())
    sent = []
    for second in range(75):
        before = scene.tally.transmissions
        scene.clock.advance(1)
        scene.device.link.last_heard = scene.clock()
        scene.device.look(scene.clock())
        sent += [second + 1] * (scene.tally.transmissions - before)
    assert sent == [10, 30, 70]
    assert scene.tally.resent == 3
    assert len(set(scene.ids())) == 1
    assert [header.age_ms for header, _ in scene.samples()] == [0, 10_000, 30_000, 70_000]


def test_everything_kept_is_sent_again_at_once_after_a_reconnect(scene):
    for _ in range(3):
        scene.device.make_sample(scene.clock())
    first = scene.ids()
    scene.broker.vanish()
    assert scene.lost
    scene.device.make_sample(scene.clock())
    scene.connect()
    assert scene.ids()[:3] == first
    assert len(scene.ids()) == 4
    assert (scene.tally.connections, scene.tally.disconnects, scene.tally.resent) == (2, 1, 3)


def test_samples_wait_for_the_brokers_room():
    scene = Scene().connect(receive_maximum=2, acknowledges=False)  # one place has its state
    for _ in range(3):
        scene.device.make_sample(scene.clock())
    assert len(scene.ids()) == 1
    scene.broker.acknowledge()
    scene.broker.acknowledge()
    assert len(scene.ids()) == 3


def test_sample_that_is_answered_while_its_repetition_waits_is_not_repeated():
    scene = Scene().connect(receive_maximum=2, acknowledges=False)
    scene.device.make_sample(scene.clock())
    scene.clock.advance(10)
    scene.device.look(scene.clock())
    scene.verdict(scene.ids()[0])
    scene.broker.acknowledge()
    assert len(scene.ids()) == 1


def test_device_that_keeps_enough_makes_no_more_samples():
    scene = Scene(keeping=Keeping(most=2, resend_after_s=10.0)).connect()
    for _ in range(5):
        scene.device.make_sample(scene.clock())
    assert (scene.tally.samples, scene.tally.dropped, scene.device.kept) == (2, 3, 2)


def test_deadline_shrinks_with_age_and_a_late_verdict_is_counted():
    scene = Scene(samples=Samples(deadline_ms=12_000)).connect()
    scene.device.make_sample(scene.clock())
    scene.clock.advance(10)
    scene.device.look(scene.clock())
    assert [header.deadline_ms for header, _ in scene.samples()] == [12_000, 2_000]
    scene.clock.advance(5)
    scene.verdict(scene.ids()[0])
    assert scene.tally.late == 1


def test_duplicates_are_the_same_frame_twice():
    scene = Scene(faults=Faults(duplicates=1.0)).connect()
    scene.device.make_sample(scene.clock())
    frames = scene.up(Channel.SAMPLE)
    assert len(frames) == 2
    assert frames[0] == frames[1]
    assert (scene.tally.transmissions, scene.tally.duplicates) == (1, 1)


def test_malformed_frames_come_beside_the_honest_ones():
    scene = Scene(faults=Faults(malformed=1.0)).connect()
    for _ in range(20):
        scene.device.make_sample(scene.clock())
    bad = 0
    for frame in scene.up(Channel.SAMPLE):
        try:
            messages.decode_sample(frame)
        except FrameError:
            bad += 1
    assert scene.tally.spoilt.total() == 20
    assert bad >= 20 - scene.tally.spoilt["flipped"]
    assert scene.device.kept == 20


def test_telemetry_comes_now_and_then(scene):
    for _ in range(70):
        scene.clock.advance(1)
        scene.device.link.last_heard = scene.clock()
        scene.device.look(scene.clock())
    told = [messages.decode(Telemetry, payload) for payload in scene.up(Channel.TELEMETRY)]
    assert 2 <= len(told) <= 3
    assert "digits" in told[0].tasks


def test_quiet_device_asks_for_a_sign_of_life_and_leaves_a_silent_broker(scene):
    scene.device._telemetry_at = float("inf")
    scene.clock.advance(15)
    scene.device.look(scene.clock())
    assert scene.broker.kinds[-1] == 12
    scene.clock.advance(46)
    scene.device.look(scene.clock())
    assert scene.lost == ["the broker is silent"]
    scene.device.look(scene.clock())


def test_device_that_leaves_says_so(scene):
    scene.device.leave()
    assert not messages.decode(DeviceState, scene.up(Channel.STATE)[-1]).online
    assert scene.broker.kinds[-1] == 14


def test_unreadable_messages_are_counted(scene):
    scene.broker.send("edgeloop/v1/demo/cam-1/verdict", b"\xff")
    scene.broker.send("edgeloop/v1/demo/cam-1/desired", b"\xff")
    assert scene.tally.unreadable == 1


async def test_connection_that_never_opens_is_an_error_of_whoever_dials():
    import asyncio

    scene = Scene()
    opening = scene.device.opening = asyncio.get_running_loop().create_future()
    scene.connect(refuses=0x87)
    with pytest.raises(ConnectionError, match="0x87"):
        await opening
    assert (scene.lost, scene.tally.failed, scene.tally.disconnects) == ([], 1, 0)
