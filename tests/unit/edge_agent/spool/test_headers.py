import pytest

from edge_agent.spool.headers import pack, unpack
from shared import codec
from shared.errors import FrameError
from shared.ids import new_id
from shared.messages import Reason, SampleHeader

PLAIN = SampleHeader(
    sample_id=new_id(),
    task="digits",
    seq=1 << 33,
    bundle_version="v1.2.3",
    prediction=3,
    hardness=0.25,
    reason=Reason.HARD,
)


@pytest.mark.parametrize(
    "header",
    [
        PLAIN,
        PLAIN.model_copy(update={"reason": Reason.AUDIT, "inclusion_probability": 0.02, "training_use": False}),
        PLAIN.model_copy(update={"age_ms": 7, "deadline_ms": 200}),
    ],
)
def test_header_comes_back_from_its_row(header):
    assert unpack(header.sample_id, pack(header)) == header


def test_header_takes_less_than_half_of_what_it_takes_on_the_wire():
    assert len(pack(PLAIN)) < 100


@pytest.mark.parametrize(
    "packed",
    [
        b"\xff\x00",
        codec.encode([1, 2]),
        codec.encode({"task": "digits"}),
        codec.encode({**codec.decode(pack(PLAIN)), "unheard_of": 1}),
        codec.encode({**codec.decode(pack(PLAIN)), 7: 1}),
    ],
)
def test_damaged_header_is_a_frame_error(packed):
    with pytest.raises(FrameError):
        unpack(PLAIN.sample_id, packed)
