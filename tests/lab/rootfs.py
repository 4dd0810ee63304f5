"""A device's disk: Debian with systemd, and the product installed as its README says.

Layers, the upper over the lower: what a device writes · the product of this checkout · Debian, Python and the packages
of the `edge` extra in a virtual environment (in the cache folder, made anew when any of their versions changes).
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import ROOT
from tests.lab.engine import CACHE, SYSTEM_PATH
from tests.lab.images import bootstrap

PACKAGES = ["systemd", "systemd-sysv", "dbus", "ca-certificates", "python3", "python3-venv", "iproute2", "procps"]
VENV = "/opt/edgeloop"
# Roots in the cache, half a gigabyte each: this checkout's and, for who switches between two, another's.
_KEEP = 2
# nspawn mounts the v1 controllers read-only; systemd uses those that it may write to, and looks when it begins.
_CGROUPS = """\
[Unit]
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/bin/sh -c 'cd /sys/fs/cgroup; for c in memory cpu cpuacct pids devices; do mount -o remount,bind,rw $c;done'
ExecStart=systemctl --no-block daemon-reexec
"""


def why_not() -> str | None:
    """Why no device can boot here; None when one can."""
    if os.geteuid() != 0:
        return "booting a device needs root (sudo make lab)"
    needs = {
        "systemd-nspawn": "systemd-container",
        "mmdebstrap": "mmdebstrap",
        "ip": "iproute2",
        "nsenter": "util-linux",
    }
    for tool, package in needs.items():
        if shutil.which(tool, path=SYSTEM_PATH) is None:
            return f"{tool} is not installed; type: apt-get install {package}"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is not there: this kernel has no TAP devices, which the emulated link needs"
    return None


def base_root() -> Path:
    """Debian with the edge's packages, from the cache or made now."""
    wanted = requirements()
    parts = [*PACKAGES, *wanted, _CGROUPS, (ROOT / "constraints.txt").read_text()]
    root = CACHE / "roots" / f"device-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
    if not root.exists():
        newest_first = sorted((CACHE / "roots").glob("device-*"), key=lambda old: old.stat().st_ctime, reverse=True)
        for old in newest_first[_KEEP - 1 :]:
            shutil.rmtree(old)
        partial = bootstrap("device-partial", PACKAGES)
        _install_packages(partial, wanted)
        _prepare(partial)
        partial.rename(root)
    return root


def requirements() -> list[str]:
    """What `pip install edgeloop[edge]` brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["edge"]]


def install_product(root: Path, folder: Path) -> None:
    """Build a wheel of this checkout and install it into a device's disk; `folder` is for what comes in between."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    for name in ("shared", "edge_agent"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("edgeloop-*.whl")
    shutil.copy(wheel, root / "opt")
    _inside(root, f"{VENV}/bin/pip", "install", "--quiet", "--no-deps", f"/opt/{wheel.name}")
    (root / "opt" / wheel.name).unlink()


@contextmanager
def overlay(folder: Path, *lower: Path) -> Iterator[Path]:
    """A file system of these layers, the first uppermost, over which is written into `folder / "upper"`."""
    for name in ("upper", "work", "merged"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    merged = folder / "merged"
    layers = ":".join(str(layer) for layer in lower)
    options = f"lowerdir={layers},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a device's disk cannot be mounted here ({done.stderr.strip()})")
    try:
        yield merged
    finally:
        subprocess.run(["umount", merged], check=True)


def _install_packages(root: Path, wanted: list[str]) -> None:
    """Fetched by this host's pip, which knows its way to the index, and installed by the device's own."""
    wheels = root / "opt" / "wheels"
    wheels.mkdir()
    version = next((root / "usr/lib").glob("python3.*")).name.removeprefix("python")
    only = ["--only-binary=:all:", "--python-version", version]
    _pip("download", *only, "--dest", str(wheels), "--constraint", str(ROOT / "constraints.txt"), *wanted)
    _inside(root, "python3", "-m", "venv", VENV)
    _inside(root, f"{VENV}/bin/pip", "install", "--quiet", "--no-index", "--find-links", "/opt/wheels", *wanted)
    shutil.rmtree(wheels)


def _prepare(root: Path) -> None:
    units = root / "etc/systemd/system"
    (units / "lab-cgroups.service").write_text(_CGROUPS)
    (units / "sysinit.target.wants").mkdir(exist_ok=True)
    (units / "sysinit.target.wants" / "lab-cgroups.service").symlink_to("../lab-cgroups.service")
    (root / "etc/machine-id").write_text("")  # each device gets its own
    (root / "var/log/journal").mkdir(exist_ok=True)  # the journal outlives a reboot


def _pip(*words: str) -> None:
    _checked([sys.executable, "-m", "pip", words[0], "--quiet", *words[1:]])


def _inside(root: Path, *argv: str) -> None:
    _checked(["chroot", str(root), *argv])


def _checked(argv: list[str]) -> None:
    environment = {**os.environ, "PATH": SYSTEM_PATH}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}\n{(done.stdout + done.stderr)[-3000:]}")
