"""Fixtures that every test may ask for; tests/harness/__init__.py describes them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.harness import EmbeddedBroker, Mosquitto, Processes, find_mosquitto
from tests.harness import free_port as find_free_port
from tests.harness.brokers import NO_MOSQUITTO

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture
def free_port() -> Callable[[], int]:
    return find_free_port


@pytest.fixture
def new_children() -> Callable[[], list[psutil.Process]]:
    """This process's children that the test has started; a database for all tests may be another one."""
    before = {child.pid for child in psutil.Process().children()}
    return lambda: [child for child in psutil.Process().children() if child.pid not in before]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    if find_mosquitto() is None:
        pytest.skip(NO_MOSQUITTO)
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def embedded_broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    pytest.importorskip("iotcore", reason="the embedded broker is not installed; type: pip install 'edgeloop[broker]'")
    with EmbeddedBroker(tmp_path / "embedded") as broker:
        yield broker


@pytest.fixture(params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest) -> Mosquitto | EmbeddedBroker:
    return request.getfixturevalue("mosquitto" if request.param == "mosquitto" else "embedded_broker")


@pytest.fixture
def processes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Processes]:
    group = Processes(tmp_path / "processes")
    yield group
    group.close()
    if request.node.stash.get(FAILED, False):
        print(group.tails())
