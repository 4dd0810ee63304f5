import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from edge_agent.errors import ReceiverAway
from edge_agent.sinks.context import SinkContext
from edge_agent.sinks.settings import WebhookSettings
from edge_agent.sinks.webhook import Reply, Result, WebhookSink, http_post, meaning
from shared.mqtt import BrokerSettings
from tests.sim.outcomes import correction, outcome
from tests.sim.served_agent import FULL_TELEMETRY


class Receiver:
    """Answers with what it is told to, 200 after that; keeps the bodies and whom it told what."""

    def __init__(self, *replies):
        self.replies = list(replies)
        self.tried: list[list[int]] = []
        self.taken: list[int] = []
        self.slept: list[float] = []
        self.news = asyncio.Event()
        self.hangs = False

    @asynccontextmanager
    async def opened(self, settings):
        yield self.post

    async def post(self, body):
        records = json.loads(body)
        seqs = [record["seq"] for record in (records if isinstance(records, list) else [records])]
        self.tried.append(seqs)
        self.news.set()
        if self.hangs:
            await asyncio.Event().wait()
        reply = self.replies.pop(0) if self.replies else 200
        if isinstance(reply, Exception):
            raise reply
        reply = reply if isinstance(reply, Reply) else Reply(reply)
        if reply.status < 300:
            self.taken += seqs
            self.news.set()
        return reply

    async def sleep(self, seconds):
        self.slept.append(seconds)
        await asyncio.sleep(0)

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():
                self.news.clear()
                await self.news.wait()


CONTEXT = SinkContext(
    site="home",
    device="cam-1",
    tasks=("digits",),
    broker=BrokerSettings(),
    telemetry=lambda: FULL_TELEMETRY,
    telemetry_interval_s=30.0,
    rng=Random(1),
)


@pytest.fixture
async def start():
    running = []

    def make(receiver, *, context=CONTEXT, **settings):
        chosen = WebhookSettings(**{"url": "https://example.org/hook?key=secret", "retry_cap_s": 4.0} | settings)
        sink = WebhookSink(chosen, context, opened=receiver.opened, sleep=receiver.sleep)
        sink.task = asyncio.create_task(sink.run())
        running.append(sink.task)
        return sink

    yield make
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def tell(sink, count):
    for seq in range(count):
        sink.outcome(outcome(seq=seq))


async def stop(sink):
    sink.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sink.task
    sink.close()


async def test_each_record_is_posted_once(start):
    receiver = Receiver()
    sink = start(receiver)
    tell(sink, 3)
    sink.correction(correction(seq=9))
    await receiver.until(lambda: len(receiver.taken) == 4)
    assert receiver.tried == [[0], [1], [2], [9]]
    assert receiver.slept == []


async def test_bytes_of_every_try_are_booked_those_at_the_end_too(start):
    booked, receiver = [], Receiver(503)
    context = replace(CONTEXT, book=lambda *one: booked.append(one))
    sink = start(receiver, context=context, counts_in_day=True)
    tell(sink, 1)
    await receiver.until(lambda: receiver.taken == [0])
    tell(sink, 1)
    await stop(sink)
    assert len(booked) == len(receiver.tried) == 3
    assert all(size > 100 and in_day for size, in_day in booked)


async def test_batch_is_a_list(start):
    receiver = Receiver()
    sink = start(receiver, batch=10)
    tell(sink, 25)
    await receiver.until(lambda: len(receiver.taken) == 25)
    assert receiver.taken == list(range(25))
    assert max(map(len, receiver.tried)) == 10


