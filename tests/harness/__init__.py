"""Real brokers and real processes for tests: nothing here simulates, and everything ends with the test.

In a test, ask for a fixture (tests/conftest.py):

    def test_x(mosquitto, processes, tmp_path):   # a started Mosquitto; skips, with the reason, where there is none
        agent = processes.agent(tmp_path / "agent.toml")     # edge-agent run --config …, a process of its own
        cloud = processes.service(tmp_path / "cloud.toml")   # edgeloop serve --config …
        wait_until(lambda: "connected" in agent.log_text(), timeout=20, what="the agent connected")
        agent.kill()                                         # SIGKILL; .stop() is SIGTERM; .start() runs it again

Fixtures:
    mosquitto         Mosquitto, one a test, on a free loopback port:
                      .host .port .stop() .start() .restart() .kill() .log_text() .process
    embedded_broker   EmbeddedBroker, the same face (memory only: retained and queued messages die with it)
    broker            either of the two: the test runs once against each (ids "mosquitto" and "embedded")
    processes         Processes: .agent(config) .service(config) .edgeloop(*args) .edge_agent(*args) .spawn(name, argv);
                      all are ended after the test, and the ends of their logs are printed when it failed
    free_port         a function that gives a free loopback TCP port

Functions and classes to import from here:
    wait_until(predicate, *, timeout, what)           blocks; returns the predicate's first truthy value
    await eventually(predicate, *, timeout, what)     the same in an event loop; the predicate may be async
    Process, Processes, Mosquitto, EmbeddedBroker, free_port, find_mosquitto, ROOT
"""

from tests.harness.brokers import EmbeddedBroker, Mosquitto, find_mosquitto
from tests.harness.processes import ROOT, Process, Processes
from tests.harness.waiting import eventually, free_port, wait_until

__all__ = [
    "ROOT",
    "EmbeddedBroker",
    "Mosquitto",
    "Process",
    "Processes",
    "eventually",
    "find_mosquitto",
    "free_port",
    "wait_until",
]
