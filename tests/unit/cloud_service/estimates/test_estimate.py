import pytest

from cloud_service.estimates.composition import Basis, Composition
from cloud_service.estimates.estimate import Expectations, estimates
from tests.sim.field import Period, tally

EXPECTED = Expectations(agreement=0.97, teacher_accuracy=0.9)


def period(name="cam-1", *, audits=200, differing=2):
    return Period(name, audits * 20, 500, 0, audits, 0.05, differing * 19, differing, 200, 0)


def of(periods, expected=EXPECTED, extra=()):
    tallies = [tally for period in periods for tally in period.tallies]
    return estimates("digits", [*tallies, *extra], {p.name: p.composition for p in periods}, expected)


def test_fleet_comes_first_and_then_each_device():
    found = of([period("cam-2"), period("cam-1", differing=0)])
    assert [(each.task, each.device) for each in found] == [("digits", None), ("digits", "cam-1"), ("digits", "cam-2")]
    assert found[1].agreement.final.value == 1.0
    assert found[0].agreement.audits == 400
    assert [each.warnings for each in found] == [(), (), ()]


def test_device_that_only_telemetry_knows_is_there():
    mute = Composition(kept=4_000, audits=0, hard=0, left=0, basis=Basis.TELEMETRY)
    found = estimates("digits", period().tallies, {"cam-1": period().composition, "cam-9": mute}, EXPECTED)
    assert [each.device for each in found] == [None, "cam-1", "cam-9"]
    assert "0 audits say little" in found[2].warnings[0]
    (warning,) = found[0].warnings
    assert warning == "47% of the samples are on devices without audits and not in this"


def test_empty_fleet_has_no_warnings():
    (found,) = estimates("digits", [], {}, EXPECTED)
    assert (found.device, found.warnings, found.accuracy) == (None, (), ())


def test_few_audits_and_missing_telemetry_are_said():
    few = period(audits=20, differing=0)
    found = estimates("digits", few.tallies, {}, EXPECTED)
    assert [text.partition(":")[0] for text in found[1].warnings] == [
        "20 audits say little about what stayed on the device",
        "without two telemetry reports of every device, hard samples that stayed there are not counted",
    ]


def test_agreement_that_is_surely_below_the_goal_is_said():
    (fleet, device) = of([period(differing=20)])
    assert fleet.warnings == device.warnings
    (warning,) = device.warnings
    assert warning.startswith("at most 94.")
    assert warning.endswith("the goal is 97.0%")
    assert of([period(differing=6)])[0].warnings == ()


def labelled(edge, teacher, count, *, audit=True):
    weight = 20.0 if audit else 1.0
    return tally(count, audit=audit, weight=weight, agreed=edge == teacher, edge_right=edge, teacher_right=teacher)


def test_teacher_that_labels_show_to_be_worse_is_said():
    extra = [labelled(True, True, 80), labelled(True, False, 15), labelled(False, True, 2)]
    warnings = of([period()], extra=extra)[1].warnings
    on_audits, on_all = [text for text in warnings if "the teacher is right less often" in text]
    assert on_audits.startswith("on 97 labelled audits the teacher is right less often (84.5%) than the device")
    assert on_all.startswith("on the 97 samples that people chose to label")


def test_teacher_that_is_not_surely_worse_is_left_in_peace():
    extra = [labelled(True, True, 90), labelled(True, False, 6), labelled(False, True, 3)]
    assert of([period()], extra=extra)[1].warnings == ()


def test_teacher_that_is_wrong_often_is_said():
    extra = [labelled(True, True, 60), labelled(False, False, 40)]
    warnings = of([period()], extra=extra)[0].warnings
    assert warnings[0] == (
        "on 100 labelled audits the teacher is right in at most 69.1%: agreement with it says little about being right"
    )


@pytest.mark.parametrize("audit", [True, False])
def test_accuracy_is_of_audits_and_of_all_labels(audit):
    (fleet, _) = of([period()], extra=[labelled(True, True, 10, audit=audit)])
    assert [found.labelled.value for found in fleet.accuracy] == (["audits", "all"] if audit else ["all"])
