"""Processes of the cloud's measurement: `offline MODEL SIDE BATCH SECONDS`, and `echo PORT`."""

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def offline(model: str, side: int, batch: int, seconds: float) -> None:
    """Run the teacher on batches, one after the other, in the session that the service opens."""
    from models import images

    from cloud_service.runtime import load_session

    session, pictures = load_session(Path(model)), images((side, side, 3), batch)
    name = session.get_inputs()[0].name
    for _ in range(5):
        session.run(["logits"], {name: pictures})
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        session.run(["logits"], {name: pictures})
        done += batch
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    print(json.dumps({"per_s": done / took, "cpu_us": cpu / done * 1e6}))


def echo(port: int) -> None:
    """Answer every sample frame from paho's own thread: no store, no model, no checks."""
    from paho.mqtt.client import Client, MQTTv5
    from paho.mqtt.enums import CallbackAPIVersion

    from shared import codec, messages
    from shared.messages import Verdict
    from shared.topics import Channel, Topic, parse

    client = Client(CallbackAPIVersion.VERSION2, client_id="echo", protocol=MQTTv5)
    client.max_inflight_messages_set(100)
    client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    share = (1.0,) + (0.0,) * 9

    def on_message(client: Client, _data: object, message: Any) -> None:
        header, where = codec.decode(message.payload)["header"], parse(message.topic)
        verdict = Verdict(
            sample_id=header["sample_id"],
            task=header["task"],
            prediction=0,
            probabilities=share,
            teacher="echo",
            latency_ms=0,
        )
        client.publish(str(Topic(where.site, where.device, Channel.VERDICT)), messages.encode(verdict), qos=1)

    client.on_message = on_message
    client.on_connect = lambda client, *rest: client.subscribe("$share/echo/edgeloop/v1/+/+/sample", qos=1)
    client.connect("127.0.0.1", port)
    print("listening", flush=True)
    client.loop_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["offline", model, side, batch, seconds]:
            offline(model, int(side), int(batch), float(seconds))
        case ["echo", port]:
            echo(int(port))
