import asyncio
import subprocess
import sys

import pytest

from cloud_service.training.child import KILLED, LOG, PID, end_orphan, failure, run_child
from cloud_service.training.progress import Step
from tests.sim.pipeline import COMMAND


async def test_child_is_followed_to_its_end(tmp_path):
    steps: list[Step] = []
    assert await run_child((*COMMAND, "fail"), tmp_path, steps.append) == 65
    assert [(step.stage, step.done, step.total) for step in steps] == [("distill", 1, 2)]
    assert failure(tmp_path, 65) == "the data is bad"
    assert not (tmp_path / PID).exists()


async def test_child_without_a_message_points_to_its_log(tmp_path):
    assert await run_child((*COMMAND, "crash"), tmp_path, print) == 1
    assert "something broke" in (tmp_path / LOG).read_text()
    assert failure(tmp_path, 1).endswith(f"see {tmp_path / LOG}")
    assert "signal 11" in failure(tmp_path, -11)


async def test_killed_child_is_started_once_more_with_half_a_batch(tmp_path):
    assert await run_child((*COMMAND, "killed-once"), tmp_path, print) == 65
    assert (tmp_path / "starts").read_text().split() == ["started", "started"]
    assert (tmp_path / KILLED).exists()
    assert await run_child((*COMMAND, "killed"), tmp_path, print) == -9
    assert (tmp_path / "starts").read_text().split() == ["started"] * 3
    assert "with half a batch, too" in failure(tmp_path, -9)


async def test_child_that_a_new_owner_of_the_folder_ends_is_not_started_again(tmp_path):
    started = asyncio.Event()
    work = asyncio.create_task(run_child((*COMMAND, "hang"), tmp_path, lambda _: started.set()))
    async with asyncio.timeout(20):
        await started.wait()
        await asyncio.to_thread(end_orphan, tmp_path)
        (tmp_path / PID).write_text("1")  # the new owner's child
        assert await work == -9
    assert not (tmp_path / KILLED).exists()
    assert (tmp_path / PID).read_text() == "1"


async def test_cancelled_caller_leaves_no_child(tmp_path):
    started = asyncio.Event()
    work = asyncio.create_task(run_child((*COMMAND, "hang"), tmp_path, lambda _: started.set()))
    async with asyncio.timeout(20):
        await started.wait()
    pid = int((tmp_path / PID).read_text())
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    with pytest.raises(OSError, match="No such process"):
        __import__("os").kill(pid, 0)


def test_orphan_in_the_folder_is_ended_and_nobody_else(tmp_path):
    idle = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen([*idle, str(tmp_path)]) as orphan, subprocess.Popen([*idle, "elsewhere"]) as stranger:
        try:
            (tmp_path / PID).write_text(str(stranger.pid))
            end_orphan(tmp_path)
            with pytest.raises(subprocess.TimeoutExpired):
                stranger.wait(0.3)
            (tmp_path / PID).write_text(str(orphan.pid))
            end_orphan(tmp_path)
            assert orphan.wait(10) == -9
        finally:
            orphan.kill()
            stranger.kill()
    end_orphan(tmp_path)
    (tmp_path / PID).write_text("nonsense")
    end_orphan(tmp_path)
