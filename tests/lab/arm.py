"""64-bit Arm: Debian and the `edge` extra's own Arm wheels in a cached root, and single programs run in it.

QEMU's user emulation runs an Arm program's every instruction on this machine's kernel: what it computes is what an Arm
processor computes, time means nothing (about 50 times as slow), and neither does memory, which is mostly QEMU's. For
memory there is a whole emulated board, in `arm_board.py`. The processor is a Cortex-A53, as in a Raspberry Pi 3 or
Zero 2 W; onnxruntime reads that from /proc/cpuinfo and /sys, so both are files of ours in there.

    with arm_programs(), overlay(tmp_path, base_root()) as root:
        ArmDevice(root).run("python3", "-m", "edge_agent.cli", "infer", …)
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import ROOT
from tests.lab.engine import CACHE, SYSTEM_PATH
from tests.lab.images import debian_mirror
from tests.lab.rootfs import requirements

QEMU = "qemu-aarch64-static"
PACKAGES = (
    "base-files",
    "ca-certificates",
    "coreutils",
    "dash",
    "libgomp1",
    "libpython3-stdlib",
    "libstdc++6",
    "linux-image-cloud-arm64",
    "python3",
    "python3-minimal",
)
PYTHON = "3.11"  # Debian 12's
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
CORES = 4

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_ENTRY = "qemu-aarch64"
# The first bytes of a 64-bit little-endian Arm program, and which of their bits count.
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_CORE = """\
processor\t: {core}
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4
"""
# In a mount and process space of its own, so that nothing of it outlives the command.
_ENTER = """
set -e
root=$0
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --bind "$root/etc/cpuinfo" "$root/proc/cpuinfo"
mount --rbind /dev "$root/dev"
exec chroot "$root" "$@"
"""


def why_not() -> str | None:
    """Why no Arm program can run here; None when one can."""
    if os.geteuid() != 0:
        return "emulating Arm needs root (sudo make lab)"
    for tool, package in ((QEMU, "qemu-user-static"), ("mmdebstrap", "mmdebstrap"), ("unshare", "util-linux")):
        if shutil.which(tool, path=SYSTEM_PATH) is None:
            return f"{tool} is not installed; type: apt-get install {package}"
    return None


@contextmanager
def arm_programs() -> Iterator[None]:
    """This kernel runs Arm programs through QEMU meanwhile; skips the test where it does not let us say so."""
    if (_BINFMT / _ENTRY).exists():
        yield
        return
    mounted = (_BINFMT / "register").exists()
    if not mounted:
        mount = ["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this kernel does not take other processors' programs: {done.stderr.strip()}")
    # F: the emulator is opened now, so that a program finds it in a root without it. O, C: it gets the open program.
    rule = f":{_ENTRY}:M::{_MAGIC}:{_MASK}:{shutil.which(QEMU, path=SYSTEM_PATH)}:OCF"
    (_BINFMT / "register").write_text(rule)
    try:
        yield
    finally:
        (_BINFMT / _ENTRY).write_text("-1")
        if not mounted:
            subprocess.run(["umount", str(_BINFMT)], check=True)


def base_root() -> Path:
    """Debian for Arm with a kernel and the edge's packages, from the cache or made now (a minute)."""
    wanted = requirements()
    parts = [PACKAGES, wanted, _CORE, (ROOT / "constraints.txt").read_text()]
    root = CACHE / "roots" / f"arm64-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
    if root.exists():
        return root
    for old in (CACHE / "roots").glob("arm64-*"):
        shutil.rmtree(old)
    partial = CACHE / "roots" / "arm64-partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    mirror = debian_mirror()
    options = ["--quiet", "--arch=arm64", "--variant=extract", f"--include={','.join(PACKAGES)}"]
    _checked(["mmdebstrap", *options, "bookworm", str(partial), *([mirror] if mirror else [])])
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    only = ["--only-binary=:all:", "--python-version", PYTHON, "--constraint", str(ROOT / "constraints.txt")]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial / "site")]
    _checked([*pip, *platforms, *only, *wanted])
    (partial / "etc/cpuinfo").write_text("\n".join(_CORE.format(core=core) for core in range(CORES)))
    cpus = partial / "sys/devices/system/cpu"
    cpus.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text(f"0-{CORES - 1}\n")
    # As on a device, where Debian's and pip's installers do it: what Python compiles by itself costs memory, too.
    run_in(partial, "python3", "-m", "compileall", "-q", "/site", f"/usr/lib/python{PYTHON}", timeout=600)
    partial.rename(root)
    return root


class ArmDevice:
    """An Arm root with this checkout's agent in /opt/edgeloop; `data` is its /data."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.data.mkdir()
        for name in ("edge_agent", "shared"):
            shutil.copytree(ROOT / name, root / "opt/edgeloop" / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.run("python3", "-m", "compileall", "-q", "/opt/edgeloop")

    def run(self, *argv: str, timeout: float = 120.0) -> str:
        """Run a program in there to its end; returns its standard output."""
        return run_in(self.root, *argv, timeout=timeout)


def run_in(root: Path, *argv: str, timeout: float = 120.0) -> str:
    """Run an Arm program in a root to its end; returns its standard output."""
    environment = ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/root", "QEMU_CPU=cortex-a53"]
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", _ENTER, str(root)]
    return _checked([*enter, *environment, "PYTHONPATH=/opt/edgeloop:/site", *argv], timeout=timeout)


def _checked(argv: list[str], *, timeout: float = 600.0) -> str:
    environment = {**os.environ, "PATH": SYSTEM_PATH}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
