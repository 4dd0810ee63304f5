"""The intervals hold what they promise where the truth is known, and the estimates are the sums they should be."""

import math

import numpy as np
import pytest

from cloud_service.estimates.agreement import UNKNOWN, agreement, device
from cloud_service.estimates.composition import Basis, Composition, from_audits
from shared.intervals import wilson
from tests.sim.field import Period, tally

SIMULATIONS = 1_000


def covers(interval, truth):
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


def coverage(periods_of, *, counted):
    """Share of the simulations in which the intervals of own and final answers hold the truth."""
    held = np.zeros((SIMULATIONS, 2), bool)
    for number in range(SIMULATIONS):
        periods = periods_of()
        found = agreement(
            {p.name: device(p.composition if counted else from_audits(p.tallies), p.tallies) for p in periods}
        )
        samples = sum(period.samples for period in periods)
        held[number] = (
            covers(found.own, 1 - sum(period.own_differing for period in periods) / samples),
            covers(found.final, 1 - sum(period.final_differing for period in periods) / samples),
        )
    return held.mean(axis=0)


@pytest.mark.parametrize("counted", [True, False], ids=["telemetry", "audits"])
@pytest.mark.parametrize(
    ("goal", "audits", "kept"),
    [
        (0.80, 100, 0.6),
        (0.80, 250, 0.85),
        (0.80, 1_000, 0.93),
        (0.95, 100, 0.93),
        (0.95, 250, 0.6),
        (0.95, 1_000, 0.85),
        (0.99, 100, 0.85),
        (0.99, 250, 0.93),
        (0.99, 1_000, 0.6),
    ],
)
def test_interval_of_a_device_covers_as_often_as_it_says(goal, audits, kept, counted):
    rng = np.random.default_rng([1, round(goal * 100), audits, round(kept * 100)])
    confident = audits * 20
    hard = round(confident * 0.95 / kept) - confident
    left = hard // 5 if counted else 0

    def one():
        return [
            Period.draw(rng, confident=confident, fraction=0.05, differ=(1 - goal) / kept, hard=hard - left, left=left)
        ]

    own, final = coverage(one, counted=counted)
    assert 0.93 <= own <= 0.97
    assert 0.93 <= final <= 0.97


def fleet(rng, kind, differ):
    """Easy samples, audit fractions and rates of disagreement of a fleet's devices."""
    match kind:
        case "ten audits each":
            return [(200, 0.05, differ)] * 10
        case "of all sizes":
            sizes = np.round(1_000 * rng.pareto(1.2, 8) + 100).clip(max=20_000)
            rates = rng.beta(1, 1 / differ - 1, 8).clip(0, 0.95)
            return [(int(size), 0.05, rate) for size, rate in zip(sizes, rates, strict=True)]
        case "audited unevenly":
            fractions = rng.choice([0.02, 0.05, 0.2], 8)
            rates = rng.beta(1, 1 / differ - 1, 8).clip(0, 0.95)
            return [(1_000, float(fraction), rate) for fraction, rate in zip(fractions, rates, strict=True)]
        case _:
            return [(5_000, 0.05, differ), (1_000, 0.02, 0.3), (1_000, 0.1, differ)]


