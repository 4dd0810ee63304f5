import asyncio
import threading

from edge_agent.background import Background, every
from tests.harness import eventually, wait_until


async def forever():
    await asyncio.Event().wait()


async def nothing():
    pass


def unexpected():
    raise AssertionError("no task was to die")


def test_tasks_run_side_by_side_until_stopped():
    seen, said = [], []

    async def mark(name):
        seen.append((name, threading.current_thread().name))
        await forever()

    async def goodbye():
        said.append(1)

    background = Background({"one": lambda: mark("one"), "two": lambda: mark("two")}, died=unexpected)
    background.start()
    wait_until(lambda: len(seen) == 2, timeout=5, what="both run")
    background.stop(goodbye, timeout_s=5.0)
    assert {thread for _, thread in seen} == {"edge-agent"}
    assert said == [1]
    assert not background._thread.is_alive()


def test_stop_waits_no_longer_than_it_was_given_for_the_farewell():
    background = Background({"one": forever}, died=unexpected)
    background.start()
    background.stop(forever, timeout_s=0.2)
    background._thread.join(5)
    assert not background._thread.is_alive()


def test_stop_survives_a_farewell_that_fails():
    async def fail():
        raise OSError("no")

    background = Background({"one": forever}, died=unexpected)
    background.start()
    background.stop(fail, timeout_s=5.0)
    assert not background._thread.is_alive()


def test_stop_before_start_and_twice_is_harmless():
    background = Background({"one": forever}, died=unexpected)
    background.stop(nothing, timeout_s=1.0)
    started = Background({"one": forever}, died=unexpected)
    started.start()
    started.stop(nothing, timeout_s=5.0)
    started.stop(nothing, timeout_s=1.0)
    assert not started._thread.is_alive()


async def test_every_calls_again_and_again_in_a_thread():
    calls = []
    task = asyncio.create_task(every(0.001, lambda: calls.append(threading.current_thread())))
    await eventually(lambda: len(calls) >= 3, timeout=5, what="three calls")
    task.cancel()
    assert threading.main_thread() not in calls


def test_a_task_that_fails_ends_the_others_and_is_told_once(caplog):
    died, ended = threading.Event(), []

    async def fail():
        await asyncio.sleep(0)
        raise OSError("the disk is gone")

    async def other():
        try:
            await forever()
        finally:
            ended.append(1)

    background = Background({"bad": fail, "other": other}, died=died.set)
    background.start()
    assert died.wait(5)
    background.stop(nothing, timeout_s=5.0)
    assert ended == [1]
    assert "the agent's uplink and updates have ended" in caplog.text
