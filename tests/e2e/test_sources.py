"""Sources against the real thing: processes, pipes, Mosquitto, a web server, OpenCV's files, a card of ALSA's."""

import asyncio
import ctypes.util
import io
import json
import sys
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest
from aiohttp import web

from edge_agent.sources import camera, mqtt, polling
from edge_agent.sources.settings import CameraSettings, HttpSettings, MqttSettings
from shared.errors import SampleError
from shared.mqtt import BrokerSettings, Identity, connector
from tests.e2e.agent_bench import Device
from tests.harness import eventually, free_port
from tests.harness.processes import python_entry
from tests.sim.bundles import sample
from tests.sim.sources import Watched

pytestmark = pytest.mark.e2e


@pytest.fixture
def stop():
    """Set when the test ends, so that no source outlives it."""
    event = threading.Event()
    yield event
    event.set()


def with_sources(device, tables):
    """The device's settings with these sources instead of its own."""
    before, _, rest = device.config.read_text().partition("[[tasks.digits.sources]]")
    device.config.write_text(before + tables + rest[rest.index("[outcomes]") :])


def answered(device):
    """What each reference was answered with."""
    return {record["reference"]: record["label"] for record in device.records()}


# --- the agent's own process ------------------------------------------------------------------------------------------


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_agent_answers_what_another_program_writes_and_ends_with_it(processes, tmp_path):
    device = Device(tmp_path / "device", free_port(), processes)
    with_sources(device, '[[tasks.digits.sources]]\nkind = "stdin"\n')
    stream = tmp_path / "stream"
    stream.write_bytes(npy(sample(3)) + npy(sample(7)) + b"rubbish" + npy(sample(1)) + npy(np.zeros(5)))
    agent = python_entry("edge_agent.cli", "edge-agent", ["run", "--config", str(device.config)])
    process = processes.spawn("agent", ["sh", "-c", 'cat "$0" | exec "$@"', str(stream), *agent])
    assert process.wait() == 0
    assert answered(device) == {0: "3", 1: "7", 2: "1"}
    assert "the task takes uint8 [8, 8]" in process.log_text()
    counts = json.loads((device.state_dir / "ledger.json").read_text())["tasks"]["digits"]
    assert (counts["inferences"], counts["errors"]) == (5, 2)


WRITER = """
import json, sys
for number in range(16):
    print(json.dumps({f"s{column}": (16 if (row := number % 8) == 0 and column == 5 else 0) for column in range(8)}))
"""


async def test_one_task_takes_from_all_kinds_of_sources_at_once(mosquitto, processes, tmp_path):
    device = Device(tmp_path / "device", mosquitto.port, processes)
    folder, fifo = tmp_path / "folder", tmp_path / "fifo"
    folder.mkdir()
    processes.spawn("mkfifo", ["mkfifo", str(fifo)]).wait()
    async with served(lambda request: web.Response(body=sample(4).tobytes())) as url:
        with_sources(
            device,
            f"""
            [[tasks.digits.sources]]
            kind = "mqtt"
            topic = "sensors/+"
            payload = "raw"
            [[tasks.digits.sources]]
            kind = "readings"
            path = "{fifo}"
            fields = {json.dumps([f"s{column}" for column in range(8)])}
            length = 8
            [[tasks.digits.sources]]
            kind = "http"
            url = "{url}"
            interval_s = 0.1
            [[tasks.digits.sources]]
            kind = "directory"
            path = "{folder}"
            """,
        )
        agent = device.start()
        await eventually(lambda: any(r["label"] == "4" for r in device.records()), timeout=30, what="an answer by HTTP")
        (folder / "a.npy").write_bytes(npy(sample(6)))
        processes.spawn("writer", ["sh", "-c", f'{sys.executable} -c "$0" > {fifo}', WRITER])
        async with connector(BrokerSettings(port=mosquitto.port))(Identity("sensor")) as connection:
            await connection.publish("sensors/1", sample(2).tobytes(), qos=1)
            await eventually(
                lambda: {"2", "4", "5", "6"} <= {record["label"] for record in device.records()},
                timeout=30,
                what="an answer to a sample of each source",
            )
        assert agent.stop() == 0
    assert answered(device)["sensors/1"] == "2"
    assert answered(device)["a.npy"] == "6"


