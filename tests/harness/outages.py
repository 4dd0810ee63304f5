"""What may become of the cloud while somebody waits for it by the millisecond: an agent in each of these situations.

for name, outage in OUTAGES.items():
    with outage(folder / name, bundle) as agent:
        lateness = [late_ms(agent, sample, deadline_s=0.02) for _ in range(100)]
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from edge_agent import EdgeAgent
from edge_agent.outcomes import Correction
from edge_agent.settings import AgentSettings
from shared.codec import Array
from tests.harness.brokers import Mosquitto
from tests.harness.lines import cut_again_and_again, silent_server, standing_still
from tests.harness.processes import Process
from tests.harness.waiting import free_port, wait_until

SITE, DEVICE = "demo", "cam-1"
_FLOOD = 1_500
_CUT_EVERY_S = 0.05
_LATE_CLOUD = Path(__file__).with_name("late_cloud.py")

Outage = Callable[[Path, Path], AbstractContextManager[EdgeAgent]]


def late_ms(agent: EdgeAgent, sample: Array, *, deadline_s: float) -> float:
    """By how much one `infer` went beyond its deadline; negative when it did not."""
    began = time.perf_counter()
    agent.infer(sample, deadline=deadline_s)
    return (time.perf_counter() - began - deadline_s) * 1000


@contextmanager
def agent_at(
    port: int, folder: Path, bundle: Path, *, on_correction: Callable[[Correction], None] | None = None
) -> Iterator[EdgeAgent]:
    """An agent that comes back quickly, and sends whatever it has at once."""
    (name,) = (bundle.stem,)
    settings = AgentSettings.model_validate(
        {
            "site": SITE,
            "device": DEVICE,
            "state_dir": folder / "state",
            "broker": {"port": port, "reconnect_first_s": 0.05, "reconnect_cap_s": 0.1},
            "spool": {"max_unanswered": 100_000},
            "tasks": {name: {"bundle": bundle, "audit_fraction": 0.0}},
        }
    )
    with EdgeAgent.open(settings, on_correction=on_correction) as agent:
        yield agent


@contextmanager
def nobody_is_there(folder: Path, bundle: Path) -> Iterator[EdgeAgent]:
    """Nothing listens at the broker's port."""
    with agent_at(free_port(), folder, bundle) as agent:
        yield agent


@contextmanager
def nobody_answers(folder: Path, bundle: Path) -> Iterator[EdgeAgent]:
    """The broker's port takes connections and is silent."""
    with silent_server() as port, agent_at(port, folder, bundle) as agent:
        yield agent


@contextmanager
def broker_stands_still(folder: Path, bundle: Path) -> Iterator[EdgeAgent]:
    """A line that was good is cut without a word: what is sent fills it."""
    with Mosquitto(folder / "mosquitto") as broker, agent_at(broker.port, folder, bundle) as agent:
        wait_until(lambda: is_connected(agent), timeout=15, what="the agent is connected")
        with standing_still(broker):
            yield agent


@contextmanager
def line_is_cut_again_and_again(folder: Path, bundle: Path) -> Iterator[EdgeAgent]:
    """A storm of connections, each of which lasts for a moment."""
    with (
        Mosquitto(folder / "mosquitto") as broker,
        cut_again_and_again(broker.port, folder, every_s=_CUT_EVERY_S) as port,
        agent_at(port, folder, bundle) as agent,
    ):
        yield agent


@contextmanager
def spool_is_sent(folder: Path, bundle: Path) -> Iterator[EdgeAgent]:
    """Everything that a long outage left is sent in this very moment; the cloud is silent."""
    port = free_port()
    with agent_at(port, folder, bundle) as agent:
        sample = np.zeros(_shape(agent), dtype=np.uint8)
        for _ in range(_FLOOD):
            agent.infer(sample, deadline=0)
    with Mosquitto(folder / "mosquitto", port=port), agent_at(port, folder, bundle) as agent:
        yield agent


@contextmanager
def late_cloud(folder: Path, *, delay_s: float = 0.06) -> Iterator[int]:
    """The port of a broker behind which a cloud answers every sample, with another label, so much later."""
    with Mosquitto(folder / "mosquitto") as broker:
        cloud = Process("late-cloud", [sys.executable, str(_LATE_CLOUD), str(broker.port), str(delay_s)], folder=folder)
        with cloud:
            cloud.wait_for_log("listening")
            yield broker.port


@contextmanager
def cloud_is_late(folder: Path, bundle: Path) -> Iterator[EdgeAgent]:
    """Every verdict comes, 60 ms after the sample."""
    with late_cloud(folder) as port, agent_at(port, folder, bundle) as agent:
        wait_until(lambda: is_connected(agent), timeout=15, what="the agent is connected")
        yield agent


OUTAGES: dict[str, Outage] = {
    "nobody is there": nobody_is_there,
    "nobody answers": nobody_answers,
    "the broker stands still": broker_stands_still,
    "the line is cut every 50 ms": line_is_cut_again_and_again,
    "the whole spool is being sent": spool_is_sent,
    "the cloud answers too late": cloud_is_late,
}


def is_connected(agent: EdgeAgent) -> bool:
    """Whether verdicts come down to it."""
    return agent._uplink.connected


def _shape(agent: EdgeAgent) -> tuple[int, ...]:
    (task,) = agent.settings.tasks
    return agent.manifests()[task].input.shape
