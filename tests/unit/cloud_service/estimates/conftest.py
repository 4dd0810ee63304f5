"""A store whose clock a test sets, on SQLite; `either_database` is PostgreSQL, too, where that is installed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from cloud_service.storage.database import open_database
from cloud_service.storage.samples import Answer, NewSample, SampleStore
from shared.messages import Reason
from tests.harness.postgres import FAST, NO_POSTGRES, Postgres, find_postgres
from tests.sim.blobs import MemoryBlobs
from tests.sim.bundles import sample
from tests.sim.device import header

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def postgres():
    """One server for all tests."""
    if find_postgres() is None:
        pytest.skip(NO_POSTGRES)
    with Postgres(settings=FAST) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def either_database(request, tmp_path):
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'either.db'}"
    else:
        url = request.getfixturevalue("postgres").create(f"estimates{abs(hash(request.node.name))}")
    async with open_database(url) as opened:
        yield opened


class Field:
    """Fills a store: `await field.upload(…)`; `now` is the store's clock."""

    def __init__(self, database):
        self.now = START
        self.store = SampleStore(database, MemoryBlobs(), now=lambda: self.now)
        self._seq = 0

    def later(self, **delta):
        """Let time pass."""
        self.now += timedelta(**delta)

    async def upload(
        self, count=1, *, audit=False, agreed=True, label=None, after_s=0.0, device="cam-1", fraction=0.05, **changes
    ):
        """Samples that are 3 to the device, 3 or 4 to the teacher (nothing: `agreed` None), `label` to people."""
        reason = Reason.AUDIT if audit else Reason.HARD
        chance = {"inclusion_probability": fraction if audit else 1.0}
        rows = []
        for _ in range(count):
            self._seq += 1
            made = header(seq=self._seq, prediction=3, reason=reason, **chance, **changes)
            rows.append(NewSample(device, made, sample(self._seq % 10)))
        await self.store.add(rows)
        arrived, self.now = self.now, self.now + timedelta(seconds=after_s)
        if agreed is not None:
            probabilities = np.full(10, 0.01, np.float32)
            probabilities[3 if agreed else 4] = 0.91
            await self.store.answer([(row.header.sample_id, Answer(probabilities, "t1")) for row in rows])
        if label is not None:
            await self.store.label([(row.header.sample_id, label) for row in rows], by="ann")
        self.now = arrived
        return rows


@pytest.fixture
def field(database):
    return Field(database)
