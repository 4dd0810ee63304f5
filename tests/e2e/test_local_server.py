"""A real agent process, asked over HTTP by Triton's own client, unmodified, and scraped as Prometheus does."""

import asyncio
import re
import stat
import time
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from shared.mqtt import BrokerSettings, connector
from tests.e2e.agent_bench import DEVICE, Device
from tests.harness import ROOT, eventually, wait_until
from tests.sim.bundles import hard_sample, sample
from tests.sim.cloud import MessageCloud, verdict

pytestmark = pytest.mark.e2e

OUTPUTS = {"label", "prediction", "confidence", "hardness", "answered_by", "action", "reason", "sample_id"}


@pytest.fixture
def device(processes, tmp_path):
    """Nobody plays it samples, and there is no broker."""
    return Device(tmp_path / "device", 1, processes)


@pytest.fixture
def serving(device, free_port):
    """Starts the agent with its server on; → (process, address)."""

    def start(*overrides):
        port = free_port()
        agent = device.start(
            "server.enabled=true", f"server.port={port}", "tasks.digits.sources=[]", "broker.port=1", *overrides
        )
        agent.wait_for_log(f"the local server listens on http://127.0.0.1:{port}")
        return agent, f"127.0.0.1:{port}"

    return start


@pytest.fixture
def client(serving):
    _, address = serving()
    with triton.InferenceServerClient(address) as made:
        yield made


def tensor(*samples, binary=True):
    batch = np.stack(samples)
    made = triton.InferInput("input", list(batch.shape), "UINT8")
    return [made.set_data_from_numpy(batch, binary_data=binary)]


def test_client_finds_the_server_and_its_model(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "factory")
    assert not client.is_model_ready("cats")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    model = client.get_model_metadata("digits")
    assert (model["name"], model["versions"]) == ("digits", ["factory"])
    assert model["inputs"] == [{"name": "input", "datatype": "UINT8", "shape": [-1, 8, 8]}]
    assert {each["name"] for each in model["outputs"]} == OUTPUTS
    assert client.get_model_config("digits")["input"][0]["dims"] == [8, 8]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_client_is_answered(client, binary):
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "confidence")]
    result = client.infer("digits", tensor(sample(3), binary=binary), outputs=outputs, request_id="7")
    (label,) = result.as_numpy("label")
    assert (label.decode() if binary else label) == "3"
    (confidence,) = result.as_numpy("confidence")
    assert 0.9 < confidence <= 1.0
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", "digits", "factory")
    assert (response["parameters"]["answered_by"], response["parameters"]["reason"]) == ("edge", "confident")


def test_python_of_the_page_works(serving, capsys):
    _, address = serving()
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "local-server.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code.replace("127.0.0.1:8080", address), names)
    names["client"].close()
    assert "b'edge" in capsys.readouterr().out


def test_client_that_names_no_output_gets_all(client):
    result = client.infer("digits", tensor(sample(1), sample(7), sample(2)), model_version="factory")
    assert {each["name"] for each in result.get_response()["outputs"]} == OUTPUTS
    assert result.as_numpy("label").tolist() == [b"1", b"7", b"2"]
    assert result.as_numpy("prediction").tolist() == [1, 7, 2]
    assert len(set(result.as_numpy("sample_id").tolist())) == 3


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_client_that_compresses_is_answered(client, algorithm):
    result = client.infer(
        "digits",
        tensor(sample(4)),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert result.as_numpy("label").tolist() == [b"4"]


def test_client_may_ask_many_things_at_once(client):
    asked = [client.async_infer("digits", tensor(sample(n % 10))) for n in range(30)]
    assert [each.get_result().as_numpy("prediction")[0] for each in asked] == [n % 10 for n in range(30)]


@pytest.mark.parametrize(
    ("model", "version", "shape", "dtype", "status"),
    [
        ("cats", "", (1, 8, 8), np.uint8, "404"),
        ("digits", "v9", (1, 8, 8), np.uint8, "404"),
        ("digits", "", (1, 9, 9), np.uint8, "400"),
        ("digits", "", (1, 8, 8), np.float32, "400"),
        ("digits", "", (1, 8, 8), np.int64, "400"),
        ("digits", "", (100, 8, 8), np.uint8, "400"),
    ],
)
def test_client_is_told_what_is_wrong(client, model, version, shape, dtype, status):
    datatype = {np.uint8: "UINT8", np.float32: "FP32", np.int64: "INT64"}[dtype]
    given = triton.InferInput("input", list(shape), datatype).set_data_from_numpy(np.zeros(shape, dtype))
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [given], model_version=version)
    assert caught.value.status() == status


