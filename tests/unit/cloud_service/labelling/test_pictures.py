"""What a sample is shown as, and that others read our pictures: Pillow decodes each."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from cloud_service.labelling import pictures
from cloud_service.labelling.pictures import Kind

GENERATOR = np.random.default_rng(0)


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return GENERATOR.integers(0, 255, shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((8, 8), "uint8", Kind.IMAGE),
        ((24, 32, 1), "uint8", Kind.IMAGE),
        ((24, 32, 3), "uint8", Kind.IMAGE),
        ((3, 24, 32), "uint8", Kind.IMAGE),
        ((1, 24, 32), "uint8", Kind.IMAGE),
        ((24, 32, 4), "uint8", Kind.LINK),
        ((24, 32, 3), "float32", Kind.LINK),
        ((128, 6), "float32", Kind.SERIES),
        ((6, 128), "int16", Kind.SERIES),
        ((128, 16), "float32", Kind.SERIES),
        ((128, 17), "float32", Kind.IMAGE),
        ((16_000,), "int16", Kind.SERIES),
        ((9,), "uint8", Kind.SERIES),
        ((2, 3, 4, 5), "uint8", Kind.LINK),
        ((0, 8), "uint8", Kind.LINK),
        ((), "uint8", Kind.LINK),
    ],
)
def test_kind_follows_from_shape_and_type(shape, dtype, kind):
    assert pictures.kind_of(shape, np.dtype(dtype)) is kind


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 5, 7), (5, 7, 3), (3, 5, 7)])
def test_png_is_read_back_by_others_pixel_by_pixel(shape):
    tensor = noise(*shape)
    wanted = np.moveaxis(tensor, 0, 2) if shape[0] in (1, 3) and len(shape) == 3 else tensor
    with Image.open(io.BytesIO(pictures.png(pictures.picture(tensor)))) as image:
        assert image.format == "PNG"
        assert image.mode == ("RGB" if 3 in shape else "L")
        assert np.array_equal(np.asarray(image), wanted.squeeze())


def test_floats_are_spread_from_black_to_white():
    tensor = np.linspace(-2.0, 3.0, 400, dtype=np.float32).reshape(20, 20)
    made = pictures.picture(tensor)
    assert (made.dtype, made.min(), made.max(), made.flat[200]) == (np.uint8, 0, 255, 128)
    assert not pictures.picture(np.full((20, 20), 7.0)).any()
    assert pictures.picture(np.where(tensor > 2.9, np.nan, tensor)).max() == 255


def test_dark_picture_is_brightened_and_others_stay_as_they_are():
    dark = np.arange(17, dtype=np.uint8).repeat(2).reshape(2, 17)
    assert np.array_equal(pictures.picture(dark), dark * 15)
    assert np.array_equal(pictures.picture(dark[:, :, np.newaxis]), dark * 15)
    for same in (np.zeros((4, 4), np.uint8), np.full((4, 4), 64, np.uint8), np.full((4, 4, 3), 255, np.uint8)):
        assert np.array_equal(pictures.picture(same), same)


def test_no_picture_is_made_of_what_is_none():
    with pytest.raises(ValueError, match="not a picture"):
        pictures.picture(noise(4, 4, 4, 4))
    with pytest.raises(ValueError, match="no curves"):
        pictures.columns(noise(4, 4, 4))


def test_small_pictures_are_enlarged_by_whole_pixels():
    tensor = noise(8, 10)
    large = pictures.enlarged(tensor)
    assert large.shape == (128, 160)
    assert np.array_equal(large[::16, ::16], tensor)
    assert pictures.enlarged(noise(100, 65, 3)).shape == (100, 65, 3)


def test_curves_run_along_the_longer_axis():
    tensor = noise(6, 50, dtype="int16")
    for each in (tensor, tensor.T):
        named = pictures.columns(each)
        assert list(named) == ["step", *pictures.channels(each.shape)] == ["step", "c0", "c1", "c2", "c3", "c4", "c5"]
        assert named["step"] == [float(step) for step in range(50)]
        assert named["c3"] == tensor[3].tolist()
    assert list(pictures.columns(noise(9))) == ["step", *pictures.channels((9,))]


def test_curves_have_gaps_where_there_is_no_number():
    values = np.array([1.23456789, math.nan, math.inf], np.float32)
    assert pictures.columns(values)["c0"] == [1.23457, None, None]


def test_sketch_has_the_darkest_letter_for_white_and_stays_within_its_width():
    tensor = np.zeros((4, 6), np.uint8)
    tensor[1, 2] = 255
    assert pictures.sketch(tensor, width=80) == ["", "    @@", "", ""]
    assert max(map(len, pictures.sketch(np.full((300, 500, 3), 255, np.uint8), width=64))) <= 64
