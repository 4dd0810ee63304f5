"""The screen: what a person sees of a snapshot, on a terminal and in a log."""

import io
from pathlib import Path

from rich.console import Console

from cloud_service.demo.journal import Answer, DeviceJournal
from cloud_service.demo.snapshot import Snapshot, look
from cloud_service.demo.stage import Device
from cloud_service.demo.view import Screen, draw


def snapshot(doing: str = "the service distils") -> Snapshot:
    answers = [
        Answer(0.0, f"id-{n}", n, n, 1, n % 2 == 0, False, False, "v7", 20.0, 50.0, 1 if n % 2 == 0 else None)
        for n in range(10)
    ]
    journal = DeviceJournal(Device("device-1", Path(), Path(), exam_size=10, stream_size=0), answers=answers)
    journal.recent.extend(answer.offloaded for answer in answers)
    journal.agreed.extend([True, True, True, False])
    return look(
        [journal],
        seconds=12.3,
        doing=doing,
        store={"total": 352, "answered": 350},
        job={"progress": {"distill": {"done": 40, "total": 100, "message": "loss 0.12"}}},
        deployments=[{"device": "device-1", "state": "pending"}],
    )


def shown(*, terminal: bool) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, force_terminal=terminal, width=120, highlight=False, color_system=None), output


def test_picture_names_device_model_rates_store_stage_and_update() -> None:
    console, output = shown(terminal=True)
    console.print(draw(snapshot()))
    text = output.getvalue()
    for part in ("device-1", "v7", "50%", "75%", "pending", "352 samples stored", "distill", "loss 0.12", "12 s"):
        assert part in text


def test_nothing_known_yet_is_drawn_as_a_dash() -> None:
    console, output = shown(terminal=True)
    empty = DeviceJournal(Device("device-1", Path(), Path(), exam_size=1, stream_size=1))
    console.print(draw(look([empty], seconds=0.0, doing="starting", store={}, job=None, deployments=[])))
    assert output.getvalue().count("–") == 3


def test_without_a_terminal_each_step_is_said_once() -> None:
    console, output = shown(terminal=False)
    with Screen(console) as screen:
        for doing in ("first", "first", "second"):
            screen.show(snapshot(doing))
        screen.say("the end")
    lines = output.getvalue().splitlines()
    assert lines == ["[ 12.3 s] first", "[ 12.3 s] second", "the end"]


def test_on_a_terminal_the_picture_is_live_and_what_is_said_stays() -> None:
    console, output = shown(terminal=True)
    with Screen(console) as screen:
        screen.show(snapshot())
        screen.say("this stays")
    assert "this stays" in output.getvalue()
