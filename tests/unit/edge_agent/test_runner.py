import threading

import numpy as np
import pytest

from edge_agent.runner import run_sources
from edge_agent.settings import TaskSettings
from edge_agent.sources.settings import ReplaySettings
from tests.sim.bundles import sample


class PipelineStandIn:
    """Fails at its second sample in a way that nobody foresaw."""

    def __init__(self):
        self.seen = 0

    def infer(self, request):
        self.seen += 1
        if self.seen == 2:
            raise ZeroDivisionError("a fault of our own")


def test_unforeseen_fault_in_a_source_is_not_taken_for_its_end(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.stack([sample(1)]))
    source = ReplaySettings(kind="replay", path=tmp_path / "s.npz", repeat=True)
    stop, pipeline = threading.Event(), PipelineStandIn()
    tasks = {"digits": TaskSettings(bundle=tmp_path / "b", sources=(source,))}
    with pytest.raises(ZeroDivisionError):
        run_sources({"digits": pipeline}, tasks, stop)
    assert stop.is_set()
    assert pipeline.seen == 2
