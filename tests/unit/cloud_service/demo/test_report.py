"""The demo's report: the documented keys, the table and the sentences."""

import io

from rich.console import Console

from cloud_service.demo.measure import Standing
from cloud_service.demo.report import Bytes, ModelFacts, Report, UpdateFacts


def report() -> Report:
    return Report(
        seed=3,
        split="random",
        devices=2,
        wall_seconds=99.96,
        stage_seconds={"factory": 40.04},
        teacher_field=0.99,
        teacher_source=0.96,
        teacher_labelled_field_images=500,
        before=(Standing(0.7, 0.95, 0.5, 21.04, 697), ModelFacts("factory", 0.94, 7563)),
        after=(Standing(0.96, 0.988, 0.1, 20.0, 697), ModelFacts("digits-1", 0.935, 7564)),
        update=UpdateFacts(2.5, 0, 0, 4.25),
        bytes=Bytes(samples=100, verdicts=50, update=30, telemetry=20, send_everything=1000),
        uploaded=352,
        gate={"passed": True, "reasons": []},
    )


def test_json_has_the_documented_keys() -> None:
    value = report().as_json()
    assert {"seed", "devices", "wall_seconds", "teacher", "before", "after", "update", "bytes"} <= value.keys()
    assert {"field", "source"} <= value["teacher"].keys()
    side = {"edge_field", "edge_source", "system_field", "offload_rate", "model_bytes", "latency_us"}
    assert side <= value["before"].keys()
    assert side <= value["after"].keys()
    assert {"seconds_to_all_devices", "lost_samples", "interrupted_inferences"} <= value["update"].keys()
    assert value["bytes"] == {"samples": 100, "verdicts": 50, "update": 30, "telemetry": 20, "send_everything": 1000}
    assert value["before"]["edge_field"] == 0.7
    assert value["after"]["edge_field"] == 0.96


def test_table_shows_before_and_after() -> None:
    output = io.StringIO()
    Console(file=output, width=120).print(report().table())
    text = output.getvalue()
    for part in ("0.700", "0.960", "50.0%", "10.0%", "7,563 B", "seed 3"):
        assert part in text


def test_sentences_say_what_the_teacher_has_seen_and_what_was_lost() -> None:
    text = " ".join(report().lines())
    assert "500 labelled field images" in text
    assert "352 offloaded field images" in text
    assert "0 samples lost, 0 inferences interrupted" in text
    assert "20% of the 1,000" in text
    assert "50.0% went up at first and 10.0% after the update, with audits of 2%" in text
