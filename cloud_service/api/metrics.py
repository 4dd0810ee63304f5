"""`/metrics`: the service's numbers in Prometheus' formats, read when it asks.

The names begin with `edgeloop_cloud_`, since a device's own `/metrics` has `edgeloop_` names of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from cloud_service.api.resources import Health
from cloud_service.api.routing import DOMAIN, Route
from cloud_service.estimates.accuracy import Labelled
from cloud_service.estimates.agreement import Interval
from cloud_service.estimates.drift import Alarm
from cloud_service.estimates.estimate import Estimate
from cloud_service.estimates.estimator import Current, Stream
from cloud_service.latencies import Histogram, Latencies

MEDIA = ("text/plain", "application/openmetrics-text")
_BOUNDS = ("value", "low", "high")


async def metrics(request: web.Request) -> web.StreamResponse:
    """What the service counts."""
    domain = request.app[DOMAIN]
    registry = CollectorRegistry()
    estimator = domain.estimator
    registry.register(ServiceCollector(domain.health(), estimator.current, estimator.metrics_devices, domain.latencies))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return web.Response(body=encode(registry), headers={"Content-Type": content_type})


class ServiceCollector(Collector):
    """One scrape.

    Args:
        own_series: how many devices, at most, have series of their own; the fleet has some in any case.
    """

    def __init__(self, health: Health, current: Current, own_series: int, latencies: Latencies) -> None:
        self._health, self._current, self._own_series, self._latencies = health, current, own_series, latencies

    def describe(self) -> Iterator[Metric]:
        """Nothing: else the registry would collect when it is made."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        current = self._current
        yield from _service(self._health)
        yield _durations("storing_seconds", "From a sample's arrival to its storage.", self._latencies.stored)
        yield _durations("verdict_seconds", "From a sample's arrival to its verdict.", self._latencies.answered)
        if current.at is None:
            return
        yield _gauge("estimates_timestamp_seconds", "When the estimates were made.", current.at.timestamp())
        presence = GaugeMetricFamily("edgeloop_cloud_devices", "Devices by presence.", labels=["state"])
        presence.add_metric(["online"], current.online)
        presence.add_metric(["offline"], current.offline)
        yield presence
        devices = {estimate.device for estimate in current.estimates if estimate.device is not None}
        chosen = {None, *sorted(devices)[: self._own_series]}
        estimates = [estimate for estimate in current.estimates if estimate.device in chosen]
        yield from _agreement(estimates)
        yield from _accuracy(estimates)
        yield from _drift([stream for stream in current.streams if stream.device in chosen])
        yield from _incidents(current.streams)


def _service(health: Health) -> Iterator[Metric]:
    info = InfoMetricFamily("edgeloop_cloud", "The service.")
    info.add_metric([], {"version": health.version, "site": health.site})
    yield info
    teachers = InfoMetricFamily("edgeloop_cloud_teacher", "The teacher of a task.", labels=["task"])
    for task, version in health.teachers.items():
        teachers.add_metric([task], {"version": version})
    yield teachers
    yield _gauge("uptime_seconds", "Since the service's start.", health.uptime_s)
    yield _gauge("mqtt_connected", "1 while the broker is there.", float(health.broker == "up"))
    yield _counter("samples", "What became of samples and verdicts since the start.", "what", health.counts)
    waiting = GaugeMetricFamily("edgeloop_cloud_waiting", "Samples in memory, by what they wait for.", labels=["on"])
    for on, count in health.waiting.items():
        waiting.add_metric([on], count)
    yield waiting
    yield _counter("faults", "Frames and samples that devices got wrong, by kind.", "kind", health.faults)


def _durations(name: str, meaning: str, found: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"edgeloop_cloud_{name}", meaning, labels=["task"])
    for task, histogram in found.items():
        buckets = [("+Inf" if bound is None else str(bound), count) for bound, count in histogram.cumulated()]
        family.add_metric([task], buckets, histogram.sum_s)
    return family


def _agreement(estimates: Sequence[Estimate]) -> Iterator[Metric]:
    shares = _family("agreement_ratio", "Share of answers that are the teacher's.", "answers", "bound")
    audits = _family("audits", "Audits that the agreement rests on.")
    kept = _family("kept_ratio", "Share of the samples that stayed, as the device was sure.")
    warnings = _family("warnings", "Warnings about the estimate.")
    for estimate in estimates:
        labels, found = _labels(estimate), estimate.agreement
        _add(shares, [*labels, "own"], found.own)
        _add(shares, [*labels, "final"], found.final)
        audits.add_metric(labels, found.audits)
        kept.add_metric(labels, found.kept)
        warnings.add_metric(labels, len(estimate.warnings))
    yield from (shares, audits, kept, warnings)


def _accuracy(estimates: Sequence[Estimate]) -> Iterator[Metric]:
    shares = _family("accuracy_ratio", "Share of right answers on labelled audits.", "answers", "bound")
    given = _family("labelled_audits", "Audits with a label that a person gave.")
    for estimate in estimates:
        for found in estimate.accuracy:
            if found.labelled is Labelled.AUDITS:
                labels = _labels(estimate)
                _add(shares, [*labels, "edge"], found.edge)
                _add(shares, [*labels, "teacher"], found.teacher)
                given.add_metric(labels, found.count)
    yield from (shares, given)


def _drift(streams: Iterable[Stream]) -> Iterator[Metric]:
    alarms = _family("drift_alarm", "1 while a detector has spoken within the last 500 samples of the stream.", "by")
    lengths = _family("stream_samples", "Samples of the unbiased stream since the model came.")
    for stream in streams:
        labels = [stream.task, stream.device]
        lengths.add_metric(labels, stream.samples)
        for alarm in Alarm:
            alarms.add_metric([*labels, alarm.value], float(alarm in stream.alarms))
    yield from (alarms, lengths)


def _incidents(streams: Iterable[Stream]) -> Iterator[Metric]:
    found = GaugeMetricFamily("edgeloop_cloud_incidents", "Open incidents.", labels=["task"])
    counts: dict[str, int] = {}
    for stream in streams:
        counts[stream.task] = counts.get(stream.task, 0) + stream.is_open
    for task, count in counts.items():
        found.add_metric([task], count)
    yield found


def _labels(estimate: Estimate) -> list[str]:
    # An empty label is none: the fleet's series have no device.
    return [estimate.task, estimate.device or ""]


def _family(name: str, meaning: str, *more: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"edgeloop_cloud_{name}", meaning, labels=["task", "device", *more])


def _add(family: GaugeMetricFamily, labels: Sequence[str], interval: Interval) -> None:
    for bound in _BOUNDS:
        value = getattr(interval, bound)
        if value is not None:
            family.add_metric([*labels, bound], value)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"edgeloop_cloud_{name}", meaning, value=value)


def _counter(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    counter = CounterMetricFamily(f"edgeloop_cloud_{name}", meaning, labels=[label])
    for value, count in values.items():
        counter.add_metric([value], count)
    return counter


ROUTES = [Route("GET", "/metrics", metrics, "Numbers for Prometheus", None, media=MEDIA)]
