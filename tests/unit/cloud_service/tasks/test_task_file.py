import json

import numpy as np
import pytest

from cloud_service.settings import CloudSettings
from cloud_service.tasks.task_file import line_of, read_task_file
from shared.errors import SettingsError


@pytest.fixture
async def shake(edgeloop, tmp_path):
    assert (await edgeloop("task", "init", "shake", "--folder", tmp_path))[0] == 0
    return tmp_path / "shake.toml"


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return next(n for n, line in enumerate(file.read_text().splitlines(), 1) if new.splitlines()[-1] in line)


async def test_task_file_that_init_writes_checks(edgeloop, shake):
    code, out, err = await edgeloop("task", "check", shake)
    assert (code, err) == (0, "")
    assert "profile small: fits" in out
    assert "12610 parameters" in out


async def test_existing_task_is_not_overwritten(edgeloop, shake):
    code, _, err = await edgeloop("task", "init", "shake", "--folder", shake.parent)
    assert code != 0
    assert "exists" in err


async def test_show_gives_the_defaults(edgeloop, shake):
    shown = json.loads((await edgeloop("task", "show", shake))[1])
    assert shown["training"]["batch"] == 128
    assert shown["base_data"] == str(shake.parent / "shake-base.npz")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("input_rate_hz", "input_rate_hs", "did you mean 'input_rate_hz'"),
        ("base_tolerance", "bse_tolerance", "did you mean 'base_tolerance'"),
        ("steps = 500", "steps = -1", "greater than 0"),
        ('"edgeloop:cnn1d" ', '"edgeloop" ', "student"),
    ],
)
async def test_wrong_key_is_named_with_its_line(edgeloop, shake, old, new, said):
    line = change(shake, old, new)
    code, _, err = await edgeloop("task", "check", shake)
    assert code != 0
    assert f"shake.toml:{line}:" in err
    assert said in err


@pytest.mark.parametrize(
    ("old", "new", "blamed", "said"),
    [
        ('input_kind = "window"', 'input_kind = "audio"', "input_kind =", "takes one channel"),
        ("[64, 3]", "[4, 4, 4]", "input_kind =", "takes 1 or 2 axes"),
        ('method = "standardise"', 'method = "log-mel"', "[preprocessing]", 'set input_kind = "audio"'),
        (
            'student = "edgeloop:cnn1d"',
            'student = "cloud_service.tasks.networks:TinyMlp"',
            "[preprocessing]",
            "does its own",
        ),
        ('"still", "moving"', '"still", "still"', "labels =", "must differ"),
    ],
)
async def test_impossible_combination_is_refused_with_its_line_and_the_remedy(edgeloop, shake, old, new, blamed, said):
    change(shake, old, new)
    (line,) = (n for n, text in enumerate(shake.read_text().splitlines(), start=1) if text.startswith(blamed))
    code, _, err = await edgeloop("task", "check", shake)
    assert code != 0
    assert f"shake.toml:{line}: {blamed.strip('[]= ')}" in err
    assert said in err


async def test_student_that_fits_no_profile_is_refused(edgeloop, shake):
    change(shake, "100_000", "9_000")
    code, _, err = await edgeloop("task", "check", shake)
    assert code != 0
    assert "fits no profile" in err


async def test_class_without_a_sample_is_refused(edgeloop, shake):
    change(shake, '"still", "moving"', '"still", "moving", "lost"')
    _, _, err = await edgeloop("task", "check", shake)
    assert "no sample of lost" in err


async def test_service_reads_a_task_from_its_file(shake):
    cloud = shake.parent / "cloud.toml"
    cloud.write_text('[tasks.shake]\nfile = "shake.toml"\nverdict_top_k = 1\n')
    task = CloudSettings.read(cloud, environ={}).tasks["shake"]
    assert task.labels == ("still", "moving")
    assert task.verdict_top_k == 1
    assert task.base_data == shake.parent / "shake-base.npz"
    assert task.definition == read_task_file(shake)


async def test_task_under_another_name_than_its_file_is_refused(shake):
    cloud = shake.parent / "cloud.toml"
    cloud.write_text('[tasks.other]\nfile = "shake.toml"\n')
    with pytest.raises(SettingsError, match="is named 'shake'"):
        CloudSettings.read(cloud, environ={})


def test_line_of_finds_arrays_of_tables_and_dotted_keys():
    text = 'a = 1\n[[v]]\nname = "x"\n[[v]]\nname = "y"\n[v.prune]\nrounds = 0\n[g]\nh.i = 2\n'
    assert line_of(text, ("v", 0, "name")) == 3
    assert line_of(text, ("v", 1, "prune", "rounds")) == 7
    assert line_of(text, ("g", "h", "i")) == 9
    assert line_of(text, ("missing",)) == 1


def test_nan_and_one_label_are_refused(tmp_path):
    from cloud_service.tasks.data import load_base
    from cloud_service.tasks.task import TaskDefinition

    task = TaskDefinition(
        name="t", labels=("a", "b"), input_shape=(2,), input_dtype="float32",
        teacher=tmp_path / "t.onnx", base_data=tmp_path / "b.npz",
    )  # fmt: skip
    x, y = np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1])
    bad = x.copy()
    bad[2, 1] = np.nan
    np.savez(task.base_data, x=bad, y=y, x_eval=x, y_eval=y)
    with pytest.raises(SettingsError, match="1 samples, the first is number 2"):
        load_base(task)
    np.savez(task.base_data, x=x, y=y * 0, x_eval=x, y_eval=y)
    with pytest.raises(SettingsError, match="nothing can be learnt from one label"):
        load_base(task)
