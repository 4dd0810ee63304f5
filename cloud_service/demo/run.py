"""`edgeloop demo`: the loop closes on real data. This module is the story's table of contents; `story` tells it.

factory    a teacher, and a student that has seen MNIST only            (a process of its own)
launch     embedded broker, cloud service, three edge agents            (real processes, MQTT 5 over TCP)
before     the devices meet held-out field images: answered, never kept
stream     the devices meet 600 unlabelled field images; the hard ones go up, the teacher answers
learn      the service distils, quantizes, calibrates and gates a new student   (a process of its own)
update     the service pushes it; the devices prove it and swap it in
after      the same held-out field images again
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from cloud_service.demo import data as datasets
from cloud_service.demo.data import Split
from cloud_service.demo.evidence import draw_plot, gather, write_report
from cloud_service.demo.processes import Processes, end_in_order_when_told
from cloud_service.demo.story import DemoFailed, Story
from cloud_service.demo.view import Screen

_INTRODUCTION = """[bold]edgeloop demo[/bold], seed {seed}: {devices} edge agents, a broker, a service, all processes.
The factory trained an int8 student on MNIST digits. The field is Optdigits: other writers, scanner and country.
The teacher has also seen {labelled} labelled field images; devices and new student get no field label at all."""


def run_demo(
    *,
    seed: int,
    devices: int,
    report: Path | None,
    plot: Path | None,
    split: str,
    serve: bool,
    work_dir: Path | None,
) -> int:
    """Run the whole story; returns the exit code 0.

    Raises:
        SystemExit: SIGTERM or SIGHUP came; everything is ended first.
        EdgeloopError: a part of it failed, or the new student did not reach the devices; the message says where.
    """
    end_in_order_when_told()
    console = Console(highlight=False)
    folder = _work_folder(work_dir)
    data = datasets.load(seed, Split(split))
    labelled = len(data.field_labelled.x)
    console.print(_INTRODUCTION.format(seed=seed, devices=devices, labelled=labelled))
    with Screen(console) as screen, Processes(folder / "logs") as processes:
        story = Story(folder, data, seed=seed, split=split, screen=screen, processes=processes)
        story.build_factory()
        story.launch(devices)
        story.wait_for_before()
        story.wait_for_stream()
        story.learn()
        story.wait_for_update()
        story.wait_for_after()
        story.settle()
        scene = story.scene(stop=not serve)
        result = gather(scene)
        screen.say(result.table())
        for line in result.lines():
            screen.say(line)
        plot_file, report_file = plot or folder / "demo.png", report or folder / "report.json"
        draw_plot(plot_file, scene, result)
        write_report(report_file, result)
        screen.say(f"\nplot    {plot_file}\nreport  {report_file}\nfiles   {folder}")
        if serve:
            screen.close()
            story.keep_serving()
    return 0


def _work_folder(wanted: Path | None) -> Path:
    if wanted is None:
        return Path(tempfile.mkdtemp(prefix="edgeloop-demo-"))
    folder = wanted.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise DemoFailed(f"{folder} is not empty: name a new folder, so that nothing of yours is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
