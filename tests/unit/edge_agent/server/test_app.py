import asyncio
import contextlib
import gzip
import json
import sys
import zlib

import aiohttp
import numpy as np
import pytest

from edge_agent.errors import AgentClosed, ModelUnusable
from edge_agent.server.app import Server
from edge_agent.server.settings import ServerSettings
from shared.errors import SampleError, SettingsError
from tests.sim.served_agent import SimulatedAgent

HEADER = "Inference-Header-Content-Length"


@pytest.fixture
def agent():
    return SimulatedAgent()


class Client:
    """Asks a server on a Unix socket; `await client(method, path)` → (status, body, headers)."""

    def __init__(self, session, task, server):
        self.session, self.task, self.server = session, task, server

    async def __call__(self, method, path, **options):
        async with self.session.request(method, f"http://device{path}", **options) as response:
            content = await response.read()
            if response.content_type == "application/json":
                content = json.loads(content)
            return response.status, content, response.headers

    async def infer(self, body=None, *, path="/v2/models/digits/infer", **options):
        return await self("POST", path, data=json_body() if body is None else body, **options)


@pytest.fixture
async def serve(agent, tmp_path):
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings):
            server = Server(ServerSettings(**{"socket": tmp_path / "s"} | settings), agent)
            task = asyncio.create_task(server.run(), name="server")
            session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(tmp_path / "s")), timeout=aiohttp.ClientTimeout(total=10)
            )
            await stack.enter_async_context(session)

            async def stop():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(stop)
            return Client(session, task, server)

        yield start


def sample(label, count=1):
    tensor = np.zeros((count, 8, 8), np.uint8)
    tensor.reshape(count, -1)[:, label] = 9
    return tensor


def json_body(tensor=None, **changes):
    tensor = sample(3) if tensor is None else tensor
    described = {"name": "input", "shape": tensor.shape, "datatype": "UINT8", "data": tensor.ravel().tolist()}
    return json.dumps({"inputs": [described]} | changes).encode()


def binary_body(tensor):
    described = {
        "name": "input",
        "shape": tensor.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": tensor.nbytes},
    }
    text = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    return text + tensor.tobytes(), {HEADER: str(len(text))}


def output(answer, name):
    return next(each["data"] for each in answer["outputs"] if each["name"] == name)


async def within_a_second(semaphore):
    assert await asyncio.to_thread(semaphore.acquire, timeout=5)


async def test_health_and_metadata(serve):
    client = await serve(max_batch=5)
    assert (await client("GET", "/v2"))[1]["name"] == "edgeloop"
    assert (await client("GET", "/v2/health/live"))[:2] == (200, {"live": True})
    assert (await client("GET", "/v2/health/ready"))[:2] == (200, {"ready": True, "live": True})
    assert (await client("GET", "/v2/models/digits/ready"))[:2] == (200, {"name": "digits", "ready": True})
    assert (await client("GET", "/v2/models/digits"))[1]["versions"] == ["v1"]
    assert (await client("GET", "/v2/models/digits/versions/v1"))[0] == 200
    assert (await client("GET", "/v2/models/digits/config"))[1]["max_batch_size"] == 5


async def test_json_sample_is_answered(serve, agent):
    client = await serve()
    status, answer, headers = await client.infer(json_body(id="7", parameters={"deadline": 0.5}))
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert (answer["id"], answer["model_version"], output(answer, "label")) == ("7", "v1", ["3"])
    ((task, deadline, reference),) = agent.asked
    assert (task, reference) == ("digits", "7")
    assert 0.4 < deadline <= 0.5


async def test_binary_sample_is_answered_in_binary(serve):
    client = await serve()
    body, headers = binary_body(sample(4))
    status, content, got = await client.infer(body, headers=headers)
    assert (status, got["Content-Type"]) == (200, "application/octet-stream")
    answer = json.loads(content[: int(got[HEADER])])
    (label,) = [each for each in answer["outputs"] if each["name"] == "label"]
    assert label["parameters"] == {"binary_data_size": 5}
    assert content[int(got[HEADER]) :].startswith(b"\x01\x00\x00\x004")


async def test_batch_is_answered_sample_by_sample(serve, agent):
    client = await serve(max_batch=3)
    batch = np.concatenate([sample(1), sample(7), sample(2)])
    _, answer, _ = await client.infer(json_body(batch))
    assert output(answer, "label") == ["1", "7", "2"]
    assert [each[1] for each in agent.asked] == [None] * 3
    status, answer, _ = await client.infer(json_body(sample(1, 4)))
    assert (status, len(agent.asked)) == (400, 3)
    assert "1 to 3 are taken" in answer["error"]


