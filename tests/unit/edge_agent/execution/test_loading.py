import numpy as np
import pytest

from edge_agent.errors import ModelUnusable
from edge_agent.execution import record
from edge_agent.execution.choice import SAFE, Choice, Kernels, Limits, Measurement, Provider, choose
from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.record import Key
from edge_agent.execution.settings import ExecutionSettings
from shared import manifest
from tests.sim import bundles
from tests.sim.sessions import Manner, SimulatedProviders

CUDA = Choice(Provider.CUDA)
LIMITS = Limits(0.1, 0.9, 85.0)


@pytest.fixture
def slot(tmp_path):
    return bundles.unpacked(tmp_path / "a")


def chosen(slot, choice, settings):
    measured = [Measurement(choice, 1.0, 1.0, 1.0, 0.0, 1.0)]
    key = Key.of(manifest.load(slot / "manifest.json"), settings)
    record.remember(slot, key, choose(measured, LIMITS), measurements=measured, limits=LIMITS)


def test_load_of_what_nobody_measured_runs_on_the_cpu_whatever_is_wanted(slot):
    device = SimulatedProviders()
    engine = EngineLoader(ExecutionSettings(provider="CUDA", measure=True), opener=device)(slot, sha256="abc")
    assert (engine.choice, engine.sha256, device.opened) == (SAFE, "abc", [SAFE])


def test_load_takes_the_threads_of_the_settings(slot):
    device = SimulatedProviders()
    assert EngineLoader(ExecutionSettings(threads=2), opener=device)(slot).choice == Choice(threads=2)


@pytest.mark.parametrize("choice", [CUDA, Choice(threads=2, kernels=Kernels.FLOAT)])
def test_load_runs_as_was_chosen(slot, choice):
    settings = ExecutionSettings()
    chosen(slot, choice, settings)
    device = SimulatedProviders()
    assert EngineLoader(settings, opener=device)(slot).choice == choice
    assert device.opened == [choice]


@pytest.mark.parametrize("manner", [Manner(refuses=True), Manner(falls_back=True), Manner(breaks=True)])
def test_load_of_a_choice_that_works_no_more_falls_back_to_the_cpu(slot, manner, caplog):
    settings = ExecutionSettings()
    chosen(slot, CUDA, settings)
    device = SimulatedProviders({Provider.CUDA: manner})
    engine = EngineLoader(settings, opener=device)(slot)
    assert device.opened == [CUDA, SAFE]
    assert engine.choice == SAFE
    assert engine.run(np.zeros((8, 8), np.uint8)).shape == (10,)
    assert "does not run on CUDA" in caplog.text


def test_load_of_a_model_that_runs_nowhere_says_so(tmp_path):
    slot = bundles.unpacked(tmp_path / "a", model=b"nonsense")
    with pytest.raises(ModelUnusable, match="does not load"):
        EngineLoader(ExecutionSettings())(slot)


def test_load_with_a_damaged_file_of_choices_runs_on_the_cpu(slot):
    (slot.parent / "execution.json").write_text("{")
    assert EngineLoader(ExecutionSettings())(slot).choice == SAFE
