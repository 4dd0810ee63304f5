import io
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_agent.decoding import images
from shared.errors import SampleError, SettingsError
from shared.manifest import TensorSpec

RGB = TensorSpec(shape=(4, 6, 3), dtype="uint8")


def spec(*shape, dtype="uint8"):
    return TensorSpec(shape=shape, dtype=dtype)


def encoded(array, form="PNG", mode=None, **options):
    stream = io.BytesIO()
    Image.fromarray(array, mode).save(stream, form, **options)
    return stream.getvalue()


def stripes(height, width):
    """Red on the left half, blue on the right."""
    array = np.zeros((height, width, 3), np.uint8)
    array[:, : width // 2, 0] = 255
    array[:, width // 2 :, 2] = 255
    return array


def test_png_of_the_right_size_comes_back_as_it_is():
    array = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(images.decode(encoded(array), RGB), array)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(8, 12), (40, 60), (640, 480), (2, 8), (480, 640)])
def test_image_is_stretched_to_the_tasks_sides(form, size):
    tensor = images.decode(encoded(stripes(*size), form), spec(4, 8, 3))
    assert tensor.shape == (4, 8, 3)
    assert tensor.dtype == np.uint8
    np.testing.assert_allclose(tensor[:, 0].astype(int), [[255, 0, 0]] * 4, atol=20)
    np.testing.assert_allclose(tensor[:, 7].astype(int), [[0, 0, 255]] * 4, atol=20)


def test_shrinking_averages():
    fine = np.zeros((64, 64), np.uint8)
    fine[::2] = 255
    tensor = images.decode(encoded(fine), spec(4, 4))
    assert np.abs(tensor.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(
    ("shape", "pixel"),
    [((4, 8), 76), ((4, 8, 1), [76]), ((4, 8, 3), [255, 0, 0]), ((4, 8, 4), [255, 0, 0, 255])],
)
def test_channels_are_the_tasks(shape, pixel):
    assert images.decode(encoded(stripes(4, 8)), spec(*shape))[0, 0].tolist() == pixel


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_8_bit_kind_of_png_is_read(mode):
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6), 255, np.uint8)).convert(mode).save(stream, "PNG")
    assert (images.decode(stream.getvalue(), RGB) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_kind_of_jpeg_is_read(mode):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (250, 250, 250)).convert(mode).save(stream, "JPEG")
    assert np.abs(images.decode(stream.getvalue(), RGB).astype(int) - 250).max() <= 3


def test_palette_with_a_transparent_colour_is_read_without_a_warning():
    stream = io.BytesIO()
    image = Image.fromarray(np.zeros((4, 6), np.uint8)).convert("P")
    image.save(stream, "PNG", transparency=bytes([0, 128, 7]))
    assert images.decode(stream.getvalue(), RGB).shape == (4, 6, 3)


def test_image_of_16_bits_is_refused_rather_than_cut():
    with pytest.raises(SampleError, match="more than 8 bits a channel: send it as npy or raw"):
        images.decode(encoded(np.zeros((4, 6), np.uint16)), spec(4, 6))


def png_that_claims(width, height):
    """The header of a PNG of this size, and next to nothing of its pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(40_001, 1000), (10_000, 10_000), (100_000, 100_000)])
def test_bomb_is_refused_before_it_is_decoded(size):
    with pytest.raises(SampleError):
        images.decode(png_that_claims(*size), RGB)


def test_pixels_are_counted_first():
    with pytest.raises(SampleError, match="40001×1000; at most 40,000,000 pixels"):
        images.decode(png_that_claims(40_001, 1000), RGB)


def test_other_formats_are_not_even_tried():
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "GIF")
    with pytest.raises(SampleError, match="no whole JPEG or PNG"):
        images.decode(stream.getvalue(), RGB)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@given(cut=st.integers(0, 2000), at=st.integers(0, 2000), value=st.integers(0, 255))
def test_damaged_image_is_refused_or_read_and_nothing_else(form, cut, at, value):
    body = bytearray(encoded(stripes(30, 30), form))
    body[at % len(body)] = value
    try:
        tensor = images.decode(bytes(body[: len(body) - cut % len(body)]), RGB)
    except SampleError:
        return
    assert tensor.shape == RGB.shape


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_half_an_image_is_refused(form):
    body = encoded(np.random.default_rng(1).integers(0, 256, (50, 50, 3), dtype=np.uint8), form)
    with pytest.raises(SampleError, match="no whole JPEG or PNG"):
        images.decode(body[: len(body) // 2], RGB)


@pytest.mark.parametrize("shape", [(3, 32, 32), (10,), (2, 32, 32, 3), (32, 32, 2)])
def test_task_that_takes_no_image_is_told(shape):
    with pytest.raises(SampleError, match=r"an image fits \[H, W\] or \[H, W, 1, 3 or 4\]"):
        images.decode(encoded(stripes(4, 8)), spec(*shape))


def test_without_pillow_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(SettingsError, match=r"pip install 'edgeloop\[images\]'"):
        images.decode(b"", RGB)
