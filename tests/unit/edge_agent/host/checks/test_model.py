"""Models that load and models that do not, in the slot and before the first start."""

import pytest

from edge_agent.execution.settings import ExecutionSettings
from edge_agent.host.checks.model import check_accelerators, check_model
from edge_agent.updates.slots import Slots
from tests.sim import bundles


@pytest.fixture
def look(tmp_path):
    def check():
        found = check_model(
            "digits",
            tmp_path / "factory.bundle",
            task_folder=tmp_path / "tasks/digits",
            execution=ExecutionSettings(),
        )
        return [(finding.level.value, finding.says) for finding in found]

    return check


def test_factory_model_before_the_first_start_is_tried_and_nothing_is_installed(look, tmp_path):
    bundles.make(tmp_path / "factory.bundle")
    found = look()
    assert [level for level, _ in found] == ["ok", "ok"]
    assert "v1 answers 16 golden samples as recorded" in found[0][1]
    assert "ms on CPU" in found[1][1]
    assert [file.name for file in tmp_path.iterdir()] == ["factory.bundle"]


def test_model_in_the_active_slot_is_tried_and_a_lost_factory_bundle_is_told(look, tmp_path):
    bundles.make(tmp_path / "factory.bundle", version="v7")
    Slots(tmp_path / "tasks/digits").open(tmp_path / "factory.bundle")
    (tmp_path / "factory.bundle").unlink()
    found = look()
    assert [level for level, _ in found] == ["ok", "ok", "warn"]
    assert "v7" in found[0][1]
    assert "last resort" in found[2][1]


@pytest.mark.parametrize("spoilt", ["missing", "nonsense", "wrong golden"])
def test_model_that_does_not_work_fails(look, tmp_path, spoilt):
    if spoilt == "wrong golden":
        bundles.make(tmp_path / "factory.bundle", wrong_golden=True)
    elif spoilt == "nonsense":
        (tmp_path / "factory.bundle").write_bytes(b"nonsense")
    ((level, says),) = look()
    assert (level, says.startswith("digits: ")) == ("fail", True)


def test_accelerator_that_is_wanted_and_not_there_is_told():
    (found,) = check_accelerators(ExecutionSettings(provider="QNN"))
    assert found.level == "warn"
    assert "the CPU is used" in found.says
    (found,) = check_accelerators(ExecutionSettings())
    assert found.level == "ok"
