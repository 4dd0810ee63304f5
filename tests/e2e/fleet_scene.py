"""Two replicas of the service on one broker and one store, and a simulated fleet that writes down what it knows."""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.e2e.cloud_process import SITE, Cloud
from tests.harness import Process, Processes, wait_until
from tests.sim.bundles import sample

_START_S = 40.0
# What a killed replica had stored and not answered is taken over after this; a minute is too long for a test.
ORPHAN_AFTER_S = 3.0
_READY = "listening to the devices"


@dataclass(frozen=True)
class Fate:
    """What the devices know of their samples: hexadecimal ids."""

    made: set[str]
    answered: set[str]
    refused: set[str]

    @classmethod
    def read(cls, journal: Path) -> "Fate":
        events: dict[str, set[str]] = {"made": set(), "verdict": set(), "receipted": set(), "refused": set()}
        for line in journal.read_text().splitlines():
            event, _, sample_id = line.partition(" ")
            events[event].add(sample_id.replace("-", ""))
        return cls(events["made"], events["verdict"] | events["receipted"], events["refused"])


class Replicas:
    """Replicas `a` and `b`; `database` and `blobs`: URLs, where they are not below the service's folder."""

    def __init__(self, cloud: Cloud, other_port: int, *, database: str = "", blobs: str = "") -> None:
        self.cloud = cloud
        self.database = database or f"sqlite+aiosqlite:///{cloud.folder / 'data' / 'edgeloop.db'}"
        self.ports = {"a": cloud.http_port, "b": other_port}
        both = [f"ingest.orphan_after_s={ORPHAN_AFTER_S}"]
        both += [f"{key}.url={url}" for key, url in (("database", database), ("blobs", blobs)) if url]
        self.arguments = {
            name: [part for each in (f"ingest.instance={name}", f"http.port={port}", *both) for part in ("--set", each)]
            for name, port in self.ports.items()
        }
        self.replicas: dict[str, Process] = {}

    def start(self) -> "Replicas":
        """One after the other: the first makes the tables."""
        for name, arguments in self.arguments.items():
            process = self.cloud.processes.service(self.cloud.config, *arguments, name=f"replica-{name}")
            process.wait_for_log(_READY, timeout=_START_S)
            self.replicas[name] = process
        return self

    def kill_and_start(self, name: str) -> None:
        """SIGKILL, and at once a new one under the same name."""
        self.replicas[name].kill()
        self.replicas[name].start()

    def wait_until_up(self) -> None:
        """Until both have the broker."""
        for port in self.ports.values():
            wait_until(lambda port=port: is_up(port), timeout=_START_S, what=f"the replica on port {port} is up")

    def stored(self, fleet: str) -> list[tuple[str, bool]]:
        """The rows of one fleet's devices: the sample's hexadecimal id, and whether the teacher answered it."""
        return asyncio.run(self._rows(fleet))

    async def _rows(self, fleet: str) -> list[tuple[str, bool]]:
        engine = create_async_engine(self.database)
        query = text("SELECT id, answered_at FROM samples WHERE device LIKE :devices")
        async with engine.connect() as connection:
            rows = (await connection.execute(query, {"devices": f"{fleet}-%"})).all()
        await engine.dispose()
        return [(str(each).replace("-", ""), at is not None) for each, at in rows]

    def counts(self) -> dict[str, dict[str, int]]:
        """What each replica counted."""
        return {name: health(port)["counts"] for name, port in self.ports.items()}

    def logs(self) -> str:
        return "\n".join(process.log_text() for process in self.replicas.values())


def is_up(port: int) -> bool:
    try:
        return health(port)["broker"] == "up"
    except OSError:  # nobody listens yet
        return False


def health(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        return json.load(answer)


def rows(file: Path, *, count: int = 2_000) -> Path:
    """Samples of all labels, each different, that the teacher of `Cloud` answers."""
    rng = Random(4)
    x = np.stack([sample(n % 10) for n in range(count)])
    x.reshape(count, -1)[:, 16:60] = np.frombuffer(rng.randbytes(count * 44), np.uint8).reshape(count, 44) % 9
    np.savez(file, x=x)
    return file


class SimulatedFleet:
    """`edgeloop simulate` as a process."""

    def __init__(self, name: str, processes: Processes, broker, folder: Path, *options: str) -> None:
        self.name = name
        self.journal = folder / "journal"
        folder.mkdir(parents=True, exist_ok=True)
        data = rows(folder / "rows.npz")
        arguments = ["--broker", f"127.0.0.1:{broker.port}", "--site", SITE, "--prefix", name, "--data", str(data)]
        self.process = processes.edgeloop(
            "simulate", *arguments, "--journal", str(self.journal), "--json", *options, name="fleet"
        )

    def wait_for_samples(self, count: int) -> None:
        """Until so many were made."""

        def made() -> bool:
            return self.journal.exists() and self.journal.read_text().count("made ") >= count

        wait_until(made, timeout=30, what=f"{count} samples")

    def report(self, *, timeout: float = 60.0) -> dict:
        """Wait for its end; fails when it lost a sample."""
        code = self.process.wait(timeout=timeout)
        log = self.process.log_text()
        assert code == 0, log[-3000:]
        return json.loads(log[log.index("\n{") :])


@contextmanager
def under_load(name: str, processes: Processes, broker, folder: Path, *options: str) -> Iterator[SimulatedFleet]:
    """A fleet whose samples come meanwhile; what is done to the service is done inside."""
    fleet = SimulatedFleet(name, processes, broker, folder, *options)
    fleet.wait_for_samples(50)
    yield fleet


def check_nothing_lost(replicas: Replicas, fleet: SimulatedFleet, *, strangers: int = 0) -> Fate:
    """Every sample is in the store exactly once, answered; and at most so many that no device made."""
    fate = Fate.read(fleet.journal)
    assert fate.made
    assert fate.answered == fate.made, f"{len(fate.made - fate.answered)} samples have no answer"
    stored = [sample_id for sample_id, _ in replicas.stored(fleet.name)]
    assert len(stored) == len(set(stored))
    missing = fate.made - set(stored)
    assert not missing, f"{len(missing)} of {len(fate.made)} samples were confirmed and are not in the store"
    assert len(set(stored) - fate.made) <= strangers

    def all_answered() -> bool:
        return all(done for _, done in replicas.stored(fleet.name))

    wait_until(all_answered, timeout=20, what="every stored sample has its verdict")
    return fate
