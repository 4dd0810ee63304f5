"""The engine and the images that all lab tests share; what cannot be had skips with its reason."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import FAILED
from tests.harness import ROOT, Mosquitto, find_mosquitto
from tests.harness.brokers import NO_MOSQUITTO
from tests.harness.waiting import free_port
from tests.lab import rootfs
from tests.lab.device import Device
from tests.lab.engine import CACHE, Engine, install_compose, why_not
from tests.lab.images import ensure_bases
from tests.lab.installed import InstalledAgent
from tests.lab.netlink import Link

BUILD_CONTEXT = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE", ".dockerignore")
BUILD_FOLDERS = ("shared", "edge_agent", "cloud_service", "docker", "deploy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    CACHE.mkdir(parents=True, exist_ok=True)
    engine = Engine(tmp_path_factory.mktemp("engine"))
    engine.start()
    try:
        ensure_bases(engine)
        yield engine
        engine.docker("image", "prune", "--force")  # what this run's builds replaced
        engine.docker("builder", "prune", "--force", "--keep-storage", "8GB")
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what images are built from, with the host's torch wheel in docker/wheels/ (its README says why)."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in BUILD_CONTEXT:
        shutil.copy(ROOT / name, folder)
    for name in BUILD_FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.whl", "models"))
    wheel = torch_wheel()
    if wheel is not None:
        shutil.copy(wheel, folder / "docker" / "wheels")
    return folder


@pytest.fixture(scope="session")
def images(engine: Engine, checkout: Path) -> dict[str, str]:
    """Both product images, built from the product's own Dockerfiles: name → tag."""
    tags = {"edge": "edgeloop-edge", "cloud": "edgeloop-cloud"}
    for name, tag in tags.items():
        engine.docker(
            "build",
            "--quiet",
            "-f",
            str(checkout / f"docker/{name}.Dockerfile"),
            "-t",
            tag,
            str(checkout),
            timeout=1500,
        )
    return tags


@pytest.fixture(scope="session")
def compose_plugin() -> None:
    install_compose()


@pytest.fixture(scope="session")
def device_layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A device's disk with the product installed, to lay its own writes over."""
    reason = rootfs.why_not() or (NO_MOSQUITTO if find_mosquitto() is None else None)
    if reason is not None:
        pytest.skip(reason)
    base = rootfs.base_root()
    folder = tmp_path_factory.mktemp("product")
    with rootfs.overlay(folder, base) as root:
        rootfs.install_product(root, folder / "build")
    return folder / "upper", base


@dataclass(frozen=True)
class DeviceLab:
    """A device with the agent's settings on its disk, its link, and the broker at the other end."""

    device: Device
    agent: InstalledAgent
    link: Link
    broker: Mosquitto


@pytest.fixture
def device_lab(
    device_layers: tuple[Path, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., DeviceLab]]:
    """A function that boots a device; what is made is ended after the test, and its journal printed if it failed."""
    with ExitStack() as stack:
        made: list[DeviceLab] = []

        def boot(
            *, memory_bytes: int | None = None, cpu_share: float | None = None, rate_hz: float = 20.0
        ) -> DeviceLab:
            link = stack.enter_context(Link("cam-1", tmp_path / "link"))
            port = free_port()
            broker = Mosquitto(tmp_path / "mosquitto", port=port, extra=f"listener {port} {link.host}")
            stack.enter_context(broker)
            device = Device(
                "cam-1",
                layers=device_layers,
                link=link,
                folder=tmp_path / "cam-1",
                memory_bytes=memory_bytes,
                cpu_share=cpu_share,
            )
            stack.enter_context(device)
            agent = InstalledAgent(device, port, rate_hz=rate_hz)
            made.append(DeviceLab(device, agent, link, broker))
            return made[-1]

        yield boot
        if request.node.stash.get(FAILED, False):
            for each in made:
                print(each.agent.journal()[-4000:])


def torch_wheel() -> Path | None:
    """The CPU wheel that pip finds on this host, kept since it is large; None: the Dockerfile asks PyTorch's index."""
    match = re.search(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert match is not None
    folder = CACHE / "wheels" / match.group()
    if not list(folder.glob("torch-*.whl")):
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(folder),
            f"{match.group()}+cpu",
        ]
        subprocess.run(command, check=False, capture_output=True)
    return next(folder.glob("torch-*.whl"), None)
