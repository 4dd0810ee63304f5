"""Does the state folder's disk take what the agent writes, fast enough, and for how long?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from edge_agent.host.checks.finding import Finding, fail, ok, warn

_CHECK = "disk"
_SYNCS = 5
_SLOW_SYNC_S = 0.5
_LOW_BYTES = 200 * 1024**2
# eMMC's own estimate (JEDEC EXT_CSD_DEVICE_LIFE_TIME_EST): steps of 10 %, 0x0B: over.
_WORN_STEP = 9
_MEMORY_KINDS = ("tmpfs", "ramfs")


def check_disk(state_dir: Path, *, spool_bytes: int, sysfs: Path, mounts: Path) -> Iterator[Finding]:
    """Findings on the disk of the state folder, which need not be there yet.

    Args:
        spool_bytes: what the spool may grow to.
        sysfs, mounts: `/sys` and `/proc/self/mounts`.
    """
    folder = next(path for path in (state_dir, *state_dir.parents) if path.is_dir())
    if folder != state_dir:
        yield ok(_CHECK, f"{state_dir} is not there yet; it is made at the first start")
    try:
        space = os.statvfs(folder)
    except OSError as err:
        yield fail(_CHECK, f"{folder} does not answer ({err.strerror}): is the disk there and mounted?")
        return
    if space.f_flag & os.ST_RDONLY:
        yield fail(_CHECK, f"{folder} is mounted read-only: remount it, or replace the disk if the kernel did that")
        return
    yield _free(folder, space.f_bavail * space.f_frsize, spool_bytes)
    yield from _kind(folder, mounts)
    if folder == state_dir:
        yield _writes(folder)
    yield from _wear(folder, sysfs)


def _free(folder: Path, free: int, spool_bytes: int) -> Finding:
    megabytes = f"{free / 1e6:,.0f} MB are free on the disk of {folder}"
    if free < _LOW_BYTES:
        return fail(_CHECK, f"{megabytes}: free some, or updates and samples do not fit")
    if free < spool_bytes:
        return warn(_CHECK, f"{megabytes}; the spool may grow to {spool_bytes / 1e6:,.0f} MB: lower spool.max_bytes")
    return ok(_CHECK, megabytes)


def _kind(folder: Path, mounts: Path) -> Iterator[Finding]:
    best = ("", "")
    for line in mounts.read_text(errors="replace").splitlines():
        _, where, kind, *_ = line.split()
        if folder.is_relative_to(where) and len(where) >= len(best[0]):
            best = (where, kind)
    if best[1] in _MEMORY_KINDS:
        yield warn(_CHECK, f"{folder} is in memory ({best[1]}): models and samples are gone after a power cut")


def _writes(folder: Path) -> Finding:
    """Write and sync a small file, as a flush does, and remove it."""
    file = folder / f".doctor.{os.getpid()}"
    took = []
    try:
        with open(file, "wb", buffering=0) as opened:
            for _ in range(_SYNCS):
                began = time.monotonic()
                opened.write(bytes(4096))
                os.fsync(opened.fileno())
                took.append(time.monotonic() - began)
    except PermissionError:
        return warn(_CHECK, f"this user may not write into {folder}: type the same with sudo, or as the service's user")
    except OSError as err:
        return fail(_CHECK, f"{folder} cannot be written ({err.strerror}): free space, or look at the disk (dmesg)")
    finally:
        file.unlink(missing_ok=True)
    slowest = max(took)
    if slowest > _SLOW_SYNC_S:
        return warn(_CHECK, f"a flush took up to {slowest:.1f} s: the card is slow or worn; a better one lives longer")
    return ok(_CHECK, f"a flush takes up to {slowest * 1000:.0f} ms")


def _wear(folder: Path, sysfs: Path) -> Iterator[Finding]:
    """What the flash says of itself, where it does: eMMC, not SD cards."""
    device = folder.stat().st_dev
    block = sysfs / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"
    for place in (block / "device" / "life_time", block / ".." / "device" / "life_time"):
        try:
            steps = max(int(word, 16) for word in place.read_text().split())
        except (OSError, ValueError):
            continue
        used = f"the flash says that about {min(steps, 10) * 10} % of its life is used"
        yield (warn if steps >= _WORN_STEP else ok)(
            _CHECK, used + (": plan to replace it" if steps >= _WORN_STEP else "")
        )
        return
