"""A run: connect all devices, let samples come, wait for what they still keep, leave."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from random import Random

from cloud_service.simulate.arrivals import next_arrival
from cloud_service.simulate.device import Device
from cloud_service.simulate.plan import Plan
from cloud_service.simulate.tally import Tally
from cloud_service.simulate.world import World
from shared.backoff import exponential, full_jitter
from shared.codec import Array
from shared.errors import BrokerUnavailable, SettingsError

log = logging.getLogger(__name__)

_SPARE_FILES = 64
_TICK_S = 0.5
_DIALS = 64
_OPEN_TIMEOUT_S = 30.0
# Samples that were due together go out together, then others have their turn.
_AT_ONCE = 50
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went. `lost`: samples that devices still kept, unanswered, when it ended; `seconds`: of load."""

    tally: Tally
    devices: int
    seconds: float
    lost: int

    def as_json(self) -> dict[str, object]:
        """Plain values; times in milliseconds."""
        counts = {name: value for name, value in asdict(self.tally).items() if isinstance(value, int)}
        return {
            "devices": self.devices,
            "seconds": round(self.seconds, 3),
            **counts,
            "spoilt": dict(self.tally.spoilt),
            "lost": self.lost,
            "verdict_ms": self.tally.verdict.summary_ms(),
            "receipt_ms": self.tally.receipt.summary_ms(),
            "late_start_ms": self.tally.late_start.summary_ms(),
        }


