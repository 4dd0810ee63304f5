import asyncio

from edge_agent.updates.dispatch import UpdateDispatcher
from shared.messages import BundleReference, Desired, Target


class UpdaterStandIn:
    """Writes down what it is asked to do; may be held up."""

    def __init__(self):
        self.done = []
        self.free = asyncio.Event()
        self.free.set()

    async def resume(self):
        self.done.append("resumed")

    async def offer(self, reference, revision):
        await self.free.wait()
        self.done.append((reference.version, revision))


def wish(revision, **versions):
    return Desired(
        revision=revision,
        tasks={
            task: Target(bundle=BundleReference(version=version, url="http://x/b", sha256="0" * 64, size_bytes=1))
            for task, version in versions.items()
        },
    )


async def running(dispatcher, *, turns=20):
    task = asyncio.create_task(dispatcher.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    return task


async def test_what_was_interrupted_is_finished_before_any_wish():
    updater = UpdaterStandIn()
    dispatcher = UpdateDispatcher({"digits": updater})
    dispatcher.want(wish(1, digits="v1"))
    task = await running(dispatcher)
    assert updater.done == ["resumed", ("v1", 1)]
    task.cancel()


async def test_wish_goes_to_the_right_task_and_an_unknown_one_is_said_once(caplog):
    digits, letters = UpdaterStandIn(), UpdaterStandIn()
    dispatcher = UpdateDispatcher({"digits": digits, "letters": letters})
    task = await running(dispatcher)
    for revision in (1, 2):
        dispatcher.want(wish(revision, letters="l1", sounds="s1"))
        for _ in range(20):
            await asyncio.sleep(0)
    assert (digits.done, letters.done) == (["resumed"], ["resumed", ("l1", 1), ("l1", 2)])
    assert caplog.text.count("does not have") == 1
    task.cancel()


async def test_newest_wish_wins_while_an_update_is_under_way():
    updater = UpdaterStandIn()
    updater.free.clear()
    dispatcher = UpdateDispatcher({"digits": updater})
    task = await running(dispatcher)
    dispatcher.want(wish(1, digits="v1"))
    for _ in range(5):
        await asyncio.sleep(0)
    dispatcher.want(wish(2, digits="v2"))
    dispatcher.want(wish(3, digits="v3"))
    updater.free.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert updater.done == ["resumed", ("v1", 1), ("v3", 3)]
    task.cancel()
