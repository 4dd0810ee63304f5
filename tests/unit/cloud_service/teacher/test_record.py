import hashlib
import json

import pytest

from cloud_service.teacher.choice import Choice, Device, Measured
from cloud_service.teacher.record import CHOICE, INT8, Record, read_record, write_record
from cloud_service.teacher.settings import Backend

HERE = {"onnxruntime": "1", "processor": "2 × x"}


@pytest.fixture
def record(tmp_path):
    (tmp_path / INT8).write_bytes(b"model")
    measured = Measured(Backend.INT8, Device.CPU, {1: 10.0, 8: 9.0}, 0.999, 0.98)
    made = Record(
        HERE,
        Choice(Backend.INT8, max_batch=8, reason="why"),
        INT8,
        hashlib.sha256(b"model").hexdigest(),
        512,
        (measured, Measured(Backend.TORCH, refused="gone")),
    )
    write_record(tmp_path, made)
    return made


def test_record_is_read_as_written(tmp_path, record):
    assert read_record(tmp_path, HERE) == record
    assert json.loads((tmp_path / CHOICE).read_text())["measured"][0]["us_per_sample"] == {"1": 10.0, "8": 9.0}


def test_no_record_is_none(tmp_path):
    assert read_record(tmp_path, HERE) is None


@pytest.mark.parametrize("there", [{"onnxruntime": "2"}, {"processor": "4 × y"}, {"torch": "3"}])
def test_record_of_another_host_or_library_does_not_hold(tmp_path, record, there, caplog):
    caplog.set_level("INFO")
    assert read_record(tmp_path, HERE | there) is None
    assert f"changed since: {next(iter(there))}" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"choice": {"backend": "magic"}}'])
def test_broken_record_is_none_and_said(tmp_path, record, text, caplog):
    (tmp_path / CHOICE).write_text(text)
    assert read_record(tmp_path, HERE) is None
    assert "measured again" in caplog.text


@pytest.mark.parametrize("data", [b"other", None])
def test_record_whose_file_is_not_what_was_written_does_not_hold(tmp_path, record, data):
    (tmp_path / INT8).unlink()
    if data is not None:
        (tmp_path / INT8).write_bytes(data)
    assert read_record(tmp_path, HERE) is None
