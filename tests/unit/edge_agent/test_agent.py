"""The agent as a library: real parts, a broker that is not there or a cloud in the same process."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import edge_agent
from edge_agent import AgentSettings, AnsweredBy, EdgeAgent, SampleError, SettingsError
from edge_agent.errors import AgentClosed, NoWorkingModel, StateInUse, UnknownTask
from shared import messages
from shared.messages import Action, Reason, Receipt, Verdict
from shared.mqtt import Received
from tests.harness import ROOT, free_port, wait_until
from tests.sim import bundles
from tests.sim.bundles import hard_sample, sample
from tests.sim.cloud import agree, verdict
from tests.sim.disk import fill, small_disk


class LoopbackCloud:
    """A broker and a cloud for one device, in the agent's own loop: every sample is answered at once.

    Attributes:
        published: (channel, payload) of everything that went up.
    """

    def __init__(self, answer=agree):
        self.answer = answer
        self.published = []
        self.inbox = self.loop = self.glance = None
        self.round_trip_s = None

    @contextlib.asynccontextmanager
    async def connect(self, identity):
        self.inbox, self.loop = asyncio.Queue(), asyncio.get_running_loop()
        yield self

    def watch(self, glance):
        self.glance = glance

    def post(self, topic, payload):
        self.loop.call_soon_threadsafe(self._take, topic, payload)
        return True

    async def publish(self, topic, payload, *, qos, retain=False):
        self._take(topic, payload)

    def _take(self, topic, payload):
        channel = topic.rpartition("/")[2]
        self.published.append((channel, payload))
        if channel == "sample":
            reply = self.answer(*messages.decode_sample(payload))
            if reply is not None:
                kind = "verdict" if isinstance(reply, Verdict) else "receipt"
                self.send(kind, messages.encode(reply))

    def send(self, channel, payload):
        received = Received(f"edgeloop/v1/demo/cam-1/{channel}", payload)
        if self.glance is None or not self.glance(received):
            self.inbox.put_nowait(received)

    async def subscribe(self, filters):
        pass

    async def messages(self):
        while True:
            yield await self.inbox.get()


@pytest.fixture
def settings(tmp_path):
    bundles.make(tmp_path / "factory.bundle")

    def make(**changes):
        values = {
            "site": "demo",
            "device": "cam-1",
            "state_dir": tmp_path / "state",
            "broker": {"port": free_port()},
            "tasks": {"digits": {"bundle": tmp_path / "factory.bundle", "audit_fraction": 0.0}},
            **changes,
        }
        return AgentSettings.model_validate(values)

    return make


def test_public_names_are_all_there_and_no_others():
    for name in edge_agent.__all__:
        assert getattr(edge_agent, name) is not None
    assert sorted(edge_agent.__all__) == edge_agent.__all__
    from_elsewhere = {"annotations"}
    public = {name for name, value in vars(edge_agent).items() if not name.startswith("_")} - from_elsewhere
    modules = {name for name in public if f"edge_agent.{name}" in sys.modules}
    assert public - modules == set(edge_agent.__all__)


def test_agent_answers_without_a_broker_and_keeps_what_is_hard(settings):
    with EdgeAgent.open(settings()) as agent:
        sure, hard = agent.infer(sample(3)), agent.infer(hard_sample(4), reference="mine")
        assert (sure.label, sure.action, hard.label, hard.action) == ("3", Action.KEEP, "4", Action.OFFLOAD)
        assert hard.reference == "mine"
        assert agent.model_version() == "v1"
        assert not agent.wait_until_delivered(0.05)
    with EdgeAgent.open(settings()) as again:
        assert again.infer(sample(3)).seq > hard.seq
        assert again.telemetry().spool.items == 1


def test_agent_opens_from_a_file_with_overrides(settings, tmp_path):
    settings()
    (tmp_path / "agent.toml").write_text(
        f'site = "demo"\ndevice = "cam-1"\nstate_dir = "{tmp_path}/state"\n'
        f'[broker]\nport = {free_port()}\n[tasks.digits]\nbundle = "{tmp_path}/factory.bundle"\n'
    )
    with EdgeAgent.open(str(tmp_path / "agent.toml"), overrides=["device=cam-9"]) as agent:
        assert agent.settings.device == "cam-9"
    with pytest.raises(SettingsError, match="did you mean 'device'"):
        EdgeAgent.open(tmp_path / "agent.toml", overrides=["devise=cam-9"])


def test_agent_answers_by_the_cloud_within_the_deadline(settings):
    cloud = LoopbackCloud(lambda header, tensor: verdict(header, 7))
    with EdgeAgent(settings(), connect=cloud.connect).start() as agent:
        for _ in range(50):
            outcome = agent.infer(hard_sample(3), deadline=20.0)
            assert (outcome.answered_by, outcome.label, outcome.edge_prediction) == (AnsweredBy.CLOUD, "7", 3)
        assert agent.wait_until_delivered(5.0)
        assert agent.telemetry().tasks["digits"].verdicts == 50


def test_agent_tells_outcomes_and_corrections(settings):
    outcomes, corrections = [], []
    cloud = LoopbackCloud(lambda header, tensor: verdict(header, 7))
    agent = EdgeAgent(
        settings(), connect=cloud.connect, on_outcome=outcomes.append, on_correction=corrections.append
    ).start()
    with agent:
        outcome = agent.infer(hard_sample(3), reference=5)
        assert agent.wait_until_delivered(10.0)
        wait_until(lambda: corrections, timeout=5, what="the correction came")
    assert outcomes == [outcome]
    ((correction),) = corrections
    assert (correction.sample_id, correction.reference, correction.agreed) == (outcome.sample_id, 5, False)


def test_agent_tells_a_correction_whose_sample_the_cloud_had_before_the_restart(settings):
    def receipt(header, tensor):
        seen.append(header)
        return Receipt(accepted=(header.sample_id,))

    seen, told = [], []
    with EdgeAgent(settings(), connect=LoopbackCloud(receipt).connect).start() as agent:
        outcome = agent.infer(hard_sample(3), reference="mine")
        assert agent.wait_until_delivered(10)
    cloud = LoopbackCloud()
    with EdgeAgent(settings(), connect=cloud.connect, on_correction=told.append).start():
        wait_until(lambda: cloud.published, timeout=10, what="it is connected")
        cloud.loop.call_soon_threadsafe(cloud.send, "verdict", messages.encode(verdict(seen[0], 4)))
        wait_until(lambda: told, timeout=10, what="the correction is told")
    assert [(each.sample_id, each.prediction, each.reference) for each in told] == [(outcome.sample_id, 4, "mine")]


def test_agent_says_what_it_runs_and_goodbye(settings):
    cloud = LoopbackCloud()
    with EdgeAgent(settings(), connect=cloud.connect).start():
        wait_until(lambda: any(c == "state" for c, _ in cloud.published), timeout=10, what="the state went up")
    states = [messages.decode(messages.DeviceState, frame) for channel, frame in cloud.published if channel == "state"]
    assert (states[0].online, states[0].tasks["digits"].bundle_version) == (True, "v1")
    assert (states[-1].online, states[-1].tasks["digits"].bundle_version) == (False, "v1")


def test_agent_of_several_tasks_keeps_them_apart(settings, tmp_path):
    bundles.make(tmp_path / "letters.bundle", task="letters", version="l1", labels=tuple("abcdefghij"), shift=1)
    tasks = {
        "digits": {"bundle": tmp_path / "factory.bundle", "audit_fraction": 0.0},
        "letters": {"bundle": tmp_path / "letters.bundle", "audit_fraction": 0.0, "offload": "never"},
    }
    with EdgeAgent.open(settings(tasks=tasks)) as agent:
        assert agent.infer(sample(3), task="digits").label == "3"
        assert agent.infer(sample(3), task="letters").label == "c"
        assert agent.infer(hard_sample(3), task="letters").action is Action.KEEP
        assert (agent.model_version("digits"), agent.model_version("letters")) == ("v1", "l1")
        assert set(agent.telemetry().tasks) == {"digits", "letters"}
        for wrong in (None, "sounds"):
            with pytest.raises(UnknownTask, match="digits, letters"):
                agent.infer(sample(3), task=wrong)


def test_agent_with_one_task_refuses_another_name(settings):
    with EdgeAgent.open(settings()) as agent, pytest.raises(UnknownTask, match="not 'letters'"):
        agent.infer(sample(3), task="letters")


def test_agent_refuses_a_wrong_sample_and_goes_on(settings):
    with EdgeAgent.open(settings()) as agent:
        with pytest.raises(SampleError, match="the task takes"):
            agent.infer(np.zeros((3, 3), np.uint8))
        assert agent.infer(sample(3)).label == "3"
        assert agent.telemetry().tasks["digits"].errors == 1


def test_agent_that_was_closed_says_so_and_closes_once(settings):
    agent = EdgeAgent.open(settings())
    agent.close()
    agent.close()
    with pytest.raises(AgentClosed):
        agent.infer(sample(3))


def test_agent_that_only_waits_is_well(settings):
    with EdgeAgent.open(settings()) as agent:
        agent.infer(sample(3))
        assert agent.unwell() is None
    assert agent.unwell() is None


def test_agent_that_never_started_closes(settings):
    EdgeAgent(settings()).close()


def test_agent_without_a_model_says_what_was_tried(settings, tmp_path):
    made = settings()
    (tmp_path / "factory.bundle").write_bytes(b"nonsense")
    with pytest.raises(NoWorkingModel, match="factory bundle"):
        EdgeAgent.open(made)


def test_agent_starts_on_a_full_disk_and_answers(settings, tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=4096) as disk:
        with EdgeAgent.open(settings(state_dir=disk / "state")) as agent:
            agent.infer(hard_sample(3))
        ballast = fill(disk)
        with EdgeAgent.open(settings(state_dir=disk / "state")) as agent:
            assert agent.infer(sample(3)).label == "3"
            for _ in range(500):
                agent.infer(hard_sample(4))
            assert agent.infer(hard_sample(4)).reason is Reason.SPOOL_FULL
            ballast.unlink()
            assert agent.infer(hard_sample(4)).action is Action.OFFLOAD


def test_second_agent_on_the_same_folder_is_refused_until_the_first_has_ended(settings, tmp_path):
    with EdgeAgent.open(settings()), pytest.raises(StateInUse, match="another agent runs on"):
        EdgeAgent.open(settings())
    factory = (tmp_path / "factory.bundle").read_bytes()
    (tmp_path / "factory.bundle").write_bytes(b"nonsense")
    empty = settings(state_dir=tmp_path / "other")
    with pytest.raises(NoWorkingModel) as caught:
        EdgeAgent.open(empty)
    (tmp_path / "factory.bundle").write_bytes(factory)
    EdgeAgent.open(empty).close()  # the one that failed holds nothing
    assert caught.value.exit_code == 66


def test_agent_ignores_verdicts_for_a_task_it_does_not_have(settings, caplog):
    cloud = LoopbackCloud(answer=lambda header, _: verdict(header.model_copy(update={"task": "sounds"})))
    with EdgeAgent(settings(), connect=cloud.connect).start() as agent:
        for _ in range(3):
            agent.infer(hard_sample(3), deadline=0)
        assert agent.wait_until_delivered(timeout=10)  # they are answered, or they would be sent for ever
    assert caplog.text.count("does not have") == 1


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_agent_that_does_not_start_leaves_nothing_open(settings, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        busy = settings(server={"enabled": True, "port": taken.getsockname()[1]})
        before, kept = open_files(), []
        for _ in range(3):
            with pytest.raises(SettingsError) as caught:
                EdgeAgent.open(busy)
            kept.append(caught.value)  # and with it the frames that have the agent
        assert open_files() <= before + 1


def test_agent_is_not_closed_from_its_own_thread(settings):
    refused = []

    def close(correction):
        try:
            agent.close()
        except RuntimeError as err:
            refused.append(str(err))

    cloud = LoopbackCloud()
    agent = EdgeAgent(settings(), connect=cloud.connect, on_correction=close).start()
    with agent:
        agent.infer(hard_sample(3))
        assert agent.wait_until_delivered(10.0)
        wait_until(lambda: bool(refused), timeout=10, what="the refusal")
    assert "another thread" in refused[0]


def test_agents_execution_settings_count(settings, tmp_path):
    with EdgeAgent.open(settings(execution={"threads": 2})) as agent:
        assert agent._tasks["digits"].pipeline.engine.choice.threads == 2


def test_agent_plays_its_sources_until_they_end(settings, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.stack([sample(i) for i in range(10)]))
    source = {"kind": "replay", "path": tmp_path / "s.npz"}
    task = {"bundle": tmp_path / "factory.bundle", "audit_fraction": 0.0, "sources": [source, source]}
    outcomes = []
    with EdgeAgent.open(settings(tasks={"digits": task}), on_outcome=outcomes.append) as agent:
        agent.run(threading.Event())
    assert sorted(each.label for each in outcomes) == sorted("0123456789" * 2)


def test_agent_plays_a_tasks_sources_in_turn_where_it_is_told_to(settings, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.stack([sample(i) for i in range(10)]))
    source = {"kind": "replay", "path": tmp_path / "s.npz"}
    task = {"bundle": tmp_path / "factory.bundle", "audit_fraction": 0.0, "sources": [source, source]}
    outcomes = []
    with EdgeAgent.open(
        settings(tasks={"digits": task | {"sources_in_turn": True}}), on_outcome=outcomes.append
    ) as agent:
        agent.run(threading.Event())
    assert [each.label for each in outcomes] == list("0123456789") * 2


def test_agent_source_with_unusable_samples_says_each_kind_once_and_goes_on(settings, tmp_path, caplog):
    np.savez(tmp_path / "bad.npz", x=np.zeros((5, 3, 3), np.uint8))
    np.savez(tmp_path / "good.npz", x=np.stack([sample(1)]))
    sources = [{"kind": "replay", "path": tmp_path / name} for name in ("bad.npz", "good.npz")]
    task = {"bundle": tmp_path / "factory.bundle", "sources": sources}
    with EdgeAgent.open(settings(tasks={"digits": task})) as agent:
        agent.run(threading.Event())
        counts = agent.telemetry().tasks["digits"]
    assert caplog.text.count("a sample could not be answered") == 1
    assert (counts.errors, counts.inferences) == (5, 6)


def test_agent_source_that_is_missing_stops_the_others_and_is_an_error(settings, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.stack([sample(1)]))
    endless = {"kind": "replay", "path": tmp_path / "s.npz", "repeat": True, "rate_hz": 100}
    missing = {"kind": "replay", "path": tmp_path / "no.npz"}
    bundle = tmp_path / "factory.bundle"
    tasks = {"digits": {"bundle": bundle, "sources": [endless]}, "other": {"bundle": bundle, "sources": [missing]}}
    with EdgeAgent.open(settings(tasks=tasks)) as agent, pytest.raises(SettingsError, match=r"no\.npz"):
        agent.run(threading.Event())


def test_agent_run_stops_when_told(settings, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.stack([sample(1)]))
    source = {"kind": "replay", "path": tmp_path / "s.npz", "repeat": True}
    stop, seen = threading.Event(), []

    def count(outcome):
        seen.append(outcome)
        if len(seen) == 20:
            stop.set()

    task = {"bundle": tmp_path / "factory.bundle", "sources": [source], "audit_fraction": 0.0}
    with EdgeAgent.open(settings(tasks={"digits": task}), on_outcome=count) as agent:
        agent.run(stop)
    assert 20 <= len(seen) < 30


HEAVY = ("torch", "onnx", "sqlalchemy", "cv2", "aiohttp.web", "aiohttp", "matplotlib", "sklearn", "cloud_service")


def test_importing_the_agent_brings_nothing_heavy():
    code = f"import sys, edge_agent, edge_agent.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_download_brings_the_http_client_alone():
    code = (
        "import asyncio, sys\n"
        "from edge_agent.updates.fetch import HttpFetcher\n"
        "async def main():\n"
        "    try:\n"
        "        async for _ in HttpFetcher().fetch('http://127.0.0.1:1/x', 0): pass\n"
        "    except Exception as err: print(type(err).__name__)\n"
        "asyncio.run(main())\n"
        "print('aiohttp' in sys.modules, 'aiohttp.web' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["DownloadFailed", "True", "False"]
