import numpy as np
import pytest

from cloud_service.demo.data import Split, load

SIZES = {
    "source_train": 3500,
    "source_eval": 500,
    "source_test": 1000,
    "field_labelled": 500,
    "field_stream": 600,
    "field_test": 697,
}


@pytest.fixture(scope="module")
def drawn():
    return {split: load(0, split) for split in Split}


@pytest.mark.parametrize("split", list(Split))
def test_parts_have_their_sizes_and_the_sensors_range(drawn, split):
    for name, size in SIZES.items():
        part = getattr(drawn[split], name)
        assert len(part) == size
        assert part.x.shape == (size, 8, 8)
        assert part.x.dtype == np.uint8
        assert part.x.max() == 16
        assert set(part.y.tolist()) == set(range(10))


@pytest.mark.parametrize("split", list(Split))
def test_no_picture_is_in_two_parts(drawn, split):
    from sklearn.datasets import load_digits

    field = [getattr(drawn[split], name).x for name in ("field_labelled", "field_stream", "field_test")]
    whole = load_digits().images.astype(np.uint8)
    assert sorted(x.tobytes() for part in field for x in part) == sorted(x.tobytes() for x in whole)
    source = [getattr(drawn[split], name).x for name in ("source_train", "source_eval", "source_test")]
    assert sum(len(part) for part in source) == 5000
    assert len({x.tobytes() for part in source for x in part}) > 4990


def test_writers_split_holds_the_end_of_the_file_out(drawn):
    from sklearn.datasets import load_digits

    digits = load_digits()
    assert np.array_equal(drawn[Split.WRITERS].field_test.x, digits.images[-697:].astype(np.uint8))
    assert np.array_equal(drawn[Split.WRITERS].field_test.y, digits.target[-697:])


def test_split_follows_its_seed(drawn):
    again, other = load(0, Split.RANDOM), load(1, Split.RANDOM)
    assert np.array_equal(again.field_test.x, drawn[Split.RANDOM].field_test.x)
    assert not np.array_equal(other.field_test.x, drawn[Split.RANDOM].field_test.x)
    assert not np.array_equal(other.source_test.x, drawn[Split.RANDOM].source_test.x)
