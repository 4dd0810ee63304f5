import numpy as np
import pytest

from cloud_service.simulate import payloads
from shared.errors import SettingsError


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_drawn_tensors_have_the_shape_and_type_and_are_the_same_for_a_seed(dtype):
    first, second = payloads.drawn((4, 3), dtype, seed=1), payloads.drawn((4, 3), dtype, seed=1)
    assert first.shape == (256, 4, 3)
    assert first.dtype == np.dtype(dtype)
    assert (first == second).all()
    assert len(np.unique(first)) > 100


def test_rows_of_a_file_are_its_x(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.arange(12, dtype=np.uint8).reshape(3, 2, 2), y=np.zeros(3))
    assert payloads.rows(tmp_path / "rows.npz").shape == (3, 2, 2)


@pytest.mark.parametrize("arrays", [{"y": np.zeros((2, 2))}, {"x": np.zeros(3)}, {"x": np.zeros((0, 2))}])
def test_file_without_samples_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(SettingsError, match="--data"):
        payloads.rows(tmp_path / "rows.npz")


def test_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "rows.npz").write_bytes(b"no")
    for name in ("rows.npz", "nothing.npz"):
        with pytest.raises(SettingsError, match=name):
            payloads.rows(tmp_path / name)
