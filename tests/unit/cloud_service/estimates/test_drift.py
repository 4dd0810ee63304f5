"""Which alarms make an incident and when it ends; how fast and how falsely real detectors speak."""

from uuid import UUID

import numpy as np
import pytest

from cloud_service.estimates import detectors
from cloud_service.estimates.drift import (
    AUDITS,
    ENOUGH_AUDITS,
    NEW_MODEL_AFTER,
    REFERENCE,
    TOGETHER,
    Alarm,
    Closed,
    Detectors,
    Opened,
    Watch,
    sentence,
)
from cloud_service.estimates.stream import Scored
from cloud_service.estimates.watching import Watching
from tests.sim.field import Device


class Scripted:
    """Speaks at the calls it is told; `values`: what it was fed."""

    def __init__(self, *calls):
        self.calls, self.values = set(calls), []

    def update(self, value):
        self.values.append(value)
        return len(self.values) in self.calls


def scripted(adwin=(), page_hinkley=()):
    made = []

    def make():
        made.append(Detectors(Scripted(*adwin), Scripted(*page_hinkley)))
        return made[-1]

    return make, made


def audits(count, *, first=1, score=0.1, agreed=True, version="v1", device="cam-1", fraction=0.1):
    rng = np.random.default_rng(first)
    return [
        Scored(first + n, rng_id(rng), device, "digits", version, score, True, fraction, agreed) for n in range(count)
    ]


def rng_id(rng):
    return UUID(bytes=rng.bytes(16))


def walk(watch, samples):
    return [change for sample in samples if (change := watch.observe(sample)) is not None]


def test_one_detector_alone_is_no_incident():
    make, _ = scripted(adwin=(150, 400))
    watch = Watch(make, goal=0.5)
    assert walk(watch, audits(499)) == []
    assert watch.alarms == {Alarm.ADWIN}


def test_two_detectors_together_are_one_incident():
    # Page–Hinkley sees its first value after the reference.
    make, _ = scripted(adwin=(300, 350), page_hinkley=(140, 150))
    watch = Watch(make, goal=0.5)
    (opened,) = walk(watch, audits(499))
    evidence = opened.evidence
    assert evidence.alarms == {Alarm.ADWIN: 0, Alarm.PAGE_HINKLEY: 50}
    assert (evidence.stream, evidence.number, evidence.bundle_version) == (300, 300, "v1")
    assert watch.open == evidence


@pytest.mark.parametrize(("gap", "together"), [(TOGETHER - 1, True), (TOGETHER, False)])
def test_detectors_must_speak_within_five_hundred_samples(gap, together):
    make, _ = scripted(adwin=(200 + gap,), page_hinkley=(200 - REFERENCE,))
    changes = walk(Watch(make, goal=0.5), audits(900))
    assert any(isinstance(change, Opened) for change in changes) is together


def test_incident_ends_when_no_detector_has_spoken_for_a_while():
    make, _ = scripted(adwin=(300,), page_hinkley=(200,))
    watch = Watch(make, goal=0.5)
    opened, closed = walk(watch, audits(300 + TOGETHER))
    assert isinstance(opened, Opened)
    assert closed == Closed("no detector has spoken for 500 samples of the stream")
    assert watch.open is None


def test_silence_is_said_again_so_that_an_incident_of_before_a_restart_ends():
    make, _ = scripted()
    changes = walk(Watch(make, goal=0.5), audits(2 * TOGETHER + 1))
    assert [type(change) for change in changes] == [Closed, Closed]


def test_audit_bound_speaks_when_agreement_is_surely_below_the_goal():
    make, _ = scripted(adwin=(300,))
    watch = Watch(make, goal=0.9)
    assert walk(watch, audits(200)) == []
    (opened,) = walk(watch, audits(100, first=201, agreed=False))
    evidence = opened.evidence
    assert set(evidence.alarms) == {Alarm.ADWIN, Alarm.AUDIT_BOUND}
    assert (evidence.audits, evidence.differing) == (AUDITS, 100)
    assert evidence.agreement_high < 0.9
    assert (evidence.goal, evidence.audit_fraction) == (0.9, 0.1)