async def test_receiver_that_is_away_is_waited_for_with_growing_jittered_waits(start, caplog):
    caplog.set_level("INFO")
    away = [ReceiverAway("refused"), 503, 502, 504, 429, ReceiverAway("refused")]
    receiver = Receiver(*away)
    sink = start(receiver, tries=2)
    tell(sink, 1)
    await receiver.until(lambda: receiver.taken == [0])
    assert len(receiver.slept) == len(away)
    bounds = [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert all(0 <= slept <= bound for slept, bound in zip(receiver.slept, bounds, strict=True))
    assert len(set(receiver.slept)) == len(away)
    assert caplog.text.count("example.org does not answer (refused)") == 2
    assert caplog.text.count("example.org takes outcomes again") == 1
    assert "secret" not in caplog.text


async def test_long_outage_is_said_once_and_keeps_the_newest(start, caplog):
    receiver = Receiver(*[503] * 50)
    sink = start(receiver, max_queued=3)
    tell(sink, 1)
    await receiver.until(lambda: len(receiver.tried) > 2)
    tell(sink, 8)
    await receiver.until(lambda: len(receiver.taken) == 4)
    assert receiver.taken == [0, 5, 6, 7]
    assert caplog.text.count("is away (HTTP 503)") == 1
    assert sink._handover.dropped == 5


async def test_receiver_says_when_to_come_again(start):
    receiver = Receiver(Reply(429, 3.0), Reply(503, 3600.0))
    sink = start(receiver)
    tell(sink, 1)
    await receiver.until(lambda: receiver.taken == [0])
    first, second = receiver.slept
    assert 3.0 <= first <= 3.5
    assert 4.0 <= second <= 5.0


async def test_record_that_the_receiver_fails_on_does_not_hold_up_the_rest(start, caplog):
    caplog.set_level("INFO")
    receiver = Receiver(500, 503, 500, 500, 200)
    sink = start(receiver, tries=3)
    tell(sink, 2)
    await receiver.until(lambda: receiver.taken == [1])
    assert receiver.tried == [[0]] * 4 + [[1]]
    assert sink._handover.dropped == 1
    assert "each is tried 3 times, then dropped" in caplog.text


@pytest.mark.parametrize("status", [301, 400, 401, 404, 413])
async def test_refused_record_is_dropped_at_once_and_said_once(start, caplog, status):
    receiver = Receiver(status, status, 200)
    sink = start(receiver)
    tell(sink, 3)
    await receiver.until(lambda: receiver.taken == [2])
    assert receiver.slept == []
    assert caplog.text.count(f"refuses outcomes (HTTP {status})") == 1
    assert sink._handover.dropped == 2


@pytest.mark.parametrize(
    ("statuses", "result"),
    [
        ((200, 204), Result.TAKEN),
        ((300, 304, 400, 422), Result.REFUSED),
        ((408, 425, 429, 502, 503, 504), Result.AWAY),
        ((500, 501, 505), Result.FAILED),
    ],
)
def test_status_says_what_becomes_of_the_record(statuses, result):
    assert {meaning(status) for status in statuses} == {result}


async def test_what_waits_is_posted_when_the_agent_closes(start, caplog):
    receiver = Receiver()
    sink = start(receiver)
    await asyncio.sleep(0)
    tell(sink, 5)
    await stop(sink)
    assert receiver.taken == [0, 1, 2, 3, 4]
    assert caplog.text == ""


async def test_what_is_under_way_when_the_agent_closes_is_posted_again(start):
    receiver = Receiver()
    receiver.hangs = True
    sink = start(receiver)
    tell(sink, 2)
    async with asyncio.timeout(5):
        while not receiver.tried:
            await asyncio.sleep(0)
    receiver.hangs = False
    await stop(sink)
    assert receiver.taken == [0, 1]


@pytest.mark.parametrize("reply", [503, ReceiverAway("gone")])
async def test_receiver_that_is_away_does_not_hold_up_the_end(start, caplog, reply):
    receiver = Receiver(*[reply] * 1000)
    sink = start(receiver)
    tell(sink, 2)
    await receiver.until(lambda: receiver.tried != [])
    await stop(sink)
    assert "outcomes not posted to example.org before the end: 2" in caplog.text


# The outside world itself, against a server on loopback.


@pytest.fixture
async def posted():
    """Posts to a server that answers what the first byte of the body says; → (post, requests)."""
    requests = []

    async def take(request):
        requests.append((dict(request.headers), await request.read()))
        if request.path == "/slow":
            await asyncio.sleep(30)
        status = int(await request.text())
        return web.Response(status=status, headers={"Retry-After": "7", "Location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path}", take)
    async with TestServer(app) as server:
        yield (
            lambda path="hook", **settings: http_post(
                WebhookSettings(url=str(server.make_url(f"/{path}")), headers={"Authorization": "Bearer t"}, **settings)
            ),
            requests,
        )


async def test_post_carries_json_and_its_headers(posted):
    opened, requests = posted
    async with opened() as post:
        assert await post(b"200") == Reply(200, 7.0)
    ((headers, body),) = requests
    assert (headers["Content-Type"], headers["Authorization"], body) == ("application/json", "Bearer t", b"200")


async def test_post_follows_no_redirect(posted):
    opened, requests = posted
    async with opened() as post:
        assert (await post(b"307")).status == 307
    assert len(requests) == 1


async def test_post_to_who_is_too_slow_says_so(posted):
    opened, _ = posted
    async with opened("slow", timeout_s=0.1) as post:
        with pytest.raises(ReceiverAway):
            await post(b"200")


@pytest.mark.parametrize("host", ["127.0.0.1:1", "x" * 70 + ".invalid", "[", "127.0.0.1:99999"])
async def test_post_to_nobody_says_so_and_keeps_the_secret(host):
    async with http_post(WebhookSettings(url=f"http://{host}/sesame", timeout_s=5)) as post:
        with pytest.raises(ReceiverAway) as caught:
            await post(b"{}")
    assert "sesame" not in str(caught.value)


async def test_post_to_who_speaks_no_http_says_so_and_keeps_the_secret():
    async def babble(reader, writer):
        await reader.read(10)
        writer.write(b"nonsense\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, http_post(WebhookSettings(url=f"http://127.0.0.1:{port}/sesame")) as post:
        with pytest.raises(ReceiverAway) as caught:
            await post(b"{}")
    assert "sesame" not in str(caught.value)
