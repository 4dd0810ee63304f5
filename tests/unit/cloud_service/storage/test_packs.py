import hashlib
import io

import cbor2
import numpy as np
import pytest

from cloud_service.storage.packs import pack_payloads, pack_tensors
from shared import codec

TENSORS = [np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones(5, np.float32), np.array(3, np.int16)]


def test_each_payload_of_a_pack_can_be_read_alone():
    pack = pack_tensors(TENSORS)
    for tensor, place in zip(TENSORS, pack.places, strict=True):
        payload = pack.data[place.start : place.start + place.size]
        assert place.blob == hashlib.sha256(payload).hexdigest()
        found = codec.decode(payload)
        assert found.dtype == tensor.dtype
        assert np.array_equal(found, tensor)
    assert sum(place.size for place in pack.places) == len(pack.data)


def test_pack_is_a_cbor_sequence():
    pack = pack_tensors(TENSORS)
    assert pack.data == b"".join(codec.encode(tensor) for tensor in TENSORS)
    decoder = cbor2.CBORDecoder(io.BytesIO(pack.data))
    assert len([decoder.decode() for _ in TENSORS]) == 3


def test_same_payload_lies_in_a_pack_once():
    pack = pack_tensors([TENSORS[0], TENSORS[1], TENSORS[0]])
    assert pack.places[0] == pack.places[2]
    assert len(pack.data) == pack.places[0].size + pack.places[1].size


def test_payloads_of_a_pack_make_another():
    pack = pack_tensors(TENSORS)
    kept = pack.places[2]
    moved = pack_payloads([pack.data[kept.start : kept.start + kept.size]])
    assert (moved.places[0].blob, moved.places[0].start) == (kept.blob, 0)
    assert moved == pack_tensors(TENSORS[2:])


def test_tensor_of_a_kind_that_no_frame_carries_is_refused():
    with pytest.raises(TypeError, match="complex"):
        pack_tensors([np.zeros(2, complex)])
