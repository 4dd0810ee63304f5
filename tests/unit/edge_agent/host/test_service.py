"""The service around an agent that does what the test tells it; systemd is a socket of the test's own."""

import os
import signal
import socket
import threading
import time

import pytest

from edge_agent.errors import AgentHangs, NoWorkingModel
from edge_agent.host.notify import Notifier
from edge_agent.host.service import Service
from edge_agent.settings import AgentSettings
from shared.errors import SettingsError
from tests.harness import wait_until
from tests.sim.clock import SimulatedClock


def settings(device="cam-1", **task):
    return AgentSettings.model_validate(
        {"site": "demo", "device": device, "state_dir": "/nowhere", "tasks": {"digits": {"bundle": "/b", **task}}}
    )


class Agent:
    """Runs until it is told to stop.

    Attributes:
        hangs: its sources do not end when told.
        ends: its sources end by themselves at once.
        dies: device → what `run` raises.
    """

    def __init__(self, settings, world):
        self.settings, self.world = settings, world
        self.closed = threading.Event()

    def run(self, stop):
        self.world.said.append(f"run {self.settings.device}")
        if self.settings.device in self.world.dies:
            raise self.world.dies[self.settings.device]
        if self.world.hangs:
            self.world.hanging.set()
            self.world.released.wait()
        elif not self.world.ends:
            stop.wait()
        if self.settings.device in self.world.dies:
            raise self.world.dies[self.settings.device]

    def unwell(self):
        return self.world.ailment

    def wait_until_delivered(self, timeout):
        self.world.said.append("deliver")
        return self.world.delivered.wait(timeout)

    def close(self):
        self.world.said.append(f"close {self.settings.device}")
        self.closed.set()


class World:
    """Everything around one service under test."""

    def __init__(self, tmp_path, *, drain_s=5.0, watchdog_s=None, clock=None):
        self.said, self.messages = [], []
        self.hangs = self.ends = False
        self.dies, self.slow = {}, {}
        self.ailment = None
        self.hanging, self.released, self.delivered = (threading.Event() for _ in range(3))
        self.file = settings()
        self.broken = set()
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(tmp_path / "notify"))
        self.systemd.settimeout(10)
        notifier = Notifier(str(tmp_path / "notify"), watchdog_s=watchdog_s)
        self.clock = clock or time.monotonic
        self.service = Service(self.read, self.open, notifier=notifier, drain_s=drain_s, clock=self.clock)
        self.failure = None
        self.thread = threading.Thread(target=self._run)

    def read(self):
        if isinstance(self.file, Exception):
            raise self.file
        return self.file

    def open(self, settings):
        self.said.append(f"open {settings.device}")
        if settings.device in self.slow:
            self.slow[settings.device]()
        if settings.device in self.broken:
            raise NoWorkingModel(f"no model for {settings.device}")
        return Agent(settings, self)

    def _run(self):
        try:
            self.service.run()
        except Exception as err:  # noqa: BLE001  # looked at by the test
            self.failure = err

    def wait_for(self, start):
        """The next message to systemd that begins so; those before it are passed over."""
        while True:
            lines = self.systemd.recv(4096).decode().split("\n")
            self.messages.append(lines)
            if any(line.startswith(start) for line in lines):
                return lines

    def ready(self, device):
        """The agent of these settings was said to be ready, and runs: the one comes a moment before the other."""
        self.wait_for("READY=1")
        wait_until(lambda: self.said[-1] == f"run {device}", timeout=10, what=f"{device} runs")

    def end(self):
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.failure


