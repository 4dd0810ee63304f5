"""/api/v1/estimates and /api/v1/incidents: what the fleet is worth, and what somebody should look at."""

from __future__ import annotations

from datetime import datetime

from aiohttp import web
from pydantic import JsonValue

from cloud_service.api.resources import Limit, Resource
from cloud_service.api.routing import DOMAIN, Route, query
from cloud_service.estimates.accuracy import Accuracy, Labelled
from cloud_service.estimates.agreement import Agreement, Interval
from cloud_service.estimates.composition import Basis
from cloud_service.estimates.estimate import Estimate
from cloud_service.storage.models import Incident
from shared.messages import Name


class IntervalView(Resource):
    """A share with its 95 % interval; `value` is null where nothing is known."""

    value: float | None
    low: float
    high: float


class AgreementView(Resource):
    """How often the answers are the teacher's.

    Attributes:
        own: the device's own answers, corrections aside.
        final: the answers in the end: the verdict where one came in time, else the device's own.
        audits: what the intervals rest on.
        samples: answered in the period, about.
        kept, left: shares of them that the device was sure of and kept, and that were hard and stayed.
        basis: where these shares come from: `telemetry` counts them, `audits` tell them.
        represented: share of the samples on devices with audits; the others are not in it.
    """

    own: IntervalView
    final: IntervalView
    audits: int
    samples: float
    kept: float
    left: float
    basis: Basis
    represented: float


class AccuracyView(Resource):
    """How often the device and the teacher are right, by the labels that people gave.

    Attributes:
        labelled: `audits`: of samples drawn at random among those the device was sure of; `all`: of whatever people
            chose to label, which is no random choice.
        unbiased: whether this holds for the samples that were not labelled, too.
        teacher_better: of the samples on which one of both is right, the share on which it is the teacher.
    """

    labelled: Labelled
    unbiased: bool
    count: int
    edge: IntervalView
    teacher: IntervalView
    teacher_better: IntervalView


class EstimateView(Resource):
    """What is known of one task on one device; `device` null: on the whole fleet."""

    task: str
    device: str | None
    agreement: AgreementView
    accuracy: list[AccuracyView]
    warnings: list[str]


class EstimateList(Resource):
    """The fleet of each task, then its devices by name; `at` null: not made yet since the service started."""

    at: datetime | None
    items: list[EstimateView]


class EstimateQuery(Resource):
    """Which estimates are meant."""

    task: Name | None = None
    device: Name | None = None


class IncidentView(Resource):
    """Something about a device that somebody should look at; `closed_at` null: it goes on."""

    id: int
    task: str
    device: str
    sentence: str
    evidence: dict[str, JsonValue]
    opened_at: datetime
    closed_at: datetime | None
    closed_because: str | None


class IncidentList(Resource):
    """Incidents, newest first."""

    items: list[IncidentView]


class IncidentQuery(Resource):
    """Which incidents are meant; `open`: those that go on, or those that are over."""

    task: Name | None = None
    device: Name | None = None
    open: bool | None = None
    limit: Limit = 100


async def list_estimates(request: web.Request) -> EstimateList:
    """The newest estimates."""
    asked = query(request, EstimateQuery)
    current = request.app[DOMAIN].estimator.current
    wanted = [
        estimate
        for estimate in current.estimates
        if asked.task in {None, estimate.task} and asked.device in {None, estimate.device}
    ]
    return EstimateList(at=current.at, items=[_estimate(estimate) for estimate in wanted])


async def list_incidents(request: web.Request) -> IncidentList:
    """What was noticed."""
    asked = query(request, IncidentQuery)
    found = await request.app[DOMAIN].estimator.incidents.all(
        task=asked.task, device=asked.device, is_open=asked.open, limit=asked.limit
    )
    return IncidentList(items=[_incident(row) for row in found])


def _estimate(found: Estimate) -> EstimateView:
    return EstimateView(
        task=found.task,
        device=found.device,
        agreement=_agreement(found.agreement),
        accuracy=[_accuracy(each) for each in found.accuracy],
        warnings=list(found.warnings),
    )


def _agreement(found: Agreement) -> AgreementView:
    return AgreementView(
        own=_interval(found.own),
        final=_interval(found.final),
        audits=found.audits,
        samples=round(found.samples, 1),
        kept=found.kept,
        left=found.left,
        basis=found.basis,
        represented=found.represented,
    )


def _accuracy(found: Accuracy) -> AccuracyView:
    return AccuracyView(
        labelled=found.labelled,
        unbiased=found.labelled is Labelled.AUDITS,
        count=found.count,
        edge=_interval(found.edge),
        teacher=_interval(found.teacher),
        teacher_better=_interval(found.teacher_better),
    )


def _interval(found: Interval) -> IntervalView:
    return IntervalView(value=found.value, low=found.low, high=found.high)


def _incident(row: Incident) -> IncidentView:
    return IncidentView(
        id=row.number,
        task=row.task,
        device=row.device,
        sentence=row.sentence,
        evidence=row.evidence,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        closed_because=row.closed_because,
    )


ROUTES = [
    Route(
        "GET",
        "/api/v1/estimates",
        list_estimates,
        "Agreement and accuracy of fleet and devices",
        EstimateList,
        query=EstimateQuery,
        errors=(422,),
    ),
    Route(
        "GET", "/api/v1/incidents", list_incidents, "List incidents", IncidentList, query=IncidentQuery, errors=(422,)
    ),
]
