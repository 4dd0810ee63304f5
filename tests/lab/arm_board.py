"""An emulated board with a Cortex-A53: Debian's own Arm kernel, a root in memory, and the way to this host's loopback.

What /proc says in there is what it says on a device: QEMU's memory is outside. The board runs one Python program and is
switched off. It takes a second or two to boot, and everything about fifty times as long as here.

    lines = ArmBoard(root, folder).run("print(1 + 1)", timeout=60)   # ["2"]
"""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tests.lab.engine import SYSTEM_PATH

QEMU = "qemu-system-aarch64"
MEMORY_MB = 1_500
HOST = "10.0.2.2"  # QEMU's name for this host's loopback
MARK = "@board "

_MODULES = ("virtio", "virtio_ring", "virtio_mmio", "failover", "net_failover", "virtio_net")
_LEFT_OUT = ("boot", "lib/modules", "usr/lib/modules", "usr/share/doc", "var/lib/apt", "var/cache")
# The first and only process: mounts, the network card, the program, power off.
_INIT = """\
#!/usr/bin/python3
import ctypes, fcntl, os, socket, struct, subprocess
libc = ctypes.CDLL(None, use_errno=True)
for kind, where in ((b"proc", b"/proc"), (b"sysfs", b"/sys"), (b"devtmpfs", b"/dev"), (b"tmpfs", b"/tmp")):
    assert libc.mount(kind, where, kind, 0, None) == 0, (kind, ctypes.get_errno())
for name in {modules!r}:
    with open(f"/modules/{{name}}.ko", "rb") as file:
        assert libc.syscall(273, file.fileno(), b"", 0) == 0, (name, ctypes.get_errno())  # finit_module(2) on arm64
with socket.socket() as card:
    for request, address in ((0x8916, "10.0.2.15"), (0x891C, "255.255.255.0")):  # netdevice(7): address, mask
        packed = struct.pack("16sHH4s8x", b"eth0", socket.AF_INET, 0, socket.inet_aton(address))
        fcntl.ioctl(card, request, packed)
    for name in (b"lo", b"eth0"):
        fcntl.ioctl(card, 0x8914, struct.pack("16sH14x", name, 0x1))  # netdevice(7): up
os.environ.update(PATH="/usr/bin:/bin", HOME="/root", PYTHONPATH="/opt/edgeloop:/site", PYTHONUNBUFFERED="1")
with subprocess.Popen(["/usr/bin/python3", "/program.py"], stdout=subprocess.PIPE, text=True) as program:
    for line in program.stdout:
        print({mark!r} + line, end="", flush=True)
print({mark!r} + f"ended with {{program.wait()}}", flush=True)
libc.reboot(0x4321FEDC)  # reboot(2): power off
"""


def why_not() -> str | None:
    """Why no board can be emulated here; None when one can."""
    if shutil.which(QEMU, path=SYSTEM_PATH) is None:
        return f"{QEMU} is not installed; type: apt-get install qemu-system-arm"
    return None


class ArmBoard:
    """A board whose disk is a copy of an Arm root (`arm.base_root`) in memory; `folder` is for the image."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._image = root, folder / "image.cpio"
        (self._kernel,) = (root / "boot").glob("vmlinuz-*")

    def run(self, program: str, *, timeout: float) -> list[str]:
        """Boot, run a Python program and switch off; returns the lines that it printed.

        Raises:
            RuntimeError: it ended with another code than 0, or not at all.
        """
        init = _INIT.format(modules=_MODULES, mark=MARK)
        with self._image.open("wb") as file:
            _write_image(file, self._root, {"init": init.encode(), "program.py": program.encode()})
        machine = ["-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", str(MEMORY_MB), "-nographic", "-no-reboot"]
        network = ["-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"]
        start = ["-kernel", str(self._kernel), "-initrd", str(self._image), "-append", "console=ttyAMA0 quiet panic=-1"]
        done = subprocess.run(
            [str(shutil.which(QEMU, path=SYSTEM_PATH)), *machine, *network, *start],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        lines = [line.split(MARK, 1)[1] for line in done.stdout.splitlines() if MARK in line]
        if not lines or lines[-1] != "ended with 0":
            raise RuntimeError(f"the board's program failed:\n{done.stdout[-4000:]}\n{done.stderr[-1000:]}")
        return lines[:-1]


def _write_image(file: BinaryIO, root: Path, more: dict[str, bytes]) -> None:
    """An archive as the kernel unpacks it at its start (cpio "newc", Documentation/driver-api/early-userspace)."""
    for folder in ("modules", "proc", "sys", "tmp", "dev"):
        _entry(file, folder, stat.S_IFDIR | 0o755)
    _entry(file, "dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for name in _MODULES:
        (module,) = root.glob(f"lib/modules/*/kernel/**/{name}.ko")
        _entry(file, f"modules/{name}.ko", stat.S_IFREG | 0o644, module.read_bytes())
    for name, content in more.items():
        _entry(file, name, stat.S_IFREG | 0o755, content)
    for path, name in _files(root):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            _entry(file, name, mode, str(path.readlink()).encode())
        elif stat.S_ISDIR(mode):
            _entry(file, name, mode)
        elif stat.S_ISREG(mode):
            _entry(file, name, mode, path.read_bytes())
    _entry(file, "TRAILER!!!", 0)


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in sorted(folders) if str(here / name) not in {*_LEFT_OUT, "proc", "sys", "dev"}]
        for name in (*folders, *files):
            yield Path(folder) / name, str(here / name)


def _entry(file: BinaryIO, name: str, mode: int, data: bytes = b"", *, device: tuple[int, int] = (0, 0)) -> None:
    encoded = name.encode() + b"\0"
    numbers = (file.tell() + 1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    for part in (header + encoded, data):
        file.write(part)
        file.write(b"\0" * (-len(part) % 4))
