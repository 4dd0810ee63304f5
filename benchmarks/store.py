"""What one sample costs the store: `add` and `answer` in batches, on SQLite and on PostgreSQL.

    python benchmarks/store.py                      # SQLite, payloads in a folder
    python benchmarks/store.py --postgres           # and a private PostgreSQL, which it starts and ends

`benchmarks/cloud.py` calls `cost_of_store` for its table.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cloud_service.storage.blobs import ObjectBlobs
from cloud_service.storage.database import open_database
from cloud_service.storage.samples import Answer, NewSample, SampleStore
from shared.ids import new_id
from shared.messages import Reason, SampleHeader


@dataclass(frozen=True, slots=True)
class StoreCost:
    """Per sample, over `add`, `known` and `answer`.

    Attributes:
        cpu_us: this process's CPU time, all threads; a database server's own is not in it.
        wall_us: time, one batch after the other; its inverse is what one connection can take.
    """

    database: str
    batch: int
    payload_bytes: int
    cpu_us: float
    wall_us: float
    add_cpu_us: float
    answer_cpu_us: float


async def cost_of_store(
    database_url: str, blobs_url: str, *, batch: int = 64, batches: int = 20, payload_bytes: int = 20_000
) -> StoreCost:
    """Add and answer `batches` batches of samples whose payloads all differ; the first two batches do not count.

    Args:
        database_url, blobs_url: as `[database] url` and `[blobs] url` take them; both are filled.
    """
    rng = np.random.default_rng(0)
    cpu, wall = {"add": 0.0, "answer": 0.0}, 0.0
    async with open_database(database_url) as database:
        store = SampleStore(database, ObjectBlobs(blobs_url), near_duplicates={"digits": 0.0})
        for number in range(batches + 2):
            samples = [_sample(rng, payload_bytes) for _ in range(batch)]
            answers = [(sample.header.sample_id, _answer(rng)) for sample in samples]
            started, began = time.perf_counter(), time.process_time()
            await store.known([sample.header.sample_id for sample in samples])
            await store.add(samples)
            added = time.process_time()
            await store.answer(answers)
            if number >= 2:
                wall += time.perf_counter() - started
                cpu["add"] += added - began
                cpu["answer"] += time.process_time() - added
    per = 1e6 / (batch * batches)
    total = cpu["add"] + cpu["answer"]
    name = database_url.partition(":")[0]
    return StoreCost(name, batch, payload_bytes, total * per, wall * per, cpu["add"] * per, cpu["answer"] * per)


def _sample(rng: np.random.Generator, size: int) -> NewSample:
    header = SampleHeader(
        sample_id=new_id(),
        task="digits",
        seq=1,
        bundle_version="v1",
        prediction=1,
        hardness=0.5,
        reason=Reason.HARD,
    )
    return NewSample(f"cam-{rng.integers(1000)}", header, rng.integers(0, 255, size, dtype=np.uint8))


def _answer(rng: np.random.Generator) -> Answer:
    probabilities = rng.random(10).astype(np.float32)
    return Answer(probabilities / probabilities.sum(), "t1")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="also on a private PostgreSQL")
    parser.add_argument("--batches", type=int, default=20)
    args = parser.parse_args(argv)
    print(
        f"{'database':22} {'batch':>5} {'payload':>8} {'CPU µs':>7} {'add':>6} {'answer':>6} {'wall µs':>8}  a sample"
    )
    for size in (1_000, 20_000):
        for batch in (16, 64):
            for cost in _costs(batch, size, args.batches, postgres=args.postgres):
                times = f"{cost.cpu_us:7.0f} {cost.add_cpu_us:6.0f} {cost.answer_cpu_us:6.0f} {cost.wall_us:8.0f}"
                print(f"{cost.database:22} {cost.batch:5} {cost.payload_bytes:8} {times}")


def _costs(batch: int, size: int, batches: int, *, postgres: bool) -> list[StoreCost]:
    def run(url: str, folder: Path) -> StoreCost:
        return asyncio.run(
            cost_of_store(url, f"file://{folder / 'blobs'}", batch=batch, batches=batches, payload_bytes=size)
        )

    with tempfile.TemporaryDirectory() as name:
        costs = [run(f"sqlite+aiosqlite:///{Path(name) / 'bench.db'}", Path(name) / "a")]
        if postgres:
            from tests.harness.postgres import Postgres

            with Postgres() as server:
                costs.append(run(server.create("bench"), Path(name) / "b"))
    return costs


if __name__ == "__main__":
    main()
