"""The cloud's parts over a real SQLite file, a blob store in memory, and a broker in memory."""

import numpy as np
import pytest

from cloud_service.downlink import Downlink
from cloud_service.fleet import Fleet
from cloud_service.registry.bundles import Registry
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import ServedTask
from cloud_service.storage.database import open_database
from cloud_service.storage.samples import SampleStore
from tests.sim.blobs import MemoryBlobs
from tests.sim.broker import SimulatedBroker
from tests.sim.bundles import LABELS, linear_model, sample, weights

SITE = "demo"


@pytest.fixture
async def database(tmp_path):
    async with open_database(f"sqlite+aiosqlite:///{tmp_path / 'edgeloop.db'}") as opened:
        yield opened


@pytest.fixture
def blobs():
    return MemoryBlobs()


@pytest.fixture
def samples(database, blobs):
    return SampleStore(database, blobs)


@pytest.fixture
def broker():
    return SimulatedBroker()


@pytest.fixture
def downlink():
    return Downlink(SITE)


@pytest.fixture
def fleet(database):
    return Fleet(database)


@pytest.fixture
def digits_task(tmp_path):
    """The task digits, with a teacher that reads the label off the sample."""
    (tmp_path / "teacher.onnx").write_bytes(linear_model(weights(64, 10), nan=True))
    x = np.stack([sample(label % 10) for label in range(40)])
    y = np.arange(40) % 10
    np.savez(tmp_path / "base.npz", x=x, y=y, x_eval=x, y_eval=y)
    return ServedTask(
        name="digits",
        labels=LABELS,
        input_shape=(8, 8),
        input_dtype="uint8",
        teacher=tmp_path / "teacher.onnx",
        base_data=tmp_path / "base.npz",
    )


@pytest.fixture
def registry(database, tmp_path, digits_task):
    return Registry(database, tmp_path / "bundles", tasks={"digits": digits_task})


@pytest.fixture
def rollouts(database, downlink):
    return Rollouts(database, downlink, public_url="http://cloud:8080/")
