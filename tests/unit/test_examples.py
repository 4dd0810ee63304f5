"""The examples do what their pages say."""

from pathlib import Path

import numpy as np

from edge_agent import redaction
from edge_agent.redaction import Departing
from shared.messages import Reason

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def departing(tensor, label="cat"):
    return Departing("door", tensor, label, 0.5, Reason.HARD)


def test_blurring_hook_keeps_the_shape_and_loses_the_detail():
    hook = redaction.load(f"{EXAMPLES / 'redaction/blur.py'}:blur")
    image = np.random.default_rng(1).integers(0, 256, (10, 9, 3)).astype(np.uint8)
    blurred = hook(departing(image))
    assert blurred.shape == image.shape
    assert (blurred[0:4, 4:8] == blurred[0, 4]).all()
    np.testing.assert_allclose(blurred[0, 4], image[0:4, 4:8].mean(axis=(0, 1)), atol=0.51)
    assert (blurred[8:] == 0).all()
    assert hook(departing(image[:, :, 0])).shape == (10, 9)


def test_withholding_hook_keeps_some_labels_and_the_dark_at_home():
    hook = redaction.load(f"{EXAMPLES / 'redaction/withhold.py'}:withhold")
    image = np.full((8, 8), 100, np.uint8)
    assert hook(departing(image)) is not None
    assert hook(departing(image, "person")) is None
    assert hook(departing(image // 10)) is None
