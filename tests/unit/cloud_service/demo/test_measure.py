"""What the demo claims, against figures worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from cloud_service.demo.journal import Answer, DeviceJournal
from cloud_service.demo.measure import curve, longest_near_swap_ms, standing
from cloud_service.demo.stage import Device

LABELS = np.array([0, 1, 2, 3])


def answer(
    reference: int,
    prediction: int,
    *,
    verdict: int | None = None,
    version: str = "v1",
    total_us: float = 50.0,
    at_s: float = 0.0,
) -> Answer:
    return Answer(
        at_s=at_s,
        sample_id=f"{version}-{reference}",
        seq=reference,
        reference=reference,
        prediction=prediction,
        offloaded=verdict is not None,
        dropped=False,
        audit=False,
        version=version,
        infer_us=10.0 * (reference + 1),
        total_us=total_us,
        verdict=verdict,
    )


def journal(*answers: Answer) -> DeviceJournal:
    empty = Path()
    return DeviceJournal(Device("d", empty, empty, exam_size=4, stream_size=0), answers=list(answers))


def test_standing_of_two_devices_is_that_of_all_their_images() -> None:
    journals = [journal(answer(0, 0), answer(1, 9, verdict=1)), journal(answer(2, 9, verdict=8), answer(3, 9))]
    found = standing(journals, "v1", LABELS)
    assert found.edge_field == 0.25  # image 0 alone
    assert found.system_field == 0.5  # image 0, and image 1 by its verdict; the verdict on image 2 is wrong
    assert found.offload_rate == 0.5
    assert found.latency_us == 25.0
    assert found.images == 4


def test_standing_of_a_model_that_no_device_ran_is_an_error() -> None:
    with pytest.raises(ValueError, match="v2"):
        standing([journal(answer(0, 0))], "v2", LABELS)


def test_curve_is_a_moving_average_in_order_of_time() -> None:
    journals = [journal(answer(0, 0, at_s=1.0), answer(1, 9, at_s=3.0)), journal(answer(2, 2, at_s=2.0, verdict=2))]
    found = curve(journals, LABELS, window=2)
    assert found.at_s.tolist() == [1.0, 2.0, 3.0]
    assert found.edge.tolist() == [1.0, 1.0, 0.5]
    assert found.offload.tolist() == [0.0, 0.5, 0.5]


def test_curve_without_answers_is_empty() -> None:
    assert curve([journal()], LABELS).edge.tolist() == []


def test_longest_near_swap_looks_only_around_the_change_of_models() -> None:
    answers = [answer(0, 0, total_us=9_000.0)]
    answers += [answer(0, 0) for _ in range(40)]
    answers += [answer(0, 0, version="v2", total_us=2_000.0), answer(0, 0, version="v2")]
    assert longest_near_swap_ms(answers) == 2.0
    assert longest_near_swap_ms(answers[:30]) == 0.0