# --- MQTT -------------------------------------------------------------------------------------------------------------


async def test_source_comes_back_to_a_broker_that_was_away(mosquitto, stop):
    watched = Watched(shape=(2,), dtype="uint8")
    broker = BrokerSettings(port=mosquitto.port, reconnect_first_s=0.05, reconnect_cap_s=0.1)
    settings = MqttSettings(kind="mqtt", topic="bees/#", payload="json", broker=broker)
    got = []
    source = mqtt.samples(settings, watched.context, stop)
    thread = threading.Thread(target=lambda: got.extend(source))
    thread.start()

    async def until_taken(payload):
        """Publish until the source has it: what is published while it is away is missed."""
        async with connector(broker)(Identity("bee")) as connection:

            async def taken():
                await connection.publish("bees/1", payload, qos=1)
                return any(each.decode(watched.spec).tolist() == json.loads(payload) for each in list(got))

            await eventually(taken, timeout=20, what=f"the source takes {payload}")

    await until_taken(b"[1, 2]")
    await asyncio.to_thread(mosquitto.restart)
    await until_taken(b"[3, 4]")
    stop.set()
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


# --- HTTP -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(handle, *, port=None):
    """A web server whose every address is answered by `handle`; gives its address."""

    async def answer(request):
        response = handle(request)
        return await response if asyncio.iscoroutine(response) else response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = port or free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/sensor"
    finally:
        await runner.cleanup()


def poll(url, watched, stop, **options):
    quick = {"interval_s": 0.02, "retry_first_s": 0.02, "retry_cap_s": 0.02, "timeout_s": 5.0}
    return polling.samples(HttpSettings(kind="http", url=url, **{**quick, **options}), watched.context, stop)


async def take(source, watched, count):
    def first():
        return [next(source).decode(watched.spec).tolist() for _ in range(count)]

    return await asyncio.wait_for(asyncio.to_thread(first), 20)


@pytest.fixture
def watched():
    return Watched(shape=(2,), dtype="uint8")


async def test_unchanged_answer_is_asked_for_but_no_sample(watched, stop):
    asked = []

    def handle(request):
        asked.append(request.headers.get("If-None-Match"))
        value = len(asked) // 3
        if request.headers.get("If-None-Match") == f'"{value}"':
            return web.Response(status=304)
        return web.json_response([value, value], headers={"ETag": f'"{value}"'})

    async with served(handle) as url:
        got = await take(poll(url, watched, stop), watched, 3)
    assert got == [[0, 0], [1, 1], [2, 2]]
    assert asked[:4] == [None, '"0"', '"0"', '"1"']


async def test_server_that_does_not_know_304_is_seen_through(watched, stop):
    asked = []

    def handle(request):
        asked.append(request.headers.get("If-Modified-Since"))
        date = f"Tue, 24 Nov 2026 10:00:0{len(asked) // 3} GMT"
        return web.json_response([len(asked), 0], headers={"Last-Modified": date})

    async with served(handle) as url:
        got = await take(poll(url, watched, stop), watched, 3)
    assert got == [[1, 0], [3, 0], [6, 0]]
    assert asked[1] == "Tue, 24 Nov 2026 10:00:00 GMT"


async def test_snapshot_becomes_pixels(stop):
    watched = Watched(shape=(2, 2, 3), dtype="uint8")
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (640, 480), (10, 200, 30)).save(stream, "PNG")
    async with served(lambda request: web.Response(body=stream.getvalue(), content_type="image/png")) as url:
        (got,) = await take(poll(url, watched, stop), watched, 1)
    assert got == [[[10, 200, 30]] * 2] * 2


