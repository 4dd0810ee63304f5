import shutil
from types import SimpleNamespace

import pytest

from edge_agent.execution.choice import SAFE, Choice, Measurement
from edge_agent.execution.loading import EngineLoader
from edge_agent.execution.quiet import QuietMoment
from edge_agent.execution.settings import ExecutionSettings
from tests.sim import bundles
from tests.sim.children import ScriptedChildren
from tests.sim.sessions import SimulatedProviders

TWO = Choice(threads=2)
SETTINGS = ExecutionSettings(measure=True, max_threads=2)


def ok(choice, p50):
    return Measurement(choice, p50, p50, p50, 0.0, 1.0)


class Running:
    """A task as the pipeline is one."""

    def __init__(self, engine):
        self.engine = engine
        self.swapped = 0

    def swap(self, engine):
        self.engine = engine
        self.swapped += 1


@pytest.fixture
def device(tmp_path):
    slot = bundles.unpacked(tmp_path / "a")
    load = EngineLoader(SETTINGS, opener=SimulatedProviders())
    running = Running(load(slot, sha256="abc"))

    def moment(children, folder=slot):
        return QuietMoment(load, {"digits": running}, lambda _: folder, after_s=0.0, spawn=children)

    return SimpleNamespace(slot=slot, running=running, moment=moment)


async def test_a_faster_way_is_swapped_in(device):
    assert device.running.engine.choice == SAFE
    await device.moment(ScriptedChildren([ok(SAFE, 100.0), ok(TWO, 50.0)])).run()
    assert (device.running.engine.choice, device.running.engine.sha256) == (TWO, "abc")


async def test_nothing_is_swapped_where_the_safe_way_is_best_and_nothing_measured_twice(device):
    children = ScriptedChildren([ok(SAFE, 100.0), ok(TWO, 500.0)])
    await device.moment(children).run()
    await device.moment(children).run()
    assert (device.running.swapped, len(children.asked)) == (0, 1)


async def test_an_update_that_came_in_between_stays(device):
    newer = object()

    class Updating(ScriptedChildren):
        def __call__(self, module, arguments):
            device.running.engine = newer
            return super().__call__(module, arguments)

    await device.moment(Updating([ok(SAFE, 100.0), ok(TWO, 50.0)])).run()
    assert device.running.engine is newer


async def test_a_task_without_a_slot_is_left_alone(device):
    await device.moment(ScriptedChildren([]), None).run()
    assert device.running.swapped == 0


async def test_a_slot_that_cannot_be_read_is_told_and_ends_nothing(device, caplog):
    shutil.rmtree(device.slot)
    await device.moment(ScriptedChildren([])).run()
    assert "task digits: how its model runs best was not found out" in caplog.text
