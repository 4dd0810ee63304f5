"""What the settings make the service reach for beside its state folder, so that a unit grants no more than that."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from edge_agent.execution.choice import Provider
from edge_agent.settings import AgentSettings
from edge_agent.sources.settings import (
    CameraSettings,
    DirectorySettings,
    MicrophoneSettings,
    ReadingsSettings,
    ReplaySettings,
    SourceSettings,
    reads_stdin,
)
from shared.mqtt import BrokerSettings

T = TypeVar("T")

_STANDARD_STREAM = Path("-")
_NVIDIA = tuple((f"char-{name} rw", "video") for name in ("nvidia*", "nvhost*", "nvmap"))
_ACCELERATORS = {
    Provider.TENSORRT: _NVIDIA,
    Provider.CUDA: _NVIDIA,
    Provider.OPENVINO: (("char-drm rw", "render"), ("char-accel rw", "render")),
}
# They compile for their processor at run time.
_COMPILERS = (Provider.TENSORRT, Provider.CUDA, Provider.OPENVINO, Provider.QNN)


@dataclass(frozen=True, slots=True)
class Needs:
    """Attributes:
    reads: files and folders.
    writes: folders outside the state folder.
    devices: values of systemd's `DeviceAllow=`.
    groups: that own those devices.
    runtime: folder names below `/run`.
    secret: the setting that names the broker's private key, and its file, which only the service may read.
    executable_memory: it must be able to run code that it has just written.
    standard_input: a source reads it, and a service has none.
    """

    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    secret: tuple[str, Path] | None = None
    executable_memory: bool = False
    standard_input: bool = False


def needs_of(settings: AgentSettings, *, providers: Collection[Provider] = ()) -> Needs:
    """See the module; `providers`: what this installation of onnxruntime has, one of which "auto" would take."""
    sources = [source for task in settings.tasks.values() for source in task.sources]
    broker = settings.broker
    reads = [file for file in (broker.ca_file, broker.cert_file if broker.key_file else None) if file]
    for _, other in other_brokers(settings):
        reads += [file for file in (other.ca_file, other.cert_file, other.key_file) if file]
    writes: list[Path] = []
    for task in settings.tasks.values():
        reads += [bundle for bundle in (task.bundle, task.small_bundle) if bundle]
    for source in sources:
        reads += [path for path in _reads(source) if path != _STANDARD_STREAM and not _is_device(path)]
        writes += _writes(source)
    outcomes = settings.outcomes.path
    if outcomes is not None and outcomes != _STANDARD_STREAM:
        writes.append(outcomes.parent)
    wanted = settings.execution.provider
    used = [provider for provider in providers if wanted in ("auto", provider)]
    devices = [device for source in sources for device in _devices(source)]
    devices += [device for provider in used for device in _ACCELERATORS.get(provider, ())]
    return Needs(
        reads=_once(reads),
        writes=_once(folder for folder in writes if not folder.is_relative_to(settings.state_dir)),
        devices=_once(device for device, _ in devices),
        groups=_once(group for _, group in devices),
        runtime=_once(_runtime(settings)),
        secret=_secret(broker),
        standard_input=any(reads_stdin(source) for source in sources),
        executable_memory=any(provider in _COMPILERS for provider in used),
    )


def _secret(broker: BrokerSettings) -> tuple[str, Path] | None:
    """A certificate's file without a key's holds both."""
    if broker.key_file is not None:
        return "key_file", broker.key_file
    return ("cert_file", broker.cert_file) if broker.cert_file is not None else None


def other_brokers(settings: AgentSettings) -> list[tuple[str, BrokerSettings]]:
    """Brokers beside the cloud's, each with its place in the settings."""
    return [(place, broker) for place, broker in _brokers(settings, "") if place != "broker"]


def _brokers(value: object, place: str) -> Iterator[tuple[str, BrokerSettings]]:
    match value:
        case BrokerSettings():
            yield place, value
        case BaseModel():
            for name, inner in value:
                yield from _brokers(inner, f"{place}.{name}".strip("."))
        case dict():
            for name, inner in value.items():
                yield from _brokers(inner, f"{place}.{name}")
        case tuple():
            for number, inner in enumerate(value):
                yield from _brokers(inner, f"{place}[{number}]")


def _reads(source: SourceSettings) -> Iterator[Path]:
    match source:
        case ReplaySettings() | ReadingsSettings(path=Path()):
            assert source.path is not None
            yield source.path
        case CameraSettings(device=str(device)) if device.startswith("/"):
            yield Path(device)


def _writes(source: SourceSettings) -> Iterator[Path]:
    if isinstance(source, DirectorySettings):
        yield source.path


def _devices(source: SourceSettings) -> Iterator[tuple[str, str]]:
    """(`DeviceAllow=` value, group) of what a source listens to or looks through.

    By driver, not by file: a device that is plugged in later, under another number, is the same to its driver.
    """
    match source:
        case CameraSettings(device=int()):
            yield "char-video4linux rw", "video"
        case CameraSettings(device=str(device)) if _is_device(device):
            yield "char-video4linux rw", "video"
        case MicrophoneSettings():
            yield "char-alsa rw", "audio"
        case ReadingsSettings(path=Path() as path) if _is_device(path):
            drivers = re.findall(r"^tty[A-Za-z]+", path.name) or ["ttyUSB", "ttyACM"]
            yield from ((f"char-{driver} rw", "dialout") for driver in drivers)


def _is_device(path: Path | str) -> bool:
    return Path(path).is_relative_to("/dev")


def _runtime(settings: AgentSettings) -> Iterator[str]:
    socket = settings.server.socket
    if settings.server.enabled and socket is not None and socket.is_relative_to("/run"):
        yield str(socket.parent.relative_to("/run"))


def _once(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
