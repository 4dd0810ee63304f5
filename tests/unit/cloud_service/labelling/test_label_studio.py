"""Tasks and config as Label Studio wants them; docs/log.md says what its own SDK said about each of these kinds."""

import base64
import io
import json
from uuid import uuid4
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from cloud_service.labelling import label_studio
from cloud_service.labelling.label_studio import Said
from cloud_service.labelling.pictures import Kind
from shared.manifest import TensorSpec

LABELS = ("left & right", '<b>"both"</b>', "none")


@pytest.mark.parametrize(
    ("shape", "dtype", "tag", "value"),
    [
        ((8, 8), "uint8", "Image", "$image"),
        ((32, 32, 3), "uint8", "Image", "$image"),
        ((128, 2), "float32", "TimeSeries", "$series"),
        ((2, 3, 4, 5), "uint8", "HyperText", "$link"),
    ],
)
def test_config_shows_the_input_and_offers_every_label(shape, dtype, tag, value):
    view = ET.fromstring(label_studio.config(LABELS, TensorSpec(shape=shape, dtype=dtype)))
    shown, control = list(view)
    assert (view.tag, shown.tag, shown.get("value")) == ("View", tag, value)
    assert (control.tag, control.get("toName"), control.get("choice")) == ("Choices", shown.get("name"), "single")
    assert tuple(choice.get("value") for choice in control) == LABELS
    if tag == "TimeSeries":
        assert [channel.get("column") for channel in shown] == ["c0", "c1"]
        assert (shown.get("timeColumn"), shown.get("valueType")) == ("step", "json")


def test_task_names_the_sample_and_has_answers_as_predictions():
    sample_id = uuid4()
    said = [Said("none", 0.9, "teacher t1"), Said("left & right", 0.2, "edge v1")]
    task = label_studio.task(sample_id, {"image": "…"}, said=said)
    assert task["data"] == {"sample_id": str(sample_id), "image": "…"}
    assert [(each["model_version"], each["score"]) for each in task["predictions"]] == [
        ("teacher t1", 0.9),
        ("edge v1", 0.2),
    ]
    (result,) = task["predictions"][0]["result"]
    assert result["value"] == {"choices": ["none"]}
    assert (result["from_name"], result["to_name"], result["type"]) == ("label", "sample", "choices")
    assert "annotations" not in task


def test_label_of_a_person_is_an_annotation():
    (annotation,) = label_studio.task(uuid4(), {}, said=[], human="none")["annotations"]
    assert annotation["result"][0]["value"] == {"choices": ["none"]}
    assert annotation["was_cancelled"] is False


def test_picture_is_a_data_url_that_is_large_enough_to_read():
    tensor = np.arange(64, 128, dtype=np.uint8).reshape(8, 8)
    url = str(label_studio.shown(tensor, Kind.IMAGE, link=""))
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        assert np.array_equal(np.asarray(image)[::16, ::16], tensor)


def test_series_and_link_are_json_and_escaped():
    series = label_studio.shown(np.array([[1, 2], [3, 4], [5, 6]], np.int16), Kind.SERIES, link="")
    assert json.loads(json.dumps(series)) == {"step": [0, 1, 2], "c0": [1, 3, 5], "c1": [2, 4, 6]}
    link = label_studio.shown(np.zeros((2, 2, 2, 2), np.uint8), Kind.LINK, link='http://cloud/t?a=1&b="2"')
    assert ET.fromstring(str(link)).find("a").get("href") == 'http://cloud/t?a=1&b="2"'
