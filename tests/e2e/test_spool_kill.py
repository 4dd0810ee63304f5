"""The spool's promise, kept by force: killed at random moments, and without power on a real file system."""

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from shared import codec
from shared.errors import StorageFull
from shared.ids import new_id
from shared.messages import Reason, SampleHeader
from tests.e2e.spool_writer import TENSOR
from tests.harness import ROOT

pytestmark = pytest.mark.e2e

KILLS = 200
COST = len(codec.encode(TENSOR)) + 600  # with its row


class Story:
    """What the writer was told by its spool, and what must be true of it after each kill."""

    def __init__(self) -> None:
        self.kept: set[UUID] = set()
        self.gone: set[UUID] = set()
        self.tried: set[UUID] = set()  # put, but killed before the word of it
        self.letting: set[UUID] = set()  # being let go, but killed before the word of it
        self.has: list[UUID] = []
        self.opened = 0
        self.put = 0

    def hear(self, line: str) -> None:
        word, *rest = line.split()
        if word == "open":
            self.check(items=int(rest[0]), size=int(rest[1]))
            return
        sample_id = UUID(rest[0])
        match word:
            case "has":
                self.has.append(sample_id)
            case "try":
                self.tried.add(sample_id)
            case "put":
                self.tried.remove(sample_id)
                self.kept.add(sample_id)
                self.put += 1
            case "let":
                self.letting.add(sample_id)
            case "gone":
                self.letting.remove(sample_id)
                self.kept.remove(sample_id)
                self.gone.add(sample_id)
            case _:
                pytest.fail(f"the writer said {line!r}")

    def check(self, *, items: int, size: int) -> None:
        """The spool is open again and has told what it has."""
        has = set(self.has)
        assert len(self.has) == len(has), "a sample is given twice"
        assert self.kept - self.letting <= has, "a sample that was put is lost"
        assert not has & self.gone, "a sample that was let go is back"
        assert has <= self.kept | self.tried, "a sample is there that nobody put"
        assert (items, size) == (len(has), len(has) * COST)
        # What a kill left open is settled now.
        self.gone |= (self.kept | self.tried) - has
        self.kept, self.tried, self.letting = has, set(), set()
        self.opened += 1


def test_spool_killed_hundreds_of_times_loses_nothing_and_gives_nothing_twice(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("spool_writer.py")), str(tmp_path / "spool"), "7"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    rng, story = random.Random(20), Story()
    for _ in range(KILLS):
        writer.stdin.write("go\n")
        writer.stdin.flush()
        child = int(writer.stdout.readline().split()[1])
        time.sleep(rng.uniform(0.0, 0.05))  # also in the middle of opening
        os.kill(child, signal.SIGKILL)
        story.has = []
        while (line := writer.stdout.readline()) != "end\n":
            story.hear(line)
    writer.stdin.close()
    assert writer.wait(10) == 0
    writer.stdout.close()
    print(f"{KILLS} kills, {story.opened} lives, {story.put} put, {len(story.gone)} let go, {len(story.kept)} left")
    assert story.opened > KILLS / 2
    assert story.put > KILLS
    assert len(story.gone) > KILLS / 2
    with_spool(tmp_path / "spool", story)


def with_spool(folder: Path, story: Story) -> None:
    """A last life, in this process."""
    spool = Spool(folder, SpoolSettings(max_bytes=1024**2, max_unanswered=10**6))
    story.has = []
    while batch := spool.due(10**6):
        story.has += [each.header.sample_id for each in batch]
        for each in batch:
            np.testing.assert_array_equal(each.tensor, TENSOR)
    state = spool.state()
    assert (state.evicted, state.refused) == ({}, 0)
    story.check(items=state.items, size=state.bytes)
    spool.close()


# FS_IOC_SHUTDOWN with NOLOGFLUSH, linux/fs.h: from now on nothing reaches the disk, as when the power is cut.
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    disk = image.with_suffix(".mounted")
    disk.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here ({done.stderr.strip()}); run as root with mount allowed")
    try:
        yield disk
    finally:
        # Lazily: a test that fails leaves its spool open.
        subprocess.run(["umount", "-l", str(disk)], check=True)


def cut_power(disk: Path) -> None:
    descriptor = os.open(disk, os.O_RDONLY)
    fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    os.close(descriptor)


def a_header() -> SampleHeader:
    return SampleHeader(
        sample_id=new_id(), task="t", seq=1, bundle_version="v1", prediction=3, hardness=0.5, reason=Reason.HARD
    )


def test_power_cut_costs_what_was_put_since_the_last_flush_and_nothing_else(tmp_path, caplog):
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4 here; install e2fsprogs")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 * 1024**2)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    rng = random.Random(3)
    durable: set[UUID] = set()
    for _ in range(8):
        with mounted(image) as disk:
            # With a log that is moved into the database all the time, and with one that hardly ever is.
            settings = SpoolSettings(max_bytes=rng.choice([4, 256]) * 1024**2, max_unanswered=10**6)
            spool = Spool(disk / "spool", settings)
            has = {each.header.sample_id for each in spool.due(10**6)}
            assert durable <= has, "a sample that was flushed is lost"
            for _ in range(rng.randrange(1, 6)):
                put = [a_header() for _ in range(rng.randrange(60))]
                for each in put:
                    spool.put(each, TENSOR)
                has |= {each.sample_id for each in put}
                gone = rng.sample(sorted(has), k=len(has) // 2)
                assert spool.acknowledge(gone) == len(gone)
                has -= set(gone)
                spool.flush()
            durable = has
            for _ in range(rng.randrange(40)):
                spool.put(a_header(), TENSOR)
            caplog.clear()
            cut_power(disk)
            for _ in range(3):
                with pytest.raises(StorageFull, match="takes no more"):
                    spool.put(a_header(), TENSOR)
                spool.acknowledge(sorted(durable)[:3])
                spool.flush()
                spool.due(10)
            assert caplog.text.count("the spool's disk takes no more") == 1
            spool.close()
    assert len(durable) > 10
