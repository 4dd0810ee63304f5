import logging
import os
import threading
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from edge_agent.errors import ModelUnusable
from edge_agent.host.pulse import Pulse
from edge_agent.runner import run_sources
from edge_agent.settings import TaskSettings
from edge_agent.sources.settings import ReadingsSettings, ReplaySettings, StdinSettings
from shared.errors import SampleError, SettingsError
from shared.manifest import TensorSpec
from tests.sim.bundles import sample
from tests.sim.clock import SimulatedClock


class PipelineStandIn:
    """Answers with what `infer` is given; remembers who asked."""

    def __init__(self, name="digits", infer=lambda request: None):
        self.name = name
        self.engine = SimpleNamespace(manifest=SimpleNamespace(input=TensorSpec(shape=(8, 8), dtype="uint8")))
        self.seen, self.threads = [], set()
        self._infer = infer

    def infer(self, request):
        self.seen.append(request.reference)
        self.threads.add(threading.current_thread().name)
        return self._infer(request)


class CountsStandIn:
    def __init__(self):
        self.counts = Counter()

    def count(self, task, *names):
        self.counts.update((task, name) for name in names)


@pytest.fixture
def counts():
    return CountsStandIn()


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def replay(tmp_path):
    def write(name, *references, **options):
        x = np.stack([sample(1)] * len(references))
        np.savez(tmp_path / f"{name}.npz", x=x, reference=np.array(references))
        return ReplaySettings(kind="replay", path=tmp_path / f"{name}.npz", **options)

    return write


def task(*sources):
    return TaskSettings(bundle="b", sources=sources)


def run(pipelines, tasks, stop, counts, *, thin=lambda name: 1, pulse=None):
    by_name = {p.name: p for p in pipelines}
    run_sources(by_name, tasks, stop, counts=counts, thin=thin, client="edge-plant-cam", pulse=pulse)


@pytest.mark.parametrize(("deadline_s", "within_s"), [(0.0, 60.0), (100.0, 160.0)])
def test_sample_that_takes_too_long_is_told_while_it_does(replay, stop, counts, deadline_s, within_s):
    clock, said = SimulatedClock(), []
    pulse = Pulse(monotonic=clock)

    def infer(request):
        clock.advance(within_s)
        said.append(pulse.overdue())
        clock.advance(1.0)
        said.append(pulse.overdue())

    tasks = {"digits": task(replay("a", 1)).model_copy(update={"deadline_s": deadline_s})}
    run([PipelineStandIn(infer=infer)], tasks, stop, counts, pulse=pulse)
    assert said == [None, "task digits, replay-0 should have been heard of 1 s ago"]
    clock.advance(1000.0)
    assert pulse.overdue() is None  # between two samples a source may wait as long as it likes


def test_sources_of_a_task_play_side_by_side(replay, stop, counts):
    # Each sample waits for one of the other source: one after the other, this would never end.
    meeting = threading.Barrier(2, timeout=10)
    pipeline = PipelineStandIn(infer=lambda request: meeting.wait())
    run([pipeline], {"digits": task(replay("a", 1, 2), replay("b", 11, 12))}, stop, counts)
    assert sorted(pipeline.seen) == [1, 2, 11, 12]
    assert pipeline.threads == {"digits-replay-0", "digits-replay-1"}


def test_every_task_plays_its_own_sources(replay, stop, counts):
    one, two = PipelineStandIn("one"), PipelineStandIn("two")
    run([one, two], {"one": task(replay("a", 1)), "two": task(replay("b", 2, 3))}, stop, counts)
    assert (one.seen, two.seen) == ([1], [2, 3])


def test_unforeseen_fault_in_a_source_ends_all_and_is_not_taken_for_the_end(replay, stop, counts):
    def fail_at_the_second(request):
        if request.reference == 2:
            raise ZeroDivisionError("a fault of our own")

    failing, other = PipelineStandIn("one", fail_at_the_second), PipelineStandIn("two")
    tasks = {"one": task(replay("a", 1, 2, 3)), "two": task(replay("b", 1, repeat=True, rate_hz=1000))}
    with pytest.raises(ZeroDivisionError):
        run([failing, other], tasks, stop, counts)
    assert stop.is_set()
    assert failing.seen == [1, 2]


def test_source_that_waits_is_told_of_a_fault_before_it_is_closed(replay, stop, counts, caplog):
    def fail(request):
        raise ZeroDivisionError("a fault of our own")

    source = replay("a", 1, 2, rate_hz=0.05, when_slow="drop_oldest")
    with pytest.raises(ZeroDivisionError):
        run([PipelineStandIn(infer=fail)], {"digits": task(source)}, stop, counts)
    assert "still waits" not in caplog.text


