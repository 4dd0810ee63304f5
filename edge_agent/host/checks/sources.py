"""Is what the sources name there, and are the libraries that they need?"""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_agent.host.checks.finding import Finding, fail, ok, warn
from edge_agent.settings import AgentSettings
from edge_agent.sources.settings import (
    CameraSettings,
    DirectorySettings,
    HttpSettings,
    MicrophoneSettings,
    ReadingsSettings,
    ReplaySettings,
    SourceSettings,
    reads_stdin,
)

# Source → the libraries that it imports, with the extra that brings each.
_LIBRARIES = {"camera": {"cv2": "camera"}, "microphone": {"sounddevice": "microphone"}}


def has_module(name: str) -> bool:
    """Whether a library is installed; it is not imported."""
    return importlib.util.find_spec(name) is not None


def check_sources(
    settings: AgentSettings, *, is_installed: Callable[[str], bool] = has_module, devices: Path = Path("/dev")
) -> Iterator[Finding]:
    """Findings on each task's sources; `devices`: the folder of device files."""
    for name, task in settings.tasks.items():
        if not task.sources:
            yield ok("sources", f"{name}: none; a program asks")
        for number, source in enumerate(task.sources):
            check = f"source {name}[{number}]"
            problems = list(_problems(check, source, is_installed, devices))
            yield from problems or [ok(check, f"{source.kind}: what it needs is there")]


def _problems(
    check: str, source: SourceSettings, is_installed: Callable[[str], bool], devices: Path
) -> Iterator[Finding]:
    if reads_stdin(source):
        yield warn(
            check, "it reads standard input, which a service does not have: it is for `edge-agent run` in a pipe"
        )
        return
    match source:
        case ReplaySettings():
            yield from _file(check, source.path)
        case DirectorySettings():
            yield from _folder(check, source.path)
        case ReadingsSettings(path=Path() as path):
            yield from _file(check, path)
        case CameraSettings():
            yield from _camera(check, source.device, devices)
        case MicrophoneSettings():
            yield from _sound(check, devices)
        case HttpSettings():
            yield from _in_the_clear(check, source)
    for library, extra in _LIBRARIES.get(source.kind, {}).items():
        if not is_installed(library):
            yield fail(check, f"{library} is missing: pip install 'edgeloop[{extra}]'")


def _sound(check: str, devices: Path) -> Iterator[Finding]:
    if not any((devices / "snd").glob("pcm*c")):
        yield fail(check, f"there is no sound card that records ({devices}/snd): plug it in, load its driver")


def _in_the_clear(check: str, source: HttpSettings) -> Iterator[Finding]:
    if source.url.startswith("http://") and (source.password or source.headers):
        yield warn(check, "what the server asks for is sent unencrypted: use https")


def _camera(check: str, device: int | str, devices: Path) -> Iterator[Finding]:
    node = devices / f"video{device}" if isinstance(device, int) or device.isdecimal() else Path(device)
    if isinstance(device, str) and not device.isdecimal() and not device.startswith("/"):
        return  # a stream; whether it answers is seen when it is opened
    yield from _file(check, node)


def _file(check: str, path: Path) -> Iterator[Finding]:
    if not path.exists():
        yield fail(check, f"{path} is not there: correct the settings, or plug it in")
    elif not os.access(path, os.R_OK):
        group = _group(path)
        yield warn(check, f"this user may not read {path}{f'; the group {group} may' if group else ''}: try with sudo")


def _folder(check: str, path: Path) -> Iterator[Finding]:
    if not path.is_dir():
        yield fail(check, f"{path} is not a folder: make it, owned by the service's account")
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield warn(check, f"this user may not move files in {path}, which the source does: try with sudo")


def _group(path: Path) -> str | None:
    if not path.stat().st_mode & stat.S_IRGRP:
        return None
    try:
        return path.group()
    except KeyError:
        return None
