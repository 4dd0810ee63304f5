import wave

import numpy as np
import pytest
from PIL import Image

from cloud_service.tasks.data import load_base
from cloud_service.tasks.task import TaskDefinition
from shared.errors import SettingsError


def task(data, shape=(4, 4), dtype="uint8", **more):
    return TaskDefinition(
        name="t", labels=("cat", "dog"), input_shape=shape, input_dtype=dtype, teacher="t.onnx", base_data=data, **more
    )


def given(task):
    rows = np.arange(6) % 2
    x = np.zeros((6, *task.input_shape), task.input_dtype)
    return {"x": x, "y": rows, "x_eval": x, "y_eval": rows}


@pytest.fixture
def pictures(tmp_path):
    for label, value in (("cat", 10), ("dog", 200)):
        (tmp_path / "p" / label).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (8, 8), value).save(tmp_path / "p" / label / f"{number}.png")
    return tmp_path / "p"


def test_class_folders_of_pictures_are_read_and_every_fifth_held_out(pictures):
    base = load_base(task(pictures))
    assert base.x.shape == (8, 4, 4)
    assert base.y.tolist() == [0] * 4 + [1] * 4
    assert base.x_eval[:, 0, 0].tolist() == [10, 200]


def test_folder_with_another_label_or_a_class_missing_is_refused(pictures):
    (pictures / "cow").mkdir()
    with pytest.raises(SettingsError, match="cow, which the task's labels do not name"):
        load_base(task(pictures))
    (pictures / "cow").rmdir()
    (pictures / "dog").rename(pictures / ".." / "dog")
    with pytest.raises(SettingsError, match="no sample of dog"):
        load_base(task(pictures))


def test_file_that_is_no_picture_is_named(pictures):
    (pictures / "cat" / "9.png").write_bytes(b"no")
    with pytest.raises(SettingsError, match=r"9\.png is no picture"):
        load_base(task(pictures))


def write_sound(path, rate=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.arange(60, dtype="<i2").tobytes())


def test_sounds_are_cut_or_filled_and_the_folder_may_say_what_is_held_out(tmp_path):
    for part in ("train", "eval"):
        for label in ("cat", "dog"):
            write_sound(tmp_path / part / label / "a.wav")
    sound = {"dtype": "int16", "input_kind": "audio", "input_rate_hz": 8000}
    assert load_base(task(tmp_path, (100,), **sound)).x[0].tolist() == [*range(60), *[0] * 40]
    assert load_base(task(tmp_path, (50,), **sound)).x_eval[1].tolist() == list(range(50))
    write_sound(tmp_path / "train" / "cat" / "b.wav", rate=16000)
    with pytest.raises(SettingsError, match="16000 Hz; the task takes 1 of 16 bits at 8000 Hz"):
        load_base(task(tmp_path, (50,), **sound))


def test_windows_in_csv_are_read(tmp_path):
    rows = "\n".join(f"{'cat' if n % 2 else 'dog'},{n},{n + 0.5}" for n in range(10))
    (tmp_path / "w.csv").write_text("label,a,b\n" + rows)
    base = load_base(task(tmp_path / "w.csv", (2, 1), "float32"))
    assert base.x[1].ravel().tolist() == [1.0, 1.5]
    assert base.y[:4].tolist() == [1, 0, 1, 0]
    assert base.y_eval.tolist() == [1, 0]
    with pytest.raises(SettingsError, match="2 columns beside label; a sample has 3"):
        load_base(task(tmp_path / "w.csv", (3,), "float32"))


def test_windows_in_parquet_are_read(tmp_path):
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"label": ["cat", "dog"] * 5, "a": np.arange(10.0)})
    frame.to_parquet(tmp_path / "w.parquet")
    assert load_base(task(tmp_path / "w.parquet", (1,), "float32")).x.ravel().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_function_gives_base_data():
    assert load_base(task(f"{__name__}:given")).x.shape == (6, 4, 4)
    with pytest.raises(SettingsError, match="nothing callable named nobody"):
        load_base(task(f"{__name__}:nobody"))