@pytest.mark.parametrize(
    ("kind", "differ"),
    [
        ("ten audits each", 0.02),
        ("of all sizes", 0.1),
        ("audited unevenly", 0.02),
        ("one bad and hardly audited", 0.02),
        ("one bad and hardly audited", 0.1),
    ],
)
def test_interval_of_a_fleet_covers_as_often_as_it_says(kind, differ):
    rng = np.random.default_rng([2, round(differ * 100)])
    devices = fleet(rng, kind, differ)

    def all_of_them():
        drawn = (
            Period.draw(rng, name=f"cam-{n}", confident=size, fraction=fraction, differ=rate, hard=size // 8)
            for n, (size, fraction, rate) in enumerate(devices)
        )
        # A device whose audits happen to be none is not in the estimate, nor in the truth it is held against.
        return [period for period in drawn if period.audits]

    # Devices that differ in how often they differ and in how much they are audited make it wider than it need be.
    most = 0.985 if kind == "audited unevenly" else 0.97
    own, final = coverage(all_of_them, counted=True)
    assert 0.93 <= own <= most
    assert 0.93 <= final <= most


def test_normal_interval_would_not_cover():
    """Horvitz and Thompson's, for comparison: with few disagreements it is far too sure."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(SIMULATIONS):
        period = Period.draw(rng, confident=2_000, fraction=0.05, differ=0.01, hard=300)
        differing = period.audits_differing * 0.95 / 0.05
        deviation = math.sqrt(period.audits_differing * 0.95) / 0.05
        held += abs(differing - period.kept_differing) <= 1.959964 * deviation
    assert held / SIMULATIONS < 0.75


def test_final_answers_differ_where_they_stayed_and_own_ones_everywhere():
    counted = Composition(kept=900, audits=50, hard=200, left=50, basis=Basis.TELEMETRY)
    uploads = [
        tally(45, audit=True, weight=20),
        tally(5, audit=True, agreed=False, weight=20),
        tally(120, audit=False),
        tally(80, audit=False, agreed=False),
    ]
    found = agreement({"cam-1": device(counted, uploads)})
    assert found.final.value == pytest.approx(1 - (900 * 0.1 + 50 * 0.4) / 1_200)
    assert found.own.value == pytest.approx(1 - (900 * 0.1 + 50 * 0.4 + 5 + 80) / 1_200)
    assert (found.audits, found.samples, found.basis, found.represented) == (50, 1_200, Basis.TELEMETRY, 1.0)
    assert (found.kept, found.left) == (pytest.approx(0.75), pytest.approx(50 / 1_200))


def test_interval_without_anything_left_is_wilsons_over_the_audits():
    counted = Composition(kept=950, audits=50, hard=0, left=0, basis=Basis.TELEMETRY)
    uploads = [tally(48, audit=True, weight=20), tally(2, audit=True, agreed=False, weight=20)]
    found = agreement({"cam-1": device(counted, uploads)})
    low, high = wilson(0.04 * 47.5, 47.5)  # 50 audits, and 5 % of the population is known
    assert (found.final.low, found.final.high) == (pytest.approx(1 - 0.95 * high), pytest.approx(1 - 0.95 * low))


def test_late_verdict_leaves_the_devices_own_answer():
    counted = Composition(kept=0, audits=0, hard=100, left=0, basis=Basis.TELEMETRY)
    uploads = [
        tally(60, audit=False, agreed=False),
        tally(10, audit=False, agreed=False, in_time=False),
        tally(30, audit=False, in_time=False),
    ]
    found = agreement({"cam-1": device(counted, uploads)})
    assert found.final.value == pytest.approx(0.9)
    assert found.own.value == pytest.approx(0.3)
    assert found.own.low == pytest.approx(found.own.high)  # every one of them is known


def test_hard_samples_without_a_verdict_are_as_little_known_as_those_that_stayed():
    counted = Composition(kept=0, audits=0, hard=100, left=0, basis=Basis.TELEMETRY)
    answered = [tally(40, audit=False), tally(10, audit=False, agreed=False)]
    found = agreement({"cam-1": device(counted, [*answered, tally(50, audit=False, agreed=None, in_time=False)])})
    assert found.own.value == pytest.approx(0.8)
    assert found.final.value == pytest.approx(1 - 50 * 0.2 / 100)
    assert found.own.low < 0.8 < found.own.high
    nothing = agreement({"cam-1": device(counted, [tally(100, audit=False, agreed=None)])})
    assert (nothing.final.low, nothing.final.high) == (0.0, 1.0)


def test_audits_that_were_drawn_with_different_chances_count_for_what_they_stand():
    uploads = [
        tally(100, audit=True, weight=50),
        tally(100, audit=True, weight=5, agreed=False),
    ]
    found = agreement({"cam-1": device(from_audits(uploads), uploads)})
    kept = 100 * 49 + 100 * 4
    assert found.final.value == pytest.approx(1 - 100 * 4 / (kept + 200))
    alike = [tally(100, audit=True, weight=27.5), tally(100, audit=True, weight=27.5, agreed=False)]
    evenly = agreement({"cam-1": device(from_audits(alike), alike)})
    # Kish: uneven weights tell less than 200 even ones.
    assert device(from_audits(uploads), uploads).kept_audits < device(from_audits(alike), alike).kept_audits / 1.5
    assert evenly.final.value == pytest.approx(1 - 100 * 26.5 / (200 * 26.5 + 200))


def test_devices_without_audits_are_left_out_and_said_to_be():
    good = Period("cam-1", 1_000, 0, 0, 50, 0.05, 10, 1, 0, 0)
    mute = Composition(kept=3_000, audits=0, hard=0, left=0, basis=Basis.TELEMETRY)
    found = agreement({"cam-1": device(good.composition, good.tallies), "cam-2": device(mute, [])})
    alone = agreement({"cam-1": device(good.composition, good.tallies)})
    assert found.represented == pytest.approx(0.25)
    assert found.samples == 4_000
    assert (found.own, found.final) == (alone.own, alone.final)


def test_nothing_known_is_said_to_be_nothing():
    mute = Composition(kept=300, audits=0, hard=0, left=0, basis=Basis.TELEMETRY)
    for devices in ({}, {"cam-1": device(mute, [])}):
        found = agreement(devices)
        assert (found.own, found.final, found.represented) == (UNKNOWN, UNKNOWN, 0.0)


def test_fleet_weighs_devices_by_their_samples():
    large = Period("cam-1", 9_000, 0, 0, 450, 0.05, 0, 0, 0, 0)
    small = Period("cam-2", 1_000, 0, 0, 50, 0.05, 475, 25, 0, 0)
    found = agreement({p.name: device(p.composition, p.tallies) for p in (large, small)})
    assert found.own.value == pytest.approx(1 - 500 / 10_000)
    mixed = agreement(
        {"cam-1": device(from_audits(large.tallies), large.tallies), "cam-2": device(small.composition, small.tallies)}
    )
    assert mixed.basis is Basis.AUDITS
