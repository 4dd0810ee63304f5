import numpy as np
import pytest

from edge_agent import redaction
from edge_agent.redaction import Departing, Redaction
from shared.errors import SettingsError
from shared.messages import Reason


def departing(tensor=None):
    return Departing("digits", np.full((2, 3), 7, np.uint8) if tensor is None else tensor, "3", 0.5, Reason.HARD)


def test_hook_sees_the_sample_and_changes_it():
    seen = []

    def halve(sample):
        seen.append((sample.task, sample.label, sample.confidence, sample.reason))
        return sample.tensor // 2

    np.testing.assert_array_equal(Redaction(halve, "h")(departing()), np.full((2, 3), 3, np.uint8))
    assert seen == [("digits", "3", 0.5, Reason.HARD)]


def test_hook_that_returns_nothing_withholds():
    assert Redaction(lambda sample: None, "h")(departing()) is None


def test_hook_cannot_change_the_callers_own_tensor(caplog):
    def scribble(sample):
        sample.tensor[:] = 0
        return sample.tensor

    mine = np.full((2, 3), 7, np.uint8)
    assert Redaction(scribble, "h")(departing(mine)) is None
    assert (mine == 7).all()
    assert "read-only" in caplog.text


@pytest.mark.parametrize(
    "result",
    [np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.float32), [[0] * 3] * 2, b"x"],
    ids=["shape", "dtype", "list", "bytes"],
)
def test_hook_that_gives_something_else_withholds_and_says_so_once(result, caplog):
    hook = Redaction(lambda sample: result, "mine:blur")
    assert [hook(departing()) for _ in range(3)] == [None] * 3
    assert caplog.text.count("mine:blur") == 1
    assert "withheld" in caplog.text


def test_hook_that_raises_withholds_and_says_so_once(caplog):
    def fail(sample):
        raise ZeroDivisionError("no")

    hook = Redaction(fail, "mine:blur")
    assert [hook(departing()) for _ in range(3)] == [None] * 3
    assert caplog.text.count("ZeroDivisionError") == 1


def test_hook_is_loaded_from_a_file_and_from_a_module(tmp_path):
    file = tmp_path / "privacy.py"
    file.write_text("def zero(sample):\n    return sample.tensor * 0\n")
    hook = redaction.load(f"{file}:zero")
    assert (hook(departing()) == 0).all()
    assert redaction.load("operator:length_hint") is not None
    assert redaction.load(None) is None


@pytest.mark.parametrize(
    "name", ["no_such_module_here:f", "math:no_such_function", "math:pi", "/no/such/file.py:f", "broken.py:f"]
)
def test_hook_that_cannot_be_loaded_keeps_the_agent_from_starting(tmp_path, name):
    (tmp_path / "broken.py").write_text("raise RuntimeError('half written')\n")
    with pytest.raises(SettingsError, match="correct 'redact'"):
        redaction.load(name.replace("broken.py", str(tmp_path / "broken.py")))