async def test_hard_sample_is_answered_by_the_cloud_within_the_clients_timeout(mosquitto, serving):
    agent, address = await asyncio.to_thread(serving, f"broker.port={mosquitto.port}")
    connect = connector(BrokerSettings(port=mosquitto.port))
    async with (
        MessageCloud(connect, "demo", answer=lambda header, tensor: verdict(header, 7)) as cloud,
        triton_aio.InferenceServerClient(address) as client,
    ):
        await eventually(lambda: DEVICE in cloud.states, timeout=20, what="the agent is connected")
        slow = await client.infer("digits", tensor(hard_sample(3)), timeout=5_000_000)
        at_once = await client.infer("digits", tensor(hard_sample(3)), parameters={"deadline": 0.0})
    assert (slow.as_numpy("label")[0], slow.as_numpy("answered_by")[0]) == (b"7", b"cloud")
    assert (at_once.as_numpy("label")[0], at_once.as_numpy("answered_by")[0]) == (b"3", b"edge")
    assert slow.get_response()["parameters"]["action"] == "offload"
    assert agent.stop() == 0


async def test_clients_deadline_holds_without_a_broker(serving):
    _, address = await asyncio.to_thread(serving)
    async with triton_aio.InferenceServerClient(address) as client:
        async with asyncio.timeout(5):
            result = await client.infer("digits", tensor(hard_sample(3)), parameters={"deadline": 0.2})
    assert result.as_numpy("answered_by").tolist() == [b"edge_after_deadline"]
    assert 200_000 <= result.get_response()["parameters"]["total_us"] < 4_000_000


async def test_prometheus_reads_what_happened(serving):
    _, address = await asyncio.to_thread(serving)
    async with triton_aio.InferenceServerClient(address) as client, aiohttp.ClientSession() as session:
        await client.infer("digits", tensor(sample(1), sample(2), hard_sample(3)))
        async with session.get(f"http://{address}/metrics") as response:
            text = await response.text()
    values = {
        (each.name, *each.labels.values()): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }
    assert values["edgeloop_inferences_total", "digits"] == 3
    assert values["edgeloop_samples_kept_total", "digits"] == 2
    assert values["edgeloop_spool_items",] == 1
    assert values["edgeloop_model_info", "digits", "factory"] == 1
    assert values["edgeloop_server_requests_total", "200"] == 1


async def test_server_on_a_unix_socket_comes_and_goes_with_the_agent(device, tmp_path):
    path = tmp_path / "agent.sock"
    settings = ("server.enabled=true", f"server.socket={path}", "tasks.digits.sources=[]", "broker.port=1")
    for ending in ("kill", "stop"):  # a killed agent's file is in nobody's way
        agent = device.start(*settings)
        agent.wait_for_log(f"listens on unix:{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.get("http://device/v2/health/ready") as response,
        ):
            assert response.status == 200
        getattr(agent, ending)()
    assert not path.exists()


def test_busy_port_ends_the_start_with_one_line(device, serving):
    _, address = serving()
    port = address.partition(":")[2]
    second = device.start("server.enabled=true", f"server.port={port}", f"state_dir={device.folder}/other")
    wait_until(lambda: not second.running, timeout=20, what="the second agent has given up")
    assert second.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use): change [server]" in second.log_text()
    assert "Traceback" not in second.log_text()


def test_agent_ends_in_time_though_a_client_waits(serving):
    agent, address = serving("server.max_deadline_s=15")
    with triton.InferenceServerClient(address, concurrency=2) as client:
        waiting = client.async_infer("digits", tensor(hard_sample(3)), parameters={"deadline": 60.0})
        assert client.is_server_live()  # by the second connection: the request above is sent on the way
        began = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - began < 7
        with pytest.raises(Exception):  # noqa: B017  # whatever the client makes of a connection that ends
            waiting.get_result()


def resident_mb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_server_that_is_on_costs_no_more_memory_than_the_page_says(serving, device):
    off = device.start("tasks.digits.sources=[]", "broker.port=1", f"state_dir={device.folder}/other")
    off.wait_for_log("ready with model")
    on, address = serving()
    with triton.InferenceServerClient(address) as client:
        for n in range(200):
            client.infer("digits", tensor(sample(n % 10)))
    before, after = resident_mb(off.pid), resident_mb(on.pid)
    print(f"resident: {before:.1f} MB without the server, {after:.1f} MB with it after 200 requests")
    assert after - before < 20