class Fleet:
    """All devices of a run.

    Args:
        tensors: [N, *shape], what they send.
        show: called about twice a second with what is counted so far and how many devices are connected.
    """

    def __init__(self, plan: Plan, tensors: Array, *, show: Callable[[Tally, int, float], None]) -> None:
        self._plan = plan
        self._tensors = tensors
        self._show = show
        self._rng = Random(plan.seed)  # noqa: S311  # draws a simulation
        self._tally = Tally()
        self._dials = asyncio.Semaphore(_DIALS)
        self._dialling: set[asyncio.Task[None]] = set()
        self._tls = _tls(plan)
        self._address = ""
        self._ending = False
        self._stopped = asyncio.Event()
        self.devices: list[Device] = []

    def stop(self) -> None:
        """Make no more samples; a second time: do not wait for answers either."""
        self._ending = self._stopped.is_set()
        self._stopped.set()

    async def run(self) -> Report:
        """See the module.

        Raises:
            BrokerUnavailable: the first device found no broker, or was refused.
            SettingsError: the system does not allow so many connections.
        """
        raise_file_limit(self._plan.devices + _SPARE_FILES)
        clock = asyncio.get_running_loop().time
        with ExitStack() as stack:
            path = self._plan.journal
            journal = None if path is None else stack.enter_context(path.open("w", encoding="utf-8", buffering=1))
            world = World(self._plan, self._tensors, self._tally, self._rng, clock, journal)
            names = (f"{self._plan.prefix}-{number:05}" for number in range(self._plan.devices))
            self.devices = [Device(name, world, on_lost=self._lost) for name in names]
            ticking = asyncio.create_task(self._tick(), name="fleet-tick")
            try:
                await self._connect_all()
                began = clock()
                await self._load()
                seconds = clock() - began
                await self._drain()
            finally:
                ticking.cancel()
                await self._leave()
        return Report(self._tally, self._plan.devices, seconds, sum(device.kept for device in self.devices))

    async def _connect_all(self) -> None:
        loop = asyncio.get_running_loop()
        broker = self._plan.broker
        try:
            found = await loop.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
        except OSError as err:
            raise BrokerUnavailable(f"the broker's host {broker.host!r} is not known: {err}") from err
        self._address = str(found[0][4][0])
        await self._open(self.devices[0])
        began = loop.time()
        for number, device in enumerate(self.devices[1:], start=1):
            await asyncio.sleep(began + number / self._plan.load.ramp - loop.time())
            self._redial(device, first_s=0.0)
        while self._dialling and not self._stopped.is_set():  # noqa: ASYNC110  # a run lasts seconds, nobody waits for 0.1
            await asyncio.sleep(_POLL_S)

    async def _load(self) -> None:
        """Samples and churn, until the time is over or somebody stops it."""
        jobs = [asyncio.create_task(self._arrive(), name="fleet-arrivals")]
        if self._plan.faults.churn:
            jobs.append(asyncio.create_task(self._churn(), name="fleet-churn"))
        ended = asyncio.create_task(self._stopped.wait(), name="fleet-stopped")
        done, _ = await asyncio.wait(
            [*jobs, ended], timeout=self._plan.load.duration_s, return_when=asyncio.FIRST_COMPLETED
        )
        for job in (*jobs, ended):
            job.cancel()
        await asyncio.gather(*jobs, ended, return_exceptions=True)
        for job in done:
            job.result()

    async def _arrive(self) -> None:
        plan, clock = self._plan, asyncio.get_running_loop().time
        began, at_s = clock(), 0.0
        while True:
            for _ in range(_AT_ONCE):
                at_s = next_arrival(
                    plan.load.pattern,
                    at_s,
                    rate=plan.load.rate * plan.devices,
                    period_s=plan.load.swing_s,
                    rng=self._rng,
                )
                if (wait := began + at_s - clock()) > 0:
                    await asyncio.sleep(wait)
                self._rng.choice(self.devices).make_sample(began + at_s)
            await asyncio.sleep(0)

    async def _churn(self) -> None:
        a_second = self._plan.faults.churn * self._plan.devices / 60.0
        while True:
            await asyncio.sleep(self._rng.expovariate(a_second))
            device = self._rng.choice(self.devices)
            if device.link is None or not device.online:
                continue
            if self._rng.random() < 0.5:
                device.leave()
            else:
                device.link.cut("churn")

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._plan.keeping.drain_s
        # Seconds at the end of a run: an event in every device would cost more than looking.
        while loop.time() < until and not self._ending and any(d.kept for d in self.devices):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def _leave(self) -> None:
        self._ending = True
        for task in self._dialling:
            task.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)
        for device in self.devices:
            device.leave()
        for _ in range(round(2.0 / _POLL_S)):
            if not any(device.online for device in self.devices):
                break
            await asyncio.sleep(_POLL_S)

    async def _tick(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            await asyncio.sleep(_TICK_S)
            for device in self.devices:
                device.look(clock())
            self._show(self._tally, sum(device.online for device in self.devices), clock() - began)

    def _lost(self, device: Device, why: str) -> None:
        if not self._ending:
            log.debug("%s: %s", device.name, why)
            self._redial(device, first_s=self._plan.broker.reconnect_first_s)

    def _redial(self, device: Device, *, first_s: float) -> None:
        task = asyncio.create_task(self._keep_dialling(device, first_s), name=f"dial-{device.name}")
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    async def _keep_dialling(self, device: Device, first_s: float) -> None:
        broker = self._plan.broker
        await asyncio.sleep(full_jitter(first_s, self._rng))
        for bound_s in exponential(broker.reconnect_first_s, broker.reconnect_cap_s):
            try:
                await self._open(device)
            except BrokerUnavailable as err:
                log.debug("%s: %s", device.name, err)
            else:
                return
            await asyncio.sleep(full_jitter(bound_s, self._rng))

    async def _open(self, device: Device) -> None:
        """Connect one device.

        Raises:
            BrokerUnavailable: nobody is there, or we were refused.
        """
        loop, broker = asyncio.get_running_loop(), self._plan.broker
        name = broker.host if self._tls else None
        async with self._dials:
            opened = device.opening = loop.create_future()
            try:
                async with asyncio.timeout(_OPEN_TIMEOUT_S):
                    await loop.create_connection(
                        device.dial, self._address, broker.port, ssl=self._tls, server_hostname=name
                    )
                    await opened
            except (OSError, TimeoutError) as err:
                device.give_up()
                raise BrokerUnavailable(f"no MQTT broker answers at {broker.address}: {err}") from err
            finally:
                device.opening = None


def raise_file_limit(needed: int) -> None:
    """Let this process have so many open files.

    Raises:
        SettingsError: the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SettingsError(
            f"{needed - _SPARE_FILES:,} devices need {needed:,} open files and this system allows {hard:,}: "
            f"simulate fewer, or raise it (ulimit -Hn, or LimitNOFILE= of a service)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _tls(plan: Plan) -> ssl.SSLContext | None:
    broker = plan.broker
    if broker.ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(broker.ca_file))
        if broker.cert_file is not None:
            context.load_cert_chain(broker.cert_file, broker.key_file)
    except OSError as err:
        raise SettingsError(f"the broker's certificates cannot be used: {err}") from err
    return context
