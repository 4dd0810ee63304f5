"""`/metrics`: what the agent counts anyway, read when Prometheus asks; nothing on the hot path knows of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from edge_agent.server.served_agent import ServedAgent
from shared import __version__
from shared.messages import BudgetState, Conditions, SpoolState, TaskCounts

# Field of `TaskCounts` → name, without `edgeloop_` and `_total`, and what it counts.
COUNTS: Mapping[str, tuple[str, str]] = {
    "inferences": ("inferences", "Samples asked."),
    "errors": ("inference_errors", "Samples that ended in an error."),
    "kept": ("samples_kept", "Samples that stayed on the device."),
    "offloaded": ("samples_offloaded", "Samples sent up, or waiting to be."),
    "deferred": ("samples_deferred", "Samples that go up when the device has it easier."),
    "audits": ("samples_audited", "Confident samples drawn at random to go up."),
    "dropped": ("samples_dropped", "Samples that should have gone up and were dropped."),
    "duplicates": ("samples_duplicate", "Hard samples kept: like one that went up lately."),
    "withheld": ("samples_withheld", "Hard samples kept: the redaction hook said so."),
    "over_budget": ("samples_over_budget", "Hard samples kept: the budget was spent."),
    "verdicts": ("verdicts", "Verdicts that came back."),
    "agreed": ("verdicts_agreed", "Verdicts that said what the device had said."),
    "skipped": ("samples_skipped", "Samples not taken from a source, to do with less power."),
    "overrun": ("samples_overrun", "Samples of a source dropped because the agent was slow."),
    "waited": ("samples_waited", "Samples of a source that had to wait because the agent was slow."),
}
# Field of `BudgetState` → name and meaning.
BUDGETS: Mapping[str, tuple[str, str]] = {
    "threshold": ("threshold", "Score from which a sample is hard now."),
    "offload": ("offload_ratio", "Share of the last samples that went up."),
    "agreement": ("agreement_ratio", "Share of answers that the teacher would give, estimated from audits."),
    "agreement_low": ("agreement_low_ratio", "Lower end of its 95 % interval."),
    "agreement_high": ("agreement_high_ratio", "Upper end of its 95 % interval."),
    "goal_met": ("goal_met", "1 while the task's goal is met, 0 while it is out of reach."),
    "would_need": ("goal_would_need_ratio", "Share that would have to go up to meet the goal."),
}
# Field of `Conditions` → name and meaning.
CONDITIONS: Mapping[str, tuple[str, str]] = {
    "battery": ("battery_ratio", "Charge of the battery."),
    "charging": ("charging", "1 on mains."),
    "temperature_c": ("temperature_celsius", "Of the hottest sensor."),
    "cpu": ("cpu_ratio", "Share of the processor in use by everybody."),
    "memory": ("memory_ratio", "Share of the memory in use by everybody."),
    "disk": ("disk_ratio", "Share of the state folder's disk in use."),
    "round_trip_s": ("round_trip_seconds", "From a publish to the broker's acknowledgement, smoothed."),
    "metered": ("metered", "1 while bytes cost money."),
}


class Metrics:
    """The agent's numbers as Prometheus reads them, and those of this process."""

    def __init__(self, agent: ServedAgent, requests: Mapping[int, int]) -> None:
        """`requests`: how many were answered with which HTTP status, counted by the server."""
        self._registry = CollectorRegistry()
        self._registry.register(_AgentCollector(agent, requests))
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, in the format that `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _AgentCollector(Collector):
    def __init__(self, agent: ServedAgent, requests: Mapping[int, int]) -> None:
        self._agent = agent
        self._requests = requests

    def describe(self) -> Iterator[Metric]:
        """Nothing: else the registry would ask the agent when it is made."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        telemetry = self._agent.telemetry()
        info = InfoMetricFamily("edgeloop_agent", "The agent.")
        info.add_metric([], {"version": __version__})
        yield info
        models = InfoMetricFamily("edgeloop_model", "The model that the next sample meets.", labels=["task"])
        for task, manifest in self._agent.manifests().items():
            models.add_metric([task], {"version": manifest.version})
        yield models
        yield _gauge("uptime_seconds", "Since the agent's start.", telemetry.uptime_s)
        yield from _counts(telemetry.tasks)
        yield _counter("payload_bytes", "Payload bytes.", "purpose", telemetry.ledger.model_dump(exclude=_VERSION))
        yield _gauge("payload_bytes_today", "Payload bytes of the running day.", telemetry.bytes_today)
        yield from _spool(telemetry.spool)
        yield from _budgets(telemetry.budgets)
        yield from _conditions(telemetry.conditions)
        answered = {str(status): count for status, count in list(self._requests.items())}
        yield _counter("server_requests", "Requests answered by this server.", "status", answered)


_VERSION = {"schema_version"}


def _counts(tasks: Mapping[str, TaskCounts]) -> Iterator[Metric]:
    for field, (name, meaning) in COUNTS.items():
        yield _counter(name, meaning, "task", {task: getattr(counts, field) for task, counts in tasks.items()})


def _spool(spool: SpoolState) -> Iterator[Metric]:
    yield _gauge("spool_items", "Samples that wait on the device.", spool.items)
    yield _gauge("spool_bytes", "Bytes that wait on the device.", spool.bytes)
    yield _counter("spool_evicted", "Samples given up to make room.", "reason", spool.evicted)
    refused = CounterMetricFamily("edgeloop_spool_refused", "Samples that the cloud refused for good.")
    refused.add_metric([], spool.refused)
    yield refused


def _budgets(budgets: Mapping[str, BudgetState]) -> Iterator[Metric]:
    for field, (name, meaning) in BUDGETS.items():
        gauge = GaugeMetricFamily(f"edgeloop_{name}", meaning, labels=["task"])
        for task, state in budgets.items():
            if (value := getattr(state, field)) is not None:
                gauge.add_metric([task], float(value))
        yield gauge


def _conditions(conditions: Conditions) -> Iterator[Metric]:
    for field, (name, meaning) in CONDITIONS.items():
        if (value := getattr(conditions, field)) is not None:
            yield _gauge(name, meaning, float(value))
    measures = GaugeMetricFamily("edgeloop_measure", "1 while this is done to use less.", labels=["measure"])
    for measure in conditions.measures:
        measures.add_metric([measure], 1.0)
    yield measures


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"edgeloop_{name}", meaning, value=value)


def _counter(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    counter = CounterMetricFamily(f"edgeloop_{name}", meaning, labels=[label])
    for value, count in values.items():
        counter.add_metric([value], count)
    return counter
