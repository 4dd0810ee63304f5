"""The cloud's parts over a real SQLite file, a blob store in memory, and a broker in memory."""

import asyncio

import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from cloud_service import cli
from cloud_service.api.app import build_app
from cloud_service.api.resources import Health
from cloud_service.api.routing import Domain
from cloud_service.downlink import Downlink
from cloud_service.estimates.estimator import Estimator
from cloud_service.estimates.incidents import Incidents
from cloud_service.estimates.rows import Rows
from cloud_service.estimates.settings import EstimatesSettings
from cloud_service.fleet import Fleet
from cloud_service.ingest import Parts
from cloud_service.registry.bundles import Registry
from cloud_service.rollouts.driver import Rollouts
from cloud_service.settings import HttpSettings, IngestSettings, ServedTask
from cloud_service.storage.database import open_database
from cloud_service.storage.samples import SampleStore
from cloud_service.training.job_table import JobTable
from cloud_service.training.job_work import JobParts
from cloud_service.training.jobs import Jobs
from cloud_service.training.sightings import Sightings
from tests.sim.blobs import MemoryBlobs
from tests.sim.broker import SimulatedBroker
from tests.sim.bundles import LABELS, linear_model, sample, weights
from tests.sim.clock import SimulatedClock
from tests.sim.ingest import BatchedTeacher, TeacherModel, running_ingest
from tests.sim.pipeline import COMMAND

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


@pytest.fixture
def estimator(database, fleet):
    settings = EstimatesSettings(settle_s=0.0, drift=False)
    return Estimator(Rows(database), fleet, Incidents(database), agreement_goals={"digits": 0.97}, settings=settings)


@pytest.fixture
def job_parts(database, samples, registry, rollouts, fleet, estimator):
    table = JobTable(database)
    sightings = Sightings(database, table, samples, estimator, period_s=86_400.0)
    return JobParts(table, samples, registry, rollouts, fleet, sightings)


@pytest.fixture
def jobs(job_parts, digits_task, tmp_path):
    return Jobs(job_parts, tasks={"digits": digits_task}, folder=tmp_path / "jobs", command=(*COMMAND, "pass"))


@pytest.fixture
def http():
    """What the service at `url` is told of its API; a test may be parametrized with another."""
    return HttpSettings()


@pytest.fixture
async def url(http, digits_task, fleet, registry, rollouts, samples, jobs, estimator):
    def health() -> Health:
        return Health(
            status="ok", broker="up", version="0", site="demo", uptime_s=1.0, teachers={}, counts={}, faults={}
        )

    domain = Domain(http, {"digits": digits_task}, health, fleet, registry, rollouts, samples, jobs, estimator)
    async with TestServer(build_app(domain)) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
def edgeloop(monkeypatch, capsys):
    """`await edgeloop(*arguments)` → (exit code, stdout, stderr)."""

    async def run(*arguments):
        monkeypatch.setattr("sys.argv", ["edgeloop", *map(str, arguments)])
        try:
            code = await asyncio.to_thread(cli.main)
        except SystemExit as err:
            code = err.code
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture
def model():
    return TeacherModel()


@pytest.fixture
def clock():
    return SimulatedClock(runs=False)


@pytest.fixture
def cloud(broker, downlink, fleet, rollouts, samples, digits_task, model, clock):
    """Runs an ingest on the simulated broker; settings may be replaced."""

    def run(top_k=0, **settings):
        teachers = {"digits": BatchedTeacher(model, clock)}
        parts = Parts({"digits": digits_task.terms}, teachers, samples, fleet, rollouts, downlink, {"digits": top_k})
        return running_ingest(broker, parts, clock, settings=IngestSettings(**settings))

    return run
