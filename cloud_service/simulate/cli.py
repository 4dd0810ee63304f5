"""`edgeloop simulate`: a fleet of devices without models, to see what a service holds."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_service.simulate.arrivals import Pattern
from shared.errors import SettingsError

if TYPE_CHECKING:
    from cloud_service.simulate.fleet import Report
    from cloud_service.simulate.plan import Plan
    from shared.codec import Array
    from shared.mqtt import BrokerSettings

_LOST = 1


def simulate(
    devices: Annotated[int, typer.Option(min=1, max=60_000, help="Connections; 10,000 take about 100 MB.")] = 100,
    rate: Annotated[float, typer.Option(min=1e-6, help="Samples a second and device, on average.")] = 1.0,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds of load.")] = 60.0,
    pattern: Annotated[
        Pattern, typer.Option(help="burst: all in a tenth of each period; day: a slow swing.")
    ] = Pattern.STEADY,
    period: Annotated[float | None, typer.Option(min=0.1, help="Seconds: of bursts 10, of the day all of it.")] = None,
    ramp: Annotated[float, typer.Option(min=1.0, help="Connections opened a second.")] = 500.0,
    broker: Annotated[str, typer.Option(help="HOST or HOST:PORT.")] = "127.0.0.1:1883",
    username: Annotated[str | None, typer.Option(help="Where the broker asks for one.")] = None,
    password: Annotated[str | None, typer.Option(envvar="EDGELOOP_SIMULATE_PASSWORD", help="For --username.")] = None,
    ca_file: Annotated[Path | None, typer.Option(help="The broker's authority; given: TLS.")] = None,
    cert_file: Annotated[Path | None, typer.Option(help="One certificate for all devices.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    site: Annotated[str, typer.Option(help="The service's site.")] = "default",
    prefix: Annotated[str, typer.Option(help="What the devices' names begin with.")] = "sim",
    task: Annotated[str, typer.Option(help="The task of all samples.")] = "digits",
    shape: Annotated[str, typer.Option(help="Of a sample: 8,8 or 224,224,3.")] = "8,8",
    dtype: Annotated[str, typer.Option(help="Of a sample.")] = "uint8",
    labels: Annotated[int, typer.Option(min=1, help="Of the task.")] = 10,
    data: Annotated[Path | None, typer.Option(help="Send rows of x in this .npz, not random tensors.")] = None,
    audits: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share sent as audits.")] = 0.05,
    deadline_ms: Annotated[int | None, typer.Option(min=1, help="Somebody waits so long for each verdict.")] = None,
    churn: Annotated[float, typer.Option(min=0.0, help="Lost connections a minute and device.")] = 0.0,
    duplicates: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of samples sent twice.")] = 0.0,
    malformed: Annotated[float, typer.Option(min=0.0, max=1.0, help="Spoilt frames a sample.")] = 0.0,
    resend_after: Annotated[float, typer.Option(min=0.1, help="Seconds without an answer, doubling.")] = 30.0,
    keep: Annotated[int, typer.Option(min=1, help="Samples that a device keeps unanswered.")] = 256,
    in_flight: Annotated[int, typer.Option(min=1, max=65_535, help="QoS 1 messages under way a device.")] = 100,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds to wait for answers in the end.")] = 30.0,
    seed: Annotated[int | None, typer.Option(help="Of every draw but the ids.")] = None,
    journal: Annotated[Path | None, typer.Option(help="Write each sample's fate here, a line an event.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Load a service with simulated devices.

    Ctrl-C ends the load, a second one the waiting for answers. Exit code 1: samples were lost.
    """
    from cloud_service.simulate import payloads
    from cloud_service.simulate.plan import Faults, Keeping, Load, Plan, Samples

    files = {"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file}
    given = {"username": username, "password": password, "in_flight": in_flight, **files}
    tensors = payloads.rows(data) if data is not None else payloads.drawn(_shape(shape), dtype, seed=seed)
    plan = Plan(
        site=site,
        prefix=prefix,
        devices=devices,
        load=Load(rate=rate, duration_s=duration, pattern=pattern, period_s=period, ramp=ramp),
        faults=Faults(churn=churn, duplicates=duplicates, malformed=malformed),
        samples=Samples(task=task, labels=labels, audits=audits, deadline_ms=deadline_ms),
        keeping=Keeping(most=keep, resend_after_s=resend_after, drain_s=drain),
        seed=seed,
        journal=journal,
        broker=_reached(broker, given),
    )
    _show(asyncio.run(_run(plan, tensors)), as_json=as_json)


def _reached(address: str, given: Mapping[str, object]) -> BrokerSettings:
    from pydantic import ValidationError

    from shared.mqtt import BrokerSettings

    host, _, port = address.partition(":")
    wanted = {key: value for key, value in given.items() if value is not None}
    try:
        return BrokerSettings.model_validate({"host": host, "port": port or 1883, **wanted})
    except ValidationError as err:
        raise SettingsError(f"--broker {address}: {err.errors()[0]['msg']}; write HOST or HOST:PORT") from err


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise SettingsError(f"--shape {text}: write sizes such as 8,8 or 224,224,3")
    return sizes


async def _run(plan: Plan, tensors: Array) -> Report:
    from cloud_service.simulate.fleet import Fleet
    from cloud_service.simulate.view import LiveLine

    line = LiveLine()
    fleet = Fleet(plan, tensors, show=line.show)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, fleet.stop)
    try:
        return await fleet.run()
    finally:
        line.end()


def _show(report: Report, *, as_json: bool) -> None:
    from cloud_service.simulate.view import print_report

    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        print_report(report)
    if report.lost:
        raise typer.Exit(_LOST)