async def test_deadline_is_for_the_whole_batch_and_has_a_limit(serve, agent):
    client = await serve(max_deadline_s=0.2)
    slow = agent.infer

    def infer(tensor, **options):
        done = slow(tensor, **options)
        agent.go.wait(options["deadline"])
        return done

    agent.infer = infer
    agent.go.clear()
    asking = asyncio.create_task(client.infer(json_body(sample(1, 2), parameters={"deadline": 3600})))
    await within_a_second(agent.entered)
    agent.go.set()
    await asking
    first, second = (each[1] for each in agent.asked)
    assert 0 <= second < first <= 0.2


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compressed_request_is_answered(serve, encoding, pack):
    client = await serve()
    body, headers = binary_body(sample(5))
    status, content, _ = await client.infer(pack(body), headers=headers | {"Content-Encoding": encoding})
    assert status == 200
    assert b'"label"' in content
    status, answer, _ = await client.infer(b"nonsense", headers={"Content-Encoding": encoding})
    assert (status, "cannot be read" in answer["error"] or "400" in answer["error"]) == (400, True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_body_over_the_limit_is_refused(serve, pack):
    client = await serve(max_body_bytes=10_000)
    headers = {} if pack is bytes else {"Content-Encoding": "gzip"}
    status, answer, _ = await client.infer(pack(b"[" * 1_000_000), headers=headers)
    assert status == 413
    assert "413" in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/v2/models/cats", 404, "no model 'cats'; this device has digits"),
        ("GET", "/v2/models/cats/ready", 404, "no model"),
        ("POST", "/v2/models/cats/infer", 404, "no model"),
        ("GET", "/v2/models/digits/versions/v2", 404, "has version v1, not 'v2'"),
        ("POST", "/v2/models/digits/versions/v2/infer", 404, "has version v1, not 'v2'"),
        ("GET", "/v3", 404, "404"),
        ("GET", "/v2/models/digits/infer", 405, "405"),
        ("POST", "/v2/models/digits/infer", 400, "Invalid JSON"),
    ],
)
async def test_error_is_the_protocols_json(serve, method, path, status, says):
    client = await serve()
    got, answer, _ = await client(method, path)
    assert (got, list(answer)) == (status, ["error"])
    assert says in answer["error"]


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        (SampleError("another shape"), 400, "another shape"),
        (ModelUnusable("it failed"), 422, "it failed"),
        (AgentClosed("was closed"), 503, "was closed"),
    ],
)
async def test_what_the_agent_raises_has_a_status(serve, agent, fault, status, says):
    client = await serve()
    agent.fault = fault
    assert (await client.infer())[:2] == (status, {"error": says})


async def test_fault_of_our_own_is_logged_once_and_ends_nothing(serve, agent, caplog):
    client = await serve()
    agent.fault = ZeroDivisionError("ours")
    for _ in range(3):
        assert (await client.infer())[:2] == (500, {"error": "the agent failed; its log says how"})
    agent.fault = None
    assert (await client.infer())[0] == 200
    assert caplog.text.count("the local server failed on /v2/models/digits/infer") == 1


async def test_agent_that_is_not_ready_says_so(serve, agent):
    client = await serve()
    agent.is_ready = False
    assert (await client("GET", "/v2/health/ready"))[:2] == (503, {"ready": False, "live": True})
    assert (await client("GET", "/v2/models/digits/ready"))[0] == 503
    status, _, headers = await client.infer()
    assert (status, headers["Retry-After"]) == (503, "1")


async def test_request_beyond_the_limit_is_turned_away_and_the_others_are_answered(serve, agent):
    client = await serve(threads=1, max_waiting=1)
    agent.go.clear()
    asking = [asyncio.create_task(client.infer()) for _ in range(4)]
    turned_away = set()
    while len(turned_away) < 2:
        turned_away, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    for task in turned_away:
        status, answer, headers = task.result()
        assert (status, headers["Retry-After"]) == (503, "1")
        assert "2 requests are under way" in answer["error"]
    agent.go.set()
    assert [(await each)[0] for each in waiting] == [200, 200]
    assert (await client.infer())[0] == 200


async def test_page_of_a_browser_is_turned_away(serve, agent):
    client = await serve()
    status, _, _ = await client.infer(headers={"Origin": "https://example.org"})
    assert (status, agent.asked) == (403, [])


async def test_metrics_are_served_and_count_the_answers(serve):
    client = await serve()
    await client("GET", "/v2/models/cats")
    status, text, headers = await client("GET", "/metrics")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert b'edgeloop_inferences_total{task="digits"} 7.0' in text
    assert b'edgeloop_server_requests_total{status="404"} 1.0' in text


async def test_server_that_is_cancelled_ends_in_order(serve, agent, tmp_path):
    client = await serve()
    agent.go.clear()
    asking = asyncio.create_task(client.infer())
    await within_a_second(agent.entered)
    client.task.cancel()
    agent.go.set()
    assert (await asking)[0] == 200
    with pytest.raises(asyncio.CancelledError):
        await client.task
    assert not (tmp_path / "s").exists()


async def test_server_does_not_wait_for_ever_for_an_answer(serve, agent):
    client = await serve()
    agent.go.clear()
    asking = asyncio.create_task(client.infer())
    await within_a_second(agent.entered)
    client.task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(client.task, asking, return_exceptions=True)
    agent.go.set()


async def test_busy_address_ends_the_start(serve, agent, tmp_path):
    client = await serve()
    with pytest.raises(SettingsError, match="another program listens"):
        Server(ServerSettings(socket=tmp_path / "s"), agent)
    assert (await client("GET", "/v2/health/live"))[0] == 200


def test_server_that_never_ran_lets_go_of_its_address(agent, tmp_path):
    server = Server(ServerSettings(socket=tmp_path / "s"), agent)
    assert server.address == f"unix:{tmp_path / 's'}"
    server.close()
    server.close()
    assert not (tmp_path / "s").exists()


def test_server_that_is_off_costs_no_import():
    assert "edge_agent.server.app" in sys.modules
    import subprocess

    code = "import sys, edge_agent.server.app; print({'aiohttp', 'prometheus_client'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr


async def test_client_that_never_ends_its_request_is_turned_away(serve, agent):
    client = await serve(body_timeout_s=0.05)

    async def body():
        yield b"{"
        await asyncio.Event().wait()

    status, answer, _ = await client.infer(body())
    assert (status, agent.asked) == (408, [])
    assert "did not arrive within 0.05 s" in answer["error"]