async def test_server_that_goes_away_is_polled_again_when_it_is_back(watched, stop, caplog):
    caplog.set_level("INFO")
    port = free_port()
    source = poll(f"http://127.0.0.1:{port}/", watched, stop)
    async with served(lambda request: web.json_response([1, 1]), port=port):
        assert await take(source, watched, 1) == [[1, 1]]
    waiting = asyncio.create_task(take(source, watched, 1))
    await eventually(lambda: "does not answer" in caplog.text, timeout=10, what="the outage is said")
    async with served(lambda request: web.json_response([2, 2]), port=port):
        assert await waiting == [[2, 2]]
    assert caplog.text.count("does not answer") == 1
    assert caplog.text.count("is there again") == 1


async def test_refusal_is_said_and_tried_again(watched, stop, caplog):
    answers = iter([web.Response(status=503), web.Response(status=404)])
    async with served(lambda request: next(answers, None) or web.json_response([5, 6])) as url:
        assert await take(poll(url, watched, stop), watched, 1) == [[5, 6]]
    assert "answers 503 Service Unavailable" in caplog.text


@pytest.mark.parametrize("scheme", ["basic", "digest"])
async def test_server_that_asks_for_a_password_gets_it(watched, stop, scheme):
    seen = []

    def handle(request):
        given = request.headers.get("Authorization", "")
        seen.append(given)
        if not given:
            challenge = {"basic": 'Basic realm="x"', "digest": 'Digest realm="x", nonce="abc", qop="auth"'}[scheme]
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        return web.json_response([1, 2])

    async with served(handle) as url:
        assert await take(poll(url, watched, stop, username="me", password="secret"), watched, 1) == [[1, 2]]
    # RFC 7617: base64 of me:secret; RFC 7616: the password itself is never sent.
    assert seen[1].startswith({"basic": "Basic bWU6c2VjcmV0", "digest": 'Digest username="me"'}[scheme])
    assert "secret" not in seen[1]


async def test_secret_header_does_not_follow_a_redirect(watched, stop):
    seen = []

    def second(request):
        seen.append(request.headers.get("X-Token"))
        return web.json_response([1, 2])

    async with served(second) as elsewhere:

        def first(request):
            seen.append(request.headers.get("X-Token"))
            raise web.HTTPFound(elsewhere)

        async with served(first) as url:
            assert await take(poll(url, watched, stop, headers={"X-Token": "secret"}), watched, 1) == [[1, 2]]
    assert seen[:2] == ["secret", None]


async def redirects_to_a_file(request):
    raise web.HTTPFound("file:///etc/hostname")