def test_audit_bound_counts_only_what_stays_on_the_device():
    """Half of the stream is hard and corrected: as many wrong audits do half the harm."""
    make, _ = scripted()
    rng = np.random.default_rng(7)
    hard = [Scored(n, rng_id(rng), "cam-1", "digits", "v1", 0.9, False, 1.0, None) for n in range(600)]
    drawn = [audits(1, first=n, agreed=n % 5 > 0, fraction=0.5)[0] for n in range(1, 301)]
    alone, beside = Watch(make, goal=0.94), Watch(make, goal=0.94)
    walk(alone, drawn)
    walk(beside, [sample for n, audit in enumerate(drawn) for sample in (audit, hard[2 * n], hard[2 * n + 1])])
    assert alone.alarms == {Alarm.AUDIT_BOUND}
    assert beside.alarms == frozenset()


def test_few_audits_say_nothing_of_agreement():
    make, _ = scripted()
    watch = Watch(make, goal=0.9)
    walk(watch, audits(ENOUGH_AUDITS - 1, agreed=False))
    assert watch.alarms == frozenset()
    walk(watch, audits(1, first=90, agreed=False))
    assert watch.alarms == {Alarm.AUDIT_BOUND}


def test_audits_without_a_verdict_say_nothing_of_agreement():
    make, _ = scripted()
    watch = Watch(make, goal=0.999)
    walk(watch, audits(300, agreed=None))
    assert watch.alarms == frozenset()


def test_new_model_begins_anew_and_ends_the_incident():
    make, made = scripted(adwin=(300,), page_hinkley=(200,))
    watch = Watch(make, goal=0.5)
    walk(watch, audits(310))
    assert watch.open is not None
    changes = walk(watch, audits(NEW_MODEL_AFTER, first=400, version="v2"))
    assert changes == [Closed("model v2 answers now")]
    assert (watch.stream, watch.alarms, watch.open) == (0, frozenset(), None)
    walk(watch, audits(5, first=500, version="v2"))
    assert len(made[-1].adwin.values) == 5


def test_stragglers_of_the_old_model_are_left_out():
    make, made = scripted()
    watch = Watch(make, goal=0.5)
    walk(watch, audits(50, version="v2"))
    for number in range(5):
        walk(watch, audits(NEW_MODEL_AFTER - 1, first=100 + 40 * number, version="v1", score=0.9))
        walk(watch, audits(1, first=130 + 40 * number, version="v2"))
    assert watch.stream == 55
    assert set(made[-1].adwin.values) == {0.1}


