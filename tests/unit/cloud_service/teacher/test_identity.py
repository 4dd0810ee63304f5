import re
import sys

import pytest
from onnx import load_model, save_model

from cloud_service.errors import TeacherError
from cloud_service.teacher.choice import Choice
from cloud_service.teacher.identity import (
    ensemble_version,
    external_files,
    measured_on,
    member_version,
    processor,
    source_digest,
    source_hashes,
)
from cloud_service.teacher.settings import Backend, TeacherSettings
from shared.topics import NAME_PATTERN
from tests.sim.bundles import linear_model, weights

FLOAT, INT8 = Choice(Backend.ONNXRUNTIME), Choice(Backend.INT8)


@pytest.fixture
def file(tmp_path):
    target = tmp_path / "my teacher (v2).onnx"
    target.write_bytes(linear_model(weights(64, 10)))
    return target


def teacher(file, **values):
    return TeacherSettings(model=str(file), **values)


def version(settings, choice=FLOAT, **values):
    return member_version(settings, source_hashes(settings), choice, **values)


def test_version_names_file_and_backend_and_is_a_name_on_the_wire(file):
    said = version(teacher(file))
    assert re.fullmatch(r"my-teacher-v2-onnx-[0-9a-f]{12}", said)
    assert re.match(NAME_PATTERN, said)
    long = file.with_name("x" * 200 + ".onnx")
    long.write_bytes(file.read_bytes())
    assert re.match(NAME_PATTERN, version(teacher(long)))


def test_version_changes_with_all_that_decides_the_answers_and_nothing_else(file, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "seen_twice.py").write_text("def views(x): return x[None]\n")
    views = {"augmentations": "seen_twice:views"}
    said = [
        version(teacher(file)),
        version(teacher(file), INT8, converted_sha256="a"),
        version(teacher(file), INT8, converted_sha256="b"),
        version(teacher(file, temperature=2.0)),
        version(teacher(file, **views)),
    ]
    (tmp_path / "seen_twice.py").write_text("def views(x): return x[None] * 2\n")
    said.append(version(teacher(file, **views)))
    same = version(teacher(file, share=3.0, max_drop=0.5, threads=2))
    assert same == said[0]
    file.write_bytes(linear_model(weights(64, 10, shift=1)))
    said.append(version(teacher(file)))
    assert len(set(said)) == len(said)


def test_version_of_a_factory_covers_its_code_and_weights(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code, state = tmp_path / "nets_for_identity.py", tmp_path / "w.pt"
    said = set()
    for text, data in (("A = 1", b"1"), ("A = 2", b"1"), ("A = 2", b"2")):
        code.write_text(text)
        state.write_bytes(data)
        said.add(version(TeacherSettings(model="nets_for_identity:make", weights=state), Choice(Backend.TORCH)))
    assert len(said) == 3
    assert all(one.startswith("make-torch-") for one in said)
    assert "nets_for_identity" not in sys.modules


def test_factory_of_a_module_that_is_not_there_has_no_code(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"1")
    hashes = source_hashes(TeacherSettings(model="no_such.module:make", weights=tmp_path / "w.pt"))
    assert hashes["code"] == ""


def test_weights_beside_an_onnx_file_count(file, tmp_path):
    target = tmp_path / "outside.onnx"
    save_model(load_model(file), target, save_as_external_data=True, location="outside.data", size_threshold=0)
    assert external_files(target) == ["outside.data"]
    assert external_files(file) == []
    before = version(teacher(target))
    data = bytearray((tmp_path / "outside.data").read_bytes())
    data[3] ^= 1
    (tmp_path / "outside.data").write_bytes(data)
    assert version(teacher(target)) != before
    (tmp_path / "outside.data").unlink()
    with pytest.raises(TeacherError, match=r"outside\.data"):
        source_hashes(teacher(target))


def test_digest_changes_with_the_source_the_task_and_how_it_is_converted(file):
    hashes = source_hashes(teacher(file))
    said = {
        source_digest(hashes, teacher=teacher(file), terms=((8, 8), "uint8", 10)),
        source_digest(hashes, teacher=teacher(file), terms=((8, 8), "uint8", 9)),
        source_digest(hashes, teacher=teacher(file, threads=2), terms=((8, 8), "uint8", 10)),
        source_digest(hashes | {"file 1": "x"}, teacher=teacher(file), terms=((8, 8), "uint8", 10)),
    }
    assert len(said) == 4
    again = source_digest(hashes, teacher=teacher(file, temperature=3.0), terms=((8, 8), "uint8", 10))
    assert again in said


def test_ensembles_version_depends_on_members_and_shares():
    assert ensemble_version(["a"], [1.0]) == "a"
    said = {ensemble_version(["a", "b"], shares) for shares in ([1.0, 1.0], [2.0, 1.0])} | {
        ensemble_version(["a", "c"], [1.0, 1.0])
    }
    assert len(said) == 3
    assert all(one.startswith("ensemble2-") for one in said)


def test_measurement_holds_for_libraries_processor_and_samples(tmp_path):
    none = measured_on(tmp_path / "base.npz")
    assert none["base_data"] == "none"
    assert {"onnxruntime", "torch", "processor"} <= none.keys()
    (tmp_path / "base.npz").write_bytes(b"1")
    assert measured_on(tmp_path / "base.npz")["base_data"] != "none"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the processor's name is read from /proc")
def test_processor_has_a_name_here():
    assert re.match(r"\d+ × .+", processor())