async def drips(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(100):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


async def is_cut_short(request):
    response = web.StreamResponse(headers={"Content-Length": "100", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b"[1, 2]")
    request.transport.close()
    return response


@pytest.mark.parametrize(
    ("handle", "words"),
    [(redirects_to_a_file, "is not allowed"), (drips, "not whole after 0.3 s"), (is_cut_short, "94 bytes are missing")],
)
async def test_answer_that_is_none_is_an_outage(watched, stop, caplog, handle, words):
    async with served(handle) as url:
        source = poll(url, watched, stop, timeout_s=0.3)
        thread = threading.Thread(target=lambda: list(source))
        thread.start()
        await eventually(lambda: words in caplog.text, timeout=20, what=f"the log says {words!r}")
        stop.set()
        await asyncio.to_thread(thread.join, 10)


async def test_answer_that_is_too_large_is_refused_without_being_read(watched, stop):
    sent = []

    async def handle(request):
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(bytes(100_000))
            sent.append(100_000)
        return response

    async with served(handle) as url:
        source = poll(url, watched, stop, payload="raw", timeout_s=20.0)
        captured = await asyncio.wait_for(asyncio.to_thread(next, source), 20)
        with pytest.raises(SampleError, match=r"raw of [\d,]+ bytes; the task takes uint8 \[2\], at most 2 bytes"):
            captured.decode(watched.spec)
    assert sum(sent) < 50_000_000


# --- camera -----------------------------------------------------------------------------------------------------------


def test_opencv_gives_every_frame_of_a_video_file(tmp_path, stop):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed; type: pip install 'edgeloop[camera]'")
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(10):
        writer.write(np.full((48, 64, 3), (0, 0, 20 * number), np.uint8))  # blue, green, red
    writer.release()
    watched = Watched(shape=(24, 32, 3))
    settings = CameraSettings(kind="camera", device=str(path), when_slow="block")
    tensors = [each.decode(watched.spec) for each in camera.samples(settings, watched.context, stop)]
    assert len(tensors) == 10
    for number, tensor in enumerate(tensors):
        np.testing.assert_allclose(tensor.mean((0, 1)), [20 * number, 0, 0], atol=4)


@pytest.mark.parametrize("device", ["/nowhere/film.avi", "/dev/video97", 97, "97"])
def test_opencv_without_a_camera_is_an_outage_said_once(stop, caplog, capfd, device):
    pytest.importorskip("cv2", reason="OpenCV is not installed; type: pip install 'edgeloop[camera]'")
    settings = CameraSettings(kind="camera", device=device, retry_first_s=0.01, retry_cap_s=0.01)
    source = camera.samples(settings, Watched(shape=(2, 2, 3)).context, stop)
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    assert list(source) == []
    timer.join()
    assert caplog.text.count("no picture from") == 1
    assert capfd.readouterr().err == ""


# --- microphone -------------------------------------------------------------------------------------------------------

# ALSA's own way to have a sound card that plays a file.
ALSA = """
</usr/share/alsa/alsa.conf>
pcm.filemic {{ type file; slave.pcm {{ type null }}; file /dev/null; infile "{sound}"; format raw; hint {{ show on }} }}
pcm.!default {{ type plug; slave.pcm filemic }}
"""

RECORD = """
import sys, threading
from edge_agent.sources.microphone import samples
from edge_agent.sources.settings import MicrophoneSettings
from tests.sim.sources import Watched

watched, stop = Watched(shape=(1600,), dtype="int16"), threading.Event()
settings = MicrophoneSettings(kind="microphone", device="filemic", window_s=0.1, hop_s=0.05, buffer=1000)
source = samples(settings, watched.context, stop)
windows = [next(source).decode(watched.spec) for _ in range(5)]
print([int(window[0]) for window in windows], [int(window[-1]) for window in windows], watched.overrun)
try:
    MISSING = MicrophoneSettings(kind="microphone", device="no such card", window_s=0.1)
    lost = samples(MISSING, watched.context, stop)
    threading.Timer(0.5, stop.set).start()
    print(list(lost))
finally:
    stop.set()
"""


def test_portaudio_records_windows_that_overlap(processes, tmp_path):
    if ctypes.util.find_library("portaudio") is None:
        pytest.skip("PortAudio is not installed; type: sudo apt-get install libportaudio2")
    pytest.importorskip("sounddevice", reason="sounddevice is not installed; type: pip install 'edgeloop[microphone]'")
    sound, config = tmp_path / "sound.raw", tmp_path / "asound.conf"
    sound.write_bytes((np.arange(160_000) % 30_000).astype("<i2").tobytes())
    config.write_text(ALSA.format(sound=sound))
    done = processes.spawn("record", [sys.executable, "-c", RECORD], env={"ALSA_CONFIG_PATH": str(config)})
    assert done.wait() == 0, done.log_text()
    said = done.log_text()
    assert "[0, 800, 1600, 2400, 3200] [1599, 2399, 3199, 3999, 4799] 0" in said
    assert "no microphone (No input device matching 'no such card'); there are: filemic, default" in said
    assert said.count("no microphone") == 1