def test_page_hinkley_gets_standardised_log_odds_after_the_reference():
    make, made = scripted()
    watch = Watch(make, goal=0.5)
    scores = [0.05, 0.2] * (REFERENCE // 2)
    walk(watch, [sample for n, score in enumerate(scores) for sample in audits(1, first=n + 1, score=score)])
    assert made[-1].page_hinkley.values == []
    walk(watch, audits(1, first=500, score=0.2) + audits(1, first=501, score=0.05) + audits(1, first=502, score=1.0))
    high, low, highest = made[-1].page_hinkley.values
    assert (high, low) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert 15 < highest < 30


def test_scores_beyond_one_are_standardised_as_they_are():
    make, made = scripted()
    watch = Watch(make, goal=0.5)
    scores = [-7.0, -5.0] * (REFERENCE // 2)
    walk(watch, [sample for n, score in enumerate(scores) for sample in audits(1, first=n + 1, score=score)])
    walk(watch, audits(1, first=500, score=-4.0))
    assert made[-1].page_hinkley.values == [pytest.approx(2.0)]


def test_scores_that_never_differed_have_some_deviation():
    make, made = scripted()
    watch = Watch(make, goal=0.5)
    walk(watch, audits(REFERENCE))
    walk(watch, audits(1, first=500, score=0.11))
    (value,) = made[-1].page_hinkley.values
    assert 10 < value < 1_000


def test_sentence_tells_an_operator_what_and_why():
    make, _ = scripted(adwin=(300,), page_hinkley=(200,))
    watch = Watch(make, goal=0.9)
    walk(watch, audits(250))
    (opened,) = walk(watch, audits(50, first=300, agreed=False, score=0.4))
    words = sentence("digits", "cam-1", opened.evidence)
    assert words.startswith("device cam-1, task digits: what it sees has changed, say ")
    assert "the audits" in words
    assert "it was 0.1 when the model came" in words
    assert "the goal is 90.0%" in words
    make, _ = scripted(adwin=(150,), page_hinkley=(50,))
    (calm,) = walk(Watch(make, goal=0.1), audits(200))
    assert "audits" not in sentence("digits", "cam-1", calm.evidence)


def test_watching_keeps_devices_apart_and_to_its_limit():
    make, _ = scripted(adwin=(150,), page_hinkley=(50,))
    watching = Watching(make, goal=0.5, limit=2)
    mixed = [
        sample
        for n in range(200)
        for name in ("cam-1", "cam-2", "cam-3")
        for sample in audits(1, first=n + 1, device=name)
    ]
    changes = watching.observe(mixed)
    assert [device for device, _ in changes] == ["cam-1", "cam-2"]
    assert set(watching.standing()) == {"cam-1", "cam-2"}
    assert [(name, samples, is_open) for name, samples, _, is_open in watching.streams()] == [
        ("cam-1", 200, True),
        ("cam-2", 200, True),
    ]
    assert watching.unwatched == {"cam-3"}


def test_device_is_watched_from_its_first_audit_on():
    make, made = scripted()
    watching = Watching(make, goal=0.5, limit=9)
    rng = np.random.default_rng(7)
    hard = Scored(1, rng_id(rng), "cam-1", "digits", "v1", 0.9, False, 1.0, None)
    assert watching.observe([hard]) == []
    assert made == []
    watching.observe(audits(1, first=2))
    assert len(made) == 1


# With river's detectors.


@pytest.fixture(scope="module")
def real():
    return detectors.load()


def opened_after(watch, device, samples, shift=0.0):
    """How many samples of the device and of the stream it took to the first incident; None: there was none."""
    begun, at = device.seen, watch.stream
    for sample in device.uploads(samples, shift=shift):
        if isinstance(watch.observe(sample), Opened):
            return device.seen - begun, watch.stream - at
    return None


@pytest.mark.parametrize(("shift", "most"), [(1.0, 193), (1.5, 120), (2.0, 90)])
def test_shift_is_an_incident_within_the_delay_of_the_recipes(real, shift, most):
    found = []
    for seed in range(5):
        device, watch = Device(np.random.default_rng(seed), fraction=0.25), Watch(real, goal=0.9)
        assert opened_after(watch, device, 4_000) is None
        found.append(opened_after(watch, device, 4_000, shift=shift))
    delays = [stream for _, stream in found]
    print(f"shift {shift}: {sorted(delays)} samples of the stream")
    assert max(delays) <= most
    # A sample of the stream is four of the device's, since a quarter is audited.
    assert all(seen == pytest.approx(4 * stream, rel=0.5) for seen, stream in found)


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_ten_thousand_samples_in_control_are_no_incident(real, memory):
    device, watch = Device(np.random.default_rng(11), fraction=0.5, memory=memory), Watch(real, goal=0.9)
    spoken = set()
    for sample in device.uploads(20_000):
        assert not isinstance(watch.observe(sample), Opened)
        spoken |= watch.alarms
    assert watch.stream == pytest.approx(10_000, rel=0.05)
    if not memory:
        assert spoken == set()


def test_uploads_that_are_not_thinned_hide_how_the_scores_were(real):
    """The control: a steered threshold makes the uploads alike before and after, the stream shows the shift."""
    device = Device(np.random.default_rng(5), fraction=0.1)
    calm = [sample.score for sample in device.uploads(8_000)]
    device.threshold = 0.5
    shifted = [sample.score for sample in device.uploads(8_000, shift=1.0)]
    assert np.mean([s for s in calm if s >= 0.2]) == pytest.approx(0.36, abs=0.05)
    assert len(shifted) == pytest.approx(len(calm), rel=0.25)
    device, watch = Device(np.random.default_rng(5), fraction=0.1), Watch(real, goal=0.9)
    assert opened_after(watch, device, 8_000) is None
    device.threshold = 0.5
    assert opened_after(watch, device, 8_000, shift=1.0) is not None
