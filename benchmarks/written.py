"""How many bytes were written: by this process, and to the block device of a file system of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE_BYTES = 256 * 1024**2


def check_disk(folder: Path) -> None:
    """End where the kernel does not count: a file system in memory."""
    before = written_bytes()
    probe = folder / "probe"
    probe.write_bytes(b"x" * 1_000_000)
    with probe.open("rb") as file:
        os.fsync(file.fileno())
    if written_bytes() - before < 1_000_000:
        sys.exit(f"{folder} is not on a disk whose writes are counted: choose another with --folder")
    probe.unlink()


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """A new ext4 in a file, mounted beside it."""
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    # All inode tables now: else the kernel writes them in the background, into our numbers.
    options = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", "-q", "-E", options, str(image)], check=True)
    disk = image.with_suffix(".mounted")
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop,noatime", str(image), str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def device_bytes(disk: Path) -> int:
    """Written to the block device of a mounted disk so far: sectors of 512 bytes, Documentation/block/stat.rst."""
    device = disk.stat().st_dev
    numbers = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()
    return int(numbers[6]) * 512


def written_bytes() -> int:
    """Of this process so far, by proc(5): `write_bytes`."""
    for line in Path("/proc/self/io").read_text().splitlines():
        name, _, number = line.partition(": ")
        if name == "write_bytes":
            return int(number)
    raise RuntimeError("this kernel does not count the bytes a process writes")
