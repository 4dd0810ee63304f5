"""What counts as lost, so that a zero in the report means something."""

from cloud_service.demo.evidence import lost
from cloud_service.demo.journal import Answer
from cloud_service.demo.stage import STREAM_REFERENCE


def answer(
    name: str, *, test_image: bool = False, offloaded: bool = True, dropped: bool = False, answered: bool = True
):
    return Answer(
        at_s=0.0,
        sample_id=name,
        seq=1,
        reference=0 if test_image else STREAM_REFERENCE,
        prediction=1,
        offloaded=offloaded,
        dropped=dropped,
        audit=False,
        version="v1",
        infer_us=10.0,
        total_us=50.0,
        verdict=1 if answered else None,
    )


def test_answered_and_stored_samples_and_test_images_are_not_lost():
    answers = [answer("a"), answer("exam", test_image=True), answer("kept", offloaded=False, answered=False)]
    assert lost(answers, stored={"a", "another"}) == set()


def test_dropped_unanswered_and_unstored_samples_are_lost():
    answers = [
        answer("silent", answered=False),
        answer("silent-exam", test_image=True, answered=False),
        answer("not-stored"),
        answer("dropped", offloaded=False, dropped=True, answered=False),
        answer("fine"),
    ]
    found = lost(answers, stored={"silent", "fine"})
    assert found == {"silent", "silent-exam", "not-stored", "dropped"}
