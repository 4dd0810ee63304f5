"""What Prometheus reads, parsed by its own client."""

from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cloud_service.api.metrics import ServiceCollector
from cloud_service.api.resources import Health
from cloud_service.estimates.accuracy import Accuracy, Labelled
from cloud_service.estimates.agreement import UNKNOWN, Agreement, Interval
from cloud_service.estimates.composition import Basis
from cloud_service.estimates.drift import Alarm
from cloud_service.estimates.estimate import Estimate
from cloud_service.estimates.estimator import Current, Stream
from cloud_service.latencies import Latencies

HEALTH = Health(
    status="ok",
    broker="up",
    version="1.2.3",
    site="demo",
    uptime_s=7.0,
    teachers={"digits": "t1"},
    counts={"samples": 12, "stored": 11},
    faults={"topic": 2},
    waiting={"storage": 5},
)
SHARE = Interval(0.9, 0.8, 0.95)


def estimate(device, *, own=SHARE, warnings=()):
    agreement = Agreement(own, SHARE, 120, 5_000.0, 0.85, 0.01, Basis.TELEMETRY)
    accuracy = (Accuracy(Labelled.AUDITS, 40, SHARE, SHARE, UNKNOWN), Accuracy(Labelled.ALL, 90, SHARE, SHARE, SHARE))
    return Estimate("digits", device, agreement, accuracy, warnings)


CURRENT = Current(
    at=datetime(2026, 1, 1, tzinfo=UTC),
    online=3,
    offline=1,
    estimates=(estimate(None, warnings=("look",)), estimate("cam-1"), estimate("cam-2", own=UNKNOWN)),
    streams=(
        Stream("digits", "cam-1", 700, frozenset({Alarm.ADWIN}), True),
        Stream("digits", "cam-2", 5, frozenset(), False),
    ),
)


def collected(current=CURRENT, *, own_series=10, latencies=None):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in ServiceCollector(HEALTH, current, own_series, latencies or Latencies()).collect()
        for sample in family.samples
    }


def value(found, name, **labels):
    return found[f"edgeloop_cloud_{name}", tuple(sorted(labels.items()))]


def test_service_counts_are_there_before_the_first_estimates():
    found = collected(Current())
    assert value(found, "samples_total", what="stored") == 11
    assert value(found, "faults_total", kind="topic") == 2
    assert value(found, "mqtt_connected") == 1
    assert value(found, "waiting", on="storage") == 5
    assert value(found, "uptime_seconds") == 7.0
    assert value(found, "teacher_info", task="digits", version="t1") == 1
    assert not any("agreement" in name for name, _ in found)


def test_times_are_histograms_by_task():
    latencies = Latencies()
    for seconds in (0.004, 0.03, 7.0, 9_000.0):
        latencies.note_answered("digits", seconds)
    latencies.note_stored("digits", 0.5)
    found = collected(latencies=latencies)
    buckets = {le: value(found, "verdict_seconds_bucket", task="digits", le=le) for le in ("0.005", "10.0", "+Inf")}
    assert buckets == {"0.005": 1, "10.0": 3, "+Inf": 4}
    assert value(found, "verdict_seconds_count", task="digits") == 4
    assert value(found, "verdict_seconds_sum", task="digits") == pytest.approx(9_007.034)
    assert value(found, "storing_seconds_bucket", task="digits", le="0.5") == 1
    assert value(found, "storing_seconds_bucket", task="digits", le="0.25") == 0


def test_estimates_come_with_their_bounds():
    found = collected()
    fleet = {"task": "digits", "device": ""}
    for bound, share in (("value", 0.9), ("low", 0.8), ("high", 0.95)):
        for answers in ("own", "final"):
            assert value(found, "agreement_ratio", **fleet, answers=answers, bound=bound) == share
    for answers in ("edge", "teacher"):
        assert value(found, "accuracy_ratio", **fleet, answers=answers, bound="low") == 0.8
    assert value(found, "labelled_audits", **fleet) == 40
    assert value(found, "warnings", **fleet) == 1
    assert value(found, "audits", task="digits", device="cam-1") == 120
    assert value(found, "kept_ratio", task="digits", device="cam-1") == 0.85
    assert value(found, "devices", state="online") == 3
    assert value(found, "devices", state="offline") == 1


def test_unknown_value_has_bounds_and_no_number():
    found = collected()
    unknown = {"task": "digits", "device": "cam-2", "answers": "own"}
    assert value(found, "agreement_ratio", **unknown, bound="high") == 1.0
    with pytest.raises(KeyError):
        value(found, "agreement_ratio", **unknown, bound="value")


def test_drift_and_incidents():
    found = collected()
    one = {"task": "digits", "device": "cam-1"}
    assert value(found, "drift_alarm", **one, by="adwin") == 1
    assert value(found, "drift_alarm", **one, by="page_hinkley") == 0
    assert value(found, "stream_samples", **one) == 700
    assert value(found, "incidents", task="digits") == 1


def test_only_so_many_devices_have_series_of_their_own():
    found = collected(own_series=1)
    devices = {labels["device"] for _, pairs in found if "device" in (labels := dict(pairs))}
    assert devices == {"", "cam-1"}
    assert value(found, "incidents", task="digits") == 1
    assert not any("cam" in str(pairs) for _, pairs in collected(own_series=0))


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
async def test_scrape_answers_in_the_format_that_is_asked_for(api, estimator, fleet, accept):
    fleet.saw("cam-1")
    await fleet.flush()
    await estimator.refresh()
    async with api.client.get("/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200
        assert response.content_type == accept.partition(";")[0]
        text = await response.text()
    assert 'edgeloop_cloud_devices{state="offline"} 1.0' in text
    assert "process_resident_memory_bytes" in text


async def test_scrape_reads_as_prometheus_reads_it(api, estimator):
    await estimator.refresh()
    async with api.client.get("/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    assert all(family.documentation for family in families)
    assert {"edgeloop_cloud_info", "edgeloop_cloud_mqtt_connected"} <= {family.name for family in families}
