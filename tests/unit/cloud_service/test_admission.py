import numpy as np
import pytest

from cloud_service.admission import MAX_SEQ, Terms, admit
from cloud_service.storage.samples import NewSample
from shared import codec, messages
from shared.errors import MalformedFrame, OversizeFrame, UnknownSchema
from shared.manifest import TensorSpec
from shared.messages import Refusal
from tests.sim.bundles import sample
from tests.sim.device import header

TERMS = {"digits": Terms(TensorSpec(shape=(8, 8), dtype="uint8"), 10)}


def admitted(frame: bytes, *, max_bytes: int = 10_000):
    return admit("cam-1", frame, terms=TERMS, max_bytes=max_bytes)


def test_admit_takes_a_sample_of_the_task():
    sent = header(prediction=9, seq=MAX_SEQ)
    result = admitted(messages.encode_sample(sent, sample(3)))
    assert isinstance(result, NewSample)
    assert (result.device, result.header) == ("cam-1", sent)
    assert np.array_equal(result.tensor, sample(3))


@pytest.mark.parametrize(
    ("tensor", "changes", "words"),
    [
        (np.zeros((8, 9), np.uint8), {}, "[8, 9]"),
        (np.zeros((8, 8), np.int8), {}, "int8"),
        (np.zeros((1, 8, 8), np.uint8), {}, "[1, 8, 8]"),
        (sample(1), {"task": "sounds"}, "the cloud serves: digits"),
        (sample(1), {"prediction": 10}, "10 labels"),
        (sample(1), {"seq": MAX_SEQ + 1}, "seq"),
    ],
)
def test_admit_refuses_for_good_what_the_task_never_takes(tensor, changes, words):
    sent = header(**changes)
    result = admitted(messages.encode_sample(sent, tensor))
    assert isinstance(result, Refusal)
    assert result.message_id == sent.sample_id
    assert words in result.reason


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"", MalformedFrame),
        (b"\xff", MalformedFrame),
        (codec.encode({"header": {}, "tensor": sample(1)}), MalformedFrame),
        (codec.encode({"header": header().model_dump(), "tensor": [1, 2]}), MalformedFrame),
        (codec.encode({"header": header().model_dump() | {"schema_version": 9}, "tensor": sample(1)}), UnknownSchema),
        (bytes(10_001), OversizeFrame),
    ],
)
def test_admit_cannot_name_the_sample_in_an_unreadable_frame(frame, error):
    with pytest.raises(error):
        admitted(frame)