@pytest.fixture
def world(tmp_path):
    made = []

    def make(**options):
        made.append(World(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.released.set()
        each.delivered.set()
        each.service.stop()
        if each.thread.ident:
            each.thread.join(10)
        each.systemd.close()


def test_service_says_ready_when_the_agent_answers_and_stopping_before_it_drains(world):
    here = world()
    here.thread.start()
    assert here.wait_for("READY=1")[1] == "STATUS=answering: digits"
    here.service.stop()
    assert here.wait_for("STOPPING=1")
    assert here.end() is None
    assert here.said == ["open cam-1", "run cam-1", "close cam-1"]


def test_stop_is_logged_once(world, caplog):
    caplog.set_level("INFO")
    here = world()
    here.thread.start()
    here.ready("cam-1")
    for _ in range(2):
        here.service.stop()
    assert here.end() is None
    assert caplog.text.count("stopping: ") == 1


def test_factory_bundle_that_is_gone_is_said_at_the_start_and_after_a_reload(world, caplog, tmp_path):
    (tmp_path / "factory.bundle").touch()
    here = world()
    here.file = settings(bundle=tmp_path / "factory.bundle")
    here.thread.start()
    here.ready("cam-1")
    here.service.reload()
    here.ready("cam-1")
    assert "last resort" not in caplog.text
    (tmp_path / "factory.bundle").unlink()
    here.service.reload()
    here.ready("cam-1")
    wait_until(lambda: "last resort" in caplog.text, timeout=10, what="the lost bundle is said")
    assert f"task digits: the factory bundle {tmp_path / 'factory.bundle'} is gone" in caplog.text
    here.service.stop()
    assert here.end() is None


def test_service_with_bad_settings_ends_at_once(world):
    here = world()
    here.file = SettingsError("agent.toml: no")
    here.thread.start()
    assert here.end() is here.file
    assert here.said == []


def test_service_whose_agent_does_not_open_or_dies_ends_with_its_error(world):
    here = world()
    here.broken = {"cam-1"}
    here.thread.start()
    assert isinstance(here.end(), NoWorkingModel)
    fault = RuntimeError("a fault of our own")
    here.dies = {"cam-1": fault}
    here.broken = set()
    here.thread = threading.Thread(target=here._run)
    here.thread.start()
    assert here.end() is fault
    assert here.said[-1] == "close cam-1"


def test_reload_reads_first_then_drains_and_opens_anew(world):
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file = settings("cam-2")
    here.service.reload()
    reloading = here.wait_for("RELOADING=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in reloading)
    here.ready("cam-2")
    assert here.said == ["open cam-1", "run cam-1", "close cam-1", "open cam-2", "run cam-2"]
    here.service.stop()
    assert here.end() is None


def test_reload_of_bad_settings_keeps_the_old_agent_running_and_says_so(world, caplog):
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file = SettingsError("agent.toml: unknown key 'brokr'")
    here.service.reload()
    here.wait_for("RELOADING=1")
    assert "brokr" in here.wait_for("READY=1")[1]
    assert "the old ones stay" in caplog.text
    here.service.stop()
    assert here.end() is None
    assert here.said == ["open cam-1", "run cam-1", "close cam-1"]


def test_reload_that_gives_no_agent_goes_back_to_the_old_settings(world, caplog):
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file, here.broken = settings("cam-2"), {"cam-2"}
    here.service.reload()
    here.wait_for("RELOADING=1")
    here.ready("cam-1")
    assert here.said[2:] == ["close cam-1", "open cam-2", "open cam-1", "run cam-1"]
    assert "back to the old" in caplog.text
    here.file = settings("cam-3")  # corrected: the next reload takes it
    here.service.reload()
    here.ready("cam-3")
    assert here.said[-1] == "run cam-3"


def test_reload_to_an_agent_that_fails_at_once_goes_back_to_the_old_settings(world, caplog):
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file, here.dies = settings("cam-2"), {"cam-2": SettingsError("no such source")}
    here.service.reload()
    here.wait_for("RELOADING=1")
    here.wait_for("READY=1")
    here.ready("cam-1")
    assert here.said[2:] == ["close cam-1", "open cam-2", "run cam-2", "close cam-2", "open cam-1", "run cam-1"]
    assert "no such source" in caplog.text


def test_reload_that_gives_no_agent_and_whose_old_settings_give_none_either_ends(world):
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file, here.broken = settings("cam-2"), {"cam-1", "cam-2"}
    here.service.reload()
    assert isinstance(here.end(), NoWorkingModel)
    assert here.said[-2:] == ["open cam-2", "open cam-1"]


def test_time_of_opening_is_not_part_of_the_trial(world, caplog):
    clock = SimulatedClock()
    here = world(clock=clock)
    here.thread.start()
    here.wait_for("READY=1")
    here.file, here.dies = settings("cam-2"), {"cam-2": SettingsError("no such source")}
    here.slow = {"cam-2": lambda: clock.advance(120.0)}
    here.service.reload()
    wait_until(lambda: here.said[-1:] == ["run cam-1"] and len(here.said) > 3, timeout=10, what="back to the old")
    assert "back to the old" in caplog.text


def test_agent_that_fails_long_after_it_opened_is_no_fault_of_new_settings(world):
    clock = SimulatedClock()
    here = world(clock=clock)
    here.thread.start()
    here.wait_for("READY=1")
    here.file, here.hangs = settings("cam-2"), True
    here.service.reload()
    assert here.hanging.wait(10)
    clock.advance(31.0)
    here.dies = {"cam-2": SettingsError("a camera was pulled out")}
    here.released.set()
    assert isinstance(here.end(), SettingsError)


def test_reload_while_an_agent_opens_waits_for_it_however_long_that_takes(world):
    clock, opening, opened = SimulatedClock(), threading.Event(), threading.Event()
    here = world(drain_s=0.05, clock=clock, watchdog_s=0.03)
    here.slow = {"cam-1": lambda: (opening.set(), opened.wait(10))}
    here.thread.start()
    assert opening.wait(10)
    here.file = settings("cam-2")
    here.service.reload()
    here.wait_for("RELOADING=1")
    clock.advance(100.0)
    for _ in range(3):
        here.wait_for("WATCHDOG=1")  # it opens, it does not hang
    opened.set()
    here.ready("cam-2")
    assert here.said == ["open cam-1", "close cam-1", "open cam-2", "run cam-2"]
    here.service.stop()
    assert here.end() is None


def test_second_reload_while_the_first_opens_still_falls_back_to_what_ran(world):
    opening, opened = threading.Event(), threading.Event()
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file, here.slow = settings("cam-2"), {"cam-2": lambda: (opening.set(), opened.wait(10))}
    here.service.reload()
    assert opening.wait(10)
    here.file, here.broken = settings("cam-3"), {"cam-2", "cam-3"}
    here.service.reload()
    here.wait_for("RELOADING=1")
    here.wait_for("RELOADING=1")
    opened.set()
    here.ready("cam-1")
    assert here.said[2:] == ["close cam-1", "open cam-2", "open cam-3", "open cam-1", "run cam-1"]


def test_stop_while_an_agent_opens_does_not_wait_for_it(world):
    clock, opening, opened = SimulatedClock(), threading.Event(), threading.Event()
    here = world(clock=clock, watchdog_s=1.0)
    here.slow = {"cam-1": lambda: (opening.set(), opened.wait(10))}
    here.thread.start()
    assert opening.wait(10)
    here.file = settings("cam-2")
    here.service.reload()
    here.service.stop()
    here.wait_for("STOPPING=1")

    def ended() -> bool:
        clock.advance(11.0)  # more than once: it says that it stops a moment before it begins to wait
        return not here.thread.is_alive()

    wait_until(ended, timeout=10, what="the service ends")
    assert here.end() is None
    opened.set()


def test_stop_wins_over_a_reload(world):
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file = settings("cam-2")
    here.service.stop()
    here.service.reload()
    assert here.end() is None
    assert here.said == ["open cam-1", "run cam-1", "close cam-1"]


def test_stop_is_the_end_even_when_the_agent_of_new_settings_fails_meanwhile(world):
    here = world()
    here.thread.start()
    here.wait_for("READY=1")
    here.file, here.hangs = settings("cam-2"), True
    here.service.reload()
    here.wait_for("READY=1")
    assert here.hanging.wait(5)
    here.dies = {"cam-2": SettingsError("too late to matter")}
    here.service.stop()
    here.wait_for("STOPPING=1")
    here.released.set()
    here.end()
    assert here.said[2:] == ["close cam-1", "open cam-2", "run cam-2", "close cam-2"]


def test_source_that_hangs_does_not_keep_the_service_from_ending(world):
    here = world(drain_s=0.05)
    here.hangs = True
    here.thread.start()
    here.wait_for("READY=1")
    here.service.stop()
    assert here.end() is None
    assert here.said[-1] == "close cam-1"


def test_source_that_hangs_at_a_reload_ends_the_process_for_systemd_to_start_it_again(world):
    here = world(drain_s=0.05)
    here.hangs = True
    here.thread.start()
    here.wait_for("READY=1")
    here.service.reload()
    failure = here.end()
    assert isinstance(failure, AgentHangs)
    assert failure.exit_code == 75
    assert here.said[-1] == "close cam-1"


def test_sources_that_end_are_given_time_to_arrive(world):
    here = world()
    here.file = settings(sources=[{"kind": "replay", "path": "/x.npz"}])
    here.ends = True
    here.delivered.set()
    here.thread.start()
    assert here.end() is None
    assert here.said == ["open cam-1", "run cam-1", "deliver", "close cam-1"]


def test_stop_ends_the_wait_for_arrival(world, caplog):
    here = world()
    here.file = settings(sources=[{"kind": "replay", "path": "/x.npz"}])
    here.ends = True
    here.thread.start()
    here.wait_for("READY=1")
    here.service.stop()
    assert here.end() is None
    assert "did not end in time" not in caplog.text


def test_watchdog_is_fed_while_the_agent_is_well_and_starves_while_it_hangs(world, caplog):
    caplog.set_level("INFO")
    here = world(watchdog_s=0.06)
    here.thread.start()
    here.wait_for("READY=1")
    for _ in range(3):
        here.wait_for("WATCHDOG=1")
    here.ailment = "task digits should have been heard of 40 s ago"
    here.systemd.settimeout(0.5)
    with pytest.raises(TimeoutError):
        while True:
            here.systemd.recv(4096)
    assert caplog.text.count("the agent hangs: task digits") == 1
    here.ailment = None
    here.wait_for("WATCHDOG=1")
    assert "well again" in caplog.text


def test_signals_stop_and_reload(world):
    here = world()
    before = signal.getsignal(signal.SIGTERM)
    with here.service.signals():
        here.thread.start()
        here.wait_for("READY=1")
        os.kill(os.getpid(), signal.SIGHUP)
        here.wait_for("RELOADING=1")
        here.wait_for("READY=1")
        os.kill(os.getpid(), signal.SIGTERM)
        assert here.end() is None
    assert signal.getsignal(signal.SIGTERM) == before
    assert here.said.count("run cam-1") == 2