def test_source_that_cannot_be_opened_ends_the_run(replay, stop, counts, tmp_path):
    missing = ReplaySettings(kind="replay", path=tmp_path / "no.npz")
    with pytest.raises(SettingsError, match=r"no\.npz"):
        run([PipelineStandIn()], {"digits": task(missing, replay("a", 1, repeat=True, rate_hz=1000))}, stop, counts)


@pytest.mark.parametrize("error", [SampleError("not of this task"), ModelUnusable("it broke")])
def test_sample_that_cannot_be_answered_ends_nothing_and_is_said_once(replay, stop, counts, caplog, error):
    def fail(request):
        raise error

    pipeline = PipelineStandIn(infer=fail)
    run([pipeline], {"digits": task(replay("a", *range(5)))}, stop, counts)
    assert len(pipeline.seen) == 5
    assert caplog.text.count("a sample could not be answered") == 1
    assert counts.counts == {}  # the pipeline itself counts these


def test_what_is_no_sample_is_counted_each_time_and_said_once(replay, stop, counts, caplog):
    pipeline = PipelineStandIn()
    pipeline.engine.manifest.input = TensorSpec(shape=(9,), dtype="uint8")
    run([pipeline], {"digits": task(replay("a", *range(4)))}, stop, counts)
    assert pipeline.seen == []
    assert counts.counts == {("digits", "inferences"): 4, ("digits", "errors"): 4}
    assert caplog.text.count("the task takes uint8 [9]") == 1


def test_log_of_unusable_samples_is_bounded(replay, stop, counts, caplog):
    def fail(request):
        raise SampleError(f"number {request.reference}")

    run([PipelineStandIn(infer=fail)], {"digits": task(replay("a", *range(150)))}, stop, counts)
    assert caplog.text.count("a sample could not be answered") == 100


def test_under_pressure_fewer_samples_of_each_source_are_taken(replay, stop, counts):
    pipeline = PipelineStandIn()
    tasks = {"digits": task(replay("a", *range(7)), replay("b", *range(10, 14)))}
    run([pipeline], tasks, stop, counts, thin={"digits": 3}.__getitem__)
    assert sorted(pipeline.seen) == [0, 3, 6, 10, 13]
    assert counts.counts == {("digits", "skipped"): 6}


def test_samples_that_a_slow_agent_drops_are_counted_and_said_once(replay, stop, counts, caplog):
    caplog.set_level(logging.INFO)
    first = threading.Event()

    def slow_at_first(request):
        if not first.is_set():
            first.set()
            while counts.counts["digits", "overrun"] < 8:
                assert not stop.wait(0.001)

    source = replay("a", *range(10), rate_hz=100, when_slow="drop_oldest", buffer=1)
    pipeline = PipelineStandIn(infer=slow_at_first)
    run([pipeline], {"digits": task(source)}, stop, counts)
    assert pipeline.seen[-1] == 9
    assert len(pipeline.seen) + counts.counts["digits", "overrun"] == 10
    dropped = 10 - len(pipeline.seen)
    assert [record.message for record in caplog.records] == [
        "task digits: replay-0: the agent is slower; the oldest samples go, counted",
        f"task digits: replay-0 ended: the agent was slower for {dropped} dropped and 0 waiting samples",
    ]


def test_samples_that_wait_for_a_slow_agent_are_said_once(replay, stop, counts, caplog):
    caplog.set_level(logging.INFO)
    source = replay("a", *range(3), rate_hz=1000)
    run([PipelineStandIn(infer=lambda request: stop.wait(0.005))], {"digits": task(source)}, stop, counts)
    assert [record.message for record in caplog.records] == [
        "task digits: replay-0: the agent is slower; samples wait, counted",
        "task digits: replay-0 ended: the agent was slower for 0 dropped and 3 waiting samples",
    ]


def test_standard_input_feeds_one_source_only(stop, counts):
    both = (
        StdinSettings(kind="stdin"),
        ReadingsSettings(kind="readings", path="-", fields=("a",), length=1),
    )
    with pytest.raises(SettingsError, match="standard input can feed one source only"):
        run(
            [PipelineStandIn("one"), PipelineStandIn("two")], {"one": task(both[0]), "two": task(both[1])}, stop, counts
        )


def test_stop_ends_every_source(replay, stop, counts, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    silent = ReadingsSettings(kind="readings", path=tmp_path / "fifo", fields=tuple("abcdefgh"), length=8)
    pipeline = PipelineStandIn(infer=lambda request: stop.set())
    run([pipeline], {"digits": task(silent, replay("a", 1, repeat=True))}, stop, counts)
    assert pipeline.seen == [1]


def test_tasks_without_sources_end_at_once(stop, counts):
    run([PipelineStandIn()], {"digits": task()}, stop, counts)
