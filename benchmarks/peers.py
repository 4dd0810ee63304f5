"""Four processes of the hard path's measurement: an agent and its echo, and a bare paho pair that does the same work.

Each runs the same model file in the same way. `agent` and `bare` wait on their pipe for a number of trips and answer
with how long each took, in µs; the two echoes run until they are ended.
"""

import math
import socket
import threading
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

SITE, DEVICE, TASK = "bench", "cam-1", "images"
DEADLINE_S = 5.0


def paho(name: str) -> Client:
    """A client with TCP_NODELAY."""
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5)
    client.max_inflight_messages_set(100)
    client.on_socket_open = lambda client, userdata, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def agent(pipe: Pipe, port: int, bundle: Path, folder: Path, shape: tuple[int, ...]) -> None:
    """`EdgeAgent.infer` on samples that are all hard, with a deadline that is never reached."""
    from edge_agent import EdgeAgent
    from edge_agent.settings import AgentSettings

    settings = AgentSettings.model_validate(
        {
            "site": SITE,
            "device": DEVICE,
            "state_dir": folder / "state",
            "broker": {"port": port},
            "tasks": {TASK: {"bundle": bundle, "deadline_s": DEADLINE_S, "audit_fraction": 0.0}},
        }
    )
    with EdgeAgent.open(settings) as opened:
        samples = _samples(shape)

        def trip(number: int) -> None:
            outcome = opened.infer(samples[number % len(samples)])
            assert outcome.answered_by == "cloud", outcome

        _serve(pipe, trip)


def bare(pipe: Pipe, port: int, model: Path, shape: tuple[int, ...]) -> None:
    """Run the model, publish the raw bytes, wait for the raw answer that has the correlation data."""
    session, arrived, answers = _session(model), threading.Event(), {}
    ready = threading.Event()
    client = paho("bare")

    def on_message(client: Client, userdata: object, message: Any) -> None:
        answers[message.properties.CorrelationData] = np.frombuffer(message.payload, np.float32)
        arrived.set()

    client.on_message = on_message
    client.on_connect = lambda client, *rest: client.subscribe("bare/down", qos=1)
    client.on_subscribe = lambda *rest: ready.set()
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(10)
    samples = _samples(shape)

    def trip(number: int) -> None:
        sample = samples[number % len(samples)]
        session.run(["logits"], {"image": sample[np.newaxis]})
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = "bare/down", number.to_bytes(8, "big")
        arrived.clear()
        client.publish("bare/up", sample.tobytes(), qos=1, properties=properties)
        assert arrived.wait(DEADLINE_S)
        answers.pop(properties.CorrelationData)

    _serve(pipe, trip)
    client.disconnect()
    client.loop_stop()


def contract_echo(port: int, model: Path) -> None:
    """A teacher that speaks the contract: decode the sample, run the model, publish the verdict."""
    from shared import messages
    from shared.messages import Verdict
    from shared.topics import Channel, Topic

    session, client = _session(model), paho("contract-echo")
    down = str(Topic(SITE, DEVICE, Channel.VERDICT))

    def on_message(client: Client, userdata: object, message: Any) -> None:
        began = time.perf_counter()
        header, tensor = messages.decode_sample(message.payload)
        (logits,) = session.run(["logits"], {"image": tensor[np.newaxis]})
        scores = [math.exp(each) for each in (logits[0] - logits[0].max()).tolist()]
        total = sum(scores)
        verdict = Verdict(
            sample_id=header.sample_id,
            task=header.task,
            prediction=scores.index(1.0),
            probabilities=tuple(each / total for each in scores),
            teacher="echo",
            latency_ms=(time.perf_counter() - began) * 1000,
        )
        client.publish(down, messages.encode(verdict), qos=1)

    _answer(client, port, str(Topic(SITE, DEVICE, Channel.SAMPLE)), on_message)


def bare_echo(port: int, model: Path, shape: tuple[int, ...]) -> None:
    """The other end of `bare`."""
    session, client = _session(model), paho("bare-echo")

    def on_message(client: Client, userdata: object, message: Any) -> None:
        sample = np.frombuffer(message.payload, np.uint8).reshape(shape)
        (logits,) = session.run(["logits"], {"image": sample[np.newaxis]})
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = message.properties.CorrelationData
        client.publish(message.properties.ResponseTopic, logits.tobytes(), qos=1, properties=properties)

    _answer(client, port, "bare/up", on_message)


def _answer(client: Client, port: int, topic: str, on_message: Any) -> None:
    client.on_message = on_message
    client.on_connect = lambda client, *rest: client.subscribe(topic, qos=1)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def _serve(pipe: Pipe, trip: Any) -> None:
    pipe.send("ready")
    number = 0
    while (count := pipe.recv()) is not None:
        took_us = []
        for _ in range(count):
            number += 1
            began = time.perf_counter_ns()
            trip(number)
            took_us.append((time.perf_counter_ns() - began) / 1000)
        pipe.send(took_us)


def _samples(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (16, *shape), dtype=np.uint8)


def _session(model: Path) -> Any:
    from cloud_service.runtime import load_session

    return load_session(model)
