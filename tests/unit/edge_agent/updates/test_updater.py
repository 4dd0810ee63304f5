"""The catalogue: an error, and a kill, in every state of an update, each with the chain of states and the report."""

from collections.abc import Awaitable, Callable
from random import Random

import pytest

from edge_agent.errors import SelfTestFailed
from edge_agent.execution.engine import Engine
from edge_agent.ledger import Ledger
from edge_agent.request import Request
from edge_agent.settings import TaskSettings, UpdateSettings
from edge_agent.spool.settings import SpoolSettings
from edge_agent.spool.spool import Spool
from edge_agent.updates import selftest
from edge_agent.updates.lifecycle import MAX_STARTS, State
from edge_agent.updates.record import Records
from edge_agent.updates.slots import Slots
from edge_agent.updates.updater import Surroundings, Updater
from edge_agent.uplink.outbox import Outbox
from shared import bundle
from shared.messages import BundleReference, UpdateFailure, UpdateOutcome
from tests.sim import bundles
from tests.sim.assembly import assemble
from tests.sim.bundles import sample
from tests.sim.disk import fill, small_disk
from tests.sim.fetcher import SimulatedFetcher
from tests.unit.edge_agent.conftest import ListSink

URL = "http://files/{}.bundle"

HAPPY = ["verifying", "downloading", "staging", "activating", "committing", "reporting", "idle"]


class Killed(BaseException):
    """The process is gone: nothing of ours may catch this."""


class RecordsSpy(Records):
    """Real records that remember the chain of states, and kill the process when told."""

    def __init__(self, folder, device):
        super().__init__(folder)
        self._device = device

    def save(self, record):
        super().save(record)
        self._device.chain.append(record.state)
        if self._device.kill_after_saving == record.state:
            self._device.kill_after_saving = None
            raise Killed


async def check_here(folder, *, timeout_s):
    """The self-test without its child, which takes a second to start; test_selftest.py has the child."""
    return selftest.check(folder)


class Device:
    """Everything an update touches, on a folder that outlives restarts."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.fetcher = SimulatedFetcher()
        self.self_test = check_here
        self.settings = UpdateSettings(download_tries=1, self_test_timeout_s=20.0)
        self.factory = folder / "factory.bundle"
        bundles.make(self.factory, version="factory")
        self.chain: list[str] = []
        self.kill_after_saving: str | None = None
        self.changes = 0
        self.spools: list[Spool] = []
        self.start()

    def start(self):
        """A start, or a restart: only what is on the disk is left."""
        task = self.folder / "tasks" / "digits"
        self.slots = Slots(task)
        self.outbox = Outbox(self.folder / "outbox")
        ledger = Ledger(self.folder / "ledger.json")
        self.spools.append(Spool(self.folder / "spool", SpoolSettings()))
        self.pipeline = assemble(
            TaskSettings(bundle=self.factory, audit_fraction=0.0),
            self.slots.open(self.factory),
            spool=self.spools[-1],
            ledger=ledger,
            sink=ListSink(),
        ).pipeline
        self.ledger = ledger
        around = Surroundings(self.outbox, ledger, self.fetcher, Random(1), self.changed, self.self_test)
        self.updater = Updater(self.pipeline, self.slots, task, settings=self.settings, around=around)
        self.updater._records = RecordsSpy(task, self)

    def changed(self):
        self.changes += 1

    def offer_of(self, version, *, tell=None, **options):
        """Make a bundle, serve it and describe it; `tell` changes what the cloud says of it."""
        file = self.folder / f"{version}.made"
        info = bundles.make(file, version=version, **options)
        self.fetcher.files[URL.format(version)] = file.read_bytes()
        file.unlink()
        truth = {
            "version": version,
            "url": URL.format(version),
            "sha256": info.sha256,
            "size_bytes": info.size_bytes,
        }
        return BundleReference(**{**truth, **(tell or {})})

    @property
    def running(self):
        """What answers now, by its own word and by its answer to a sure 3."""
        outcome = self.pipeline.infer(Request(sample(3)))
        return outcome.bundle_version, outcome.label

    def reports(self):
        return [(each.version, each.from_version, each.outcome, each.failure) for each in self.outbox.waiting()]

    async def dies(self, doing: Callable[[], Awaitable[None]]):
        with pytest.raises(Killed):
            await doing()
        self.chain.append("killed")
        self.start()

    def leftovers(self):
        return sorted(file.name for file in (self.folder / "tasks" / "digits").glob("*.download"))


@pytest.fixture
def device(tmp_path):
    device = Device(tmp_path / "device")
    yield device
    for spool in device.spools:
        spool.close()


ACTIVATED = ("v2", "factory", UpdateOutcome.ACTIVATED, UpdateFailure.NONE)


def failed(failure, version="v2"):
    return (version, "factory", UpdateOutcome.FAILED, failure)


async def test_update_goes_through_its_states_and_reports(device):
    reference = device.offer_of("v2", shift=1)
    await device.updater.offer(reference, 1)
    assert device.chain == HAPPY
    assert device.running == ("v2", "2")
    assert device.reports() == [ACTIVATED]
    (report,) = device.outbox.waiting()
    assert (report.bundle_sha256, report.message) == (reference.sha256, "")
    assert device.pipeline.engine.sha256 == reference.sha256
    assert device.slots.pointer().previous.version == "factory"
    assert device.leftovers() == []
    assert device.ledger.bytes().updates == reference.size_bytes
    assert device.changes >= 2


async def test_update_survives_a_restart(device):
    await device.updater.offer(device.offer_of("v2", shift=1), 1)
    device.start()
    assert device.running == ("v2", "2")


async def test_update_to_what_runs_already_does_nothing(device):
    reference = device.offer_of("v2", shift=1)
    await device.updater.offer(reference, 1)
    device.chain.clear()
    await device.updater.offer(reference, 2)
    device.start()
    await device.updater.resume()
    await device.updater.offer(reference, 3)
    assert device.chain == []
    assert len(device.reports()) == 1


async def test_updates_alternate_between_the_slots(device):
    for number in range(4):
        await device.updater.offer(device.offer_of(f"v{number}", shift=number), number)
        assert device.running == (f"v{number}", str(3 - number))
    assert len(device.reports()) == 4


# --- Error_in_X -------------------------------------------------------------------------------------------------------


async def refused(device, chain, failure, said, reference):
    await device.updater.offer(reference, 1)
    assert device.chain == chain
    assert device.running == ("factory", "3")
    assert device.reports() == [failed(failure)]
    (report,) = device.outbox.waiting()
    assert said in report.message
    assert all((device.folder / "tasks/digits" / name).stat().st_size == 0 for name in device.leftovers())
    device.start()
    await device.updater.resume()
    assert device.running == ("factory", "3")
    assert device.chain == chain


async def test_error_in_verifying(device):
    reference = device.offer_of("v2", tell={"size_bytes": device.settings.max_bytes + 1})
    chain = ["verifying", "reporting", "idle"]
    await refused(device, chain, UpdateFailure.REFUSED, "[updates] max_bytes", reference)
    assert device.fetcher.requests == []


async def test_error_in_downloading_server_refuses(device):
    device.fetcher.refusals = 100
    chain = ["verifying", "downloading", "reporting", "idle"]
    await refused(device, chain, UpdateFailure.DOWNLOAD, "503", device.offer_of("v2"))


async def test_error_in_downloading_wrong_hash(device):
    chain = ["verifying", "downloading", "reporting", "idle"]
    reference = device.offer_of("v2", tell={"sha256": "0" * 64})
    await refused(device, chain, UpdateFailure.MISMATCH, "sha256 differs", reference)


async def test_error_in_downloading_too_long(device):
    chain = ["verifying", "downloading", "reporting", "idle"]
    reference = device.offer_of("v2", tell={"size_bytes": 5000})
    await refused(device, chain, UpdateFailure.MISMATCH, "longer than", reference)


async def test_error_in_staging_not_a_bundle(device):
    reference = device.offer_of("v2")
    data = b"x" * reference.size_bytes
    device.fetcher.files[reference.url] = data
    reference = reference.model_copy(update={"sha256": bundle.sha256(data)})
    chain = ["verifying", "downloading", "staging", "reporting", "idle"]
    await refused(device, chain, UpdateFailure.SELF_TEST, "not a bundle", reference)


async def test_error_in_staging_model_does_not_load(device):
    chain = ["verifying", "downloading", "staging", "reporting", "idle"]
    reference = device.offer_of("v2", model=b"nonsense")
    await refused(device, chain, UpdateFailure.SELF_TEST, "does not load", reference)


async def test_error_in_staging_wrong_golden_samples(device):
    chain = ["verifying", "downloading", "staging", "reporting", "idle"]
    reference = device.offer_of("v2", wrong_golden=True)
    await refused(device, chain, UpdateFailure.SELF_TEST, "golden samples differ", reference)


async def test_error_in_staging_model_never_answers(device):
    device.settings = UpdateSettings(download_tries=1, self_test_timeout_s=2.0)
    device.self_test = selftest.check_in_child
    device.start()
    chain = ["verifying", "downloading", "staging", "reporting", "idle"]
    reference = device.offer_of("v2", model=bundles.endless_model())
    await refused(device, chain, UpdateFailure.SELF_TEST, "took longer than 2 s", reference)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": tuple("abcdefghij")}, "the bundle's labels"),
        ({"shape": (8, 4), "labels": bundles.LABELS}, "the bundle's input"),
        ({"dtype": "float32"}, "the bundle's input"),
        ({"task": "letters"}, "the bundle's task"),
    ],
)
async def test_error_in_activating_bundle_is_for_something_else(device, options, said):
    chain = ["verifying", "downloading", "staging", "activating", "rolling_back", "reporting", "idle"]
    await refused(device, chain, UpdateFailure.REFUSED, said, device.offer_of("v2", **options))


@pytest.mark.parametrize(
    ("leave", "chain"),
    [
        (20_000, ["verifying", "downloading", "reporting", "idle"]),
        (50_000, ["verifying", "downloading", "staging", "reporting", "idle"]),
    ],
)
async def test_error_full_disk(tmp_path, leave, chain):
    with small_disk(tmp_path / "disk", kilobytes=2048) as disk:
        device = Device(disk / "device")
        reference = device.offer_of("v2", shift=1, padding=30_000)
        ballast = fill(disk, leave=leave)
        await device.updater.offer(reference, 1)
        assert device.chain == chain
        assert device.reports() == [failed(UpdateFailure.STORAGE)]
        assert device.running == ("factory", "3")
        assert device.leftovers() == []
        device.start()
        assert device.running == ("factory", "3")
        ballast.unlink()
        await device.updater.offer(reference, 2)
        assert device.running == ("v2", "2")
        for spool in device.spools:
            spool.close()


async def test_error_no_space_even_for_the_record_leaves_the_old_model_and_a_later_offer_works(tmp_path, caplog):
    with small_disk(tmp_path / "disk", kilobytes=1024) as disk:
        device = Device(disk / "device")
        reference = device.offer_of("v2", shift=1)
        ballast = fill(disk)
        await device.updater.offer(reference, 1)
        assert "its state cannot be saved" in caplog.text
        assert device.running == ("factory", "3")
        ballast.unlink()
        await device.updater.offer(reference, 1)
        assert device.running == ("v2", "2")
        for spool in device.spools:
            spool.close()


async def test_failed_bundle_is_not_tried_again_until_the_wish_is_renewed(device):
    async def fails(_folder, *, timeout_s):
        raise SelfTestFailed(f"not within {timeout_s} s")

    device.self_test = fails
    device.start()
    reference = device.offer_of("v2", shift=1)
    await device.updater.offer(reference, 5)
    assert device.reports() == [failed(UpdateFailure.SELF_TEST)]
    device.chain.clear()
    await device.updater.offer(reference, 5)
    device.self_test = check_here
    device.start()
    await device.updater.offer(reference, 5)
    assert device.chain == []
    await device.updater.offer(reference, 6)
    assert device.running == ("v2", "2")


async def test_failed_download_goes_on_from_its_bytes_at_the_next_offer(device):
    reference = device.offer_of("v2", shift=1)
    device.fetcher.cut_after = [3000]
    await device.updater.offer(reference, 5)
    assert device.reports() == [failed(UpdateFailure.DOWNLOAD)]
    await device.updater.offer(reference, 5)
    assert [offset for _, offset in device.fetcher.requests] == [0, 3000]
    assert device.running == ("v2", "2")
    assert device.leftovers() == []


async def test_fault_of_our_own_ends_the_update_with_a_report_and_the_old_model_runs(device):
    async def fails(_folder, *, timeout_s):
        raise ZeroDivisionError(f"nobody foresaw this within {timeout_s} s")

    device.self_test = fails
    device.start()
    await device.updater.offer(device.offer_of("v2", shift=1), 1)
    assert device.chain == ["verifying", "downloading", "staging", "rolling_back", "reporting", "idle"]
    assert device.reports() == [failed(UpdateFailure.INTERNAL)]
    assert device.running == ("factory", "3")
    assert device.leftovers() == []


async def test_failed_download_is_tried_again_when_the_same_wish_comes_again(device):
    device.fetcher.refusals = 1
    reference = device.offer_of("v2", shift=1)
    await device.updater.offer(reference, 5)
    assert device.reports() == [failed(UpdateFailure.DOWNLOAD)]
    await device.updater.offer(reference, 5)
    assert device.running == ("v2", "2")
    assert device.reports() == [failed(UpdateFailure.DOWNLOAD), ACTIVATED]


# --- Killed_in_X ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", HAPPY)
async def test_killed_in_a_state_goes_on_and_reports_once(device, state):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = state
    await device.dies(lambda: device.updater.offer(reference, 1))
    before = device.running
    assert before == (("v2", "2") if state in ("committing", "reporting", "idle") else ("factory", "3"))
    await device.updater.resume()
    where = HAPPY.index(state)
    tail = HAPPY[where:] if state != "idle" else []
    assert device.chain == [*HAPPY[: where + 1], "killed", *tail]
    assert device.running == ("v2", "2")
    assert device.reports() == [ACTIVATED]
    assert device.leftovers() == []
    device.chain.clear()
    await device.updater.offer(reference, 1)
    assert device.chain == []


async def test_killed_in_downloading_goes_on_from_the_bytes_on_disk(device):
    reference = device.offer_of("v2", shift=1)
    chunks = []

    def kill():
        chunks.append(1)
        if len(chunks) == 5:
            raise Killed

    device.fetcher.before_chunk = kill
    await device.dies(lambda: device.updater.offer(reference, 1))
    await device.updater.resume()
    assert [offset for _, offset in device.fetcher.requests] == [0, 4000]
    assert device.running == ("v2", "2")
    assert device.ledger.bytes().updates <= reference.size_bytes


async def test_killed_between_the_pointer_and_the_next_state_commits_what_is_active(device):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = State.ACTIVATING
    await device.dies(lambda: device.updater.offer(reference, 1))
    device.slots.activate(device.slots.inactive(), "v2", reference.sha256)
    device.start()
    assert device.running == ("v2", "2")
    await device.updater.resume()
    assert device.running == ("v2", "2")
    assert device.reports() == [ACTIVATED]


async def test_killed_after_the_pointer_with_a_slot_that_does_not_load_reports_the_failure(device):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = State.COMMITTING
    await device.dies(lambda: device.updater.offer(reference, 1))
    (device.slots.path(device.slots.pointer().slot) / "model.onnx").write_bytes(b"worn flash")
    device.start()
    assert device.running == ("factory", "3")
    await device.updater.resume()
    assert device.running == ("factory", "3")
    assert [(version, outcome) for version, _, outcome, _ in device.reports()] == [("v2", UpdateOutcome.FAILED)]


async def test_killed_in_reporting_keeps_the_reports_id(device):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = State.IDLE
    await device.dies(lambda: device.updater.offer(reference, 1))
    (first,) = device.outbox.waiting()
    record = (device.folder / "tasks/digits/update.json").read_text().replace('"idle"', '"reporting"')
    (device.folder / "tasks/digits/update.json").write_text(record)
    device.start()
    await device.updater.resume()
    assert [each.report_id for each in device.outbox.waiting()] == [first.report_id]


@pytest.mark.parametrize("state", ["verifying", "downloading", "staging", "activating"])
async def test_killed_too_often_in_a_state_gives_the_update_up(device, state):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = state
    await device.dies(lambda: device.updater.offer(reference, 1))
    for _ in range(MAX_STARTS):
        device.kill_after_saving = state
        await device.dies(device.updater.resume)
    device.chain.clear()
    await device.updater.resume()
    assert device.chain == ["rolling_back", "reporting", "idle"]
    assert device.running == ("factory", "3")
    assert device.reports() == [failed(UpdateFailure.INTERNAL)]
    (report,) = device.outbox.waiting()
    assert state in report.message
    device.chain.clear()
    await device.updater.offer(reference, 1)
    assert device.chain == []


async def test_killed_in_rolling_back_goes_on_rolling_back(device):
    reference = device.offer_of("v2", labels=tuple("abcdefghij"))
    device.kill_after_saving = State.ROLLING_BACK
    await device.dies(lambda: device.updater.offer(reference, 1))
    await device.updater.resume()
    assert device.chain[-3:] == ["rolling_back", "reporting", "idle"]
    assert device.reports() == [failed(UpdateFailure.REFUSED)]


def edit_state(device, state):
    file = device.folder / "tasks/digits/update.json"
    text = file.read_text()
    for each in State:
        text = text.replace(f'"state": "{each.value}"', f'"state": "{state}"')
    file.write_text(text)


async def test_unknown_state_after_the_swap_rolls_back_to_the_model_before(device):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = State.COMMITTING
    await device.dies(lambda: device.updater.offer(reference, 1))
    edit_state(device, "probation")
    device.start()
    assert device.running == ("v2", "2")
    await device.updater.resume()
    assert device.running == ("factory", "3")
    assert device.slots.pointer().version == "factory"
    assert device.reports() == [failed(UpdateFailure.INTERNAL)]
    device.start()
    assert device.running == ("factory", "3")


async def test_rolling_back_to_a_model_that_does_not_load_keeps_what_runs(device):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = State.COMMITTING
    await device.dies(lambda: device.updater.offer(reference, 1))
    edit_state(device, "probation")
    (device.slots.path(device.slots.pointer().previous.slot) / "model.onnx").write_bytes(b"worn flash")
    device.start()
    await device.updater.resume()
    assert device.running == ("v2", "2")
    device.start()
    assert device.running == ("v2", "2")


async def test_record_that_cannot_be_read_leaves_the_active_model(device):
    reference = device.offer_of("v2", shift=1)
    device.kill_after_saving = State.STAGING
    await device.dies(lambda: device.updater.offer(reference, 1))
    (device.folder / "tasks/digits/update.json").write_text("{")
    device.start()
    await device.updater.resume()
    assert device.running == ("factory", "3")
    await device.updater.offer(reference, 1)
    assert device.running == ("v2", "2")


async def test_download_of_another_bundle_is_cleared_away(device):
    (device.folder / "tasks/digits/0123456789abcdef.download").write_bytes(b"old")
    await device.updater.offer(device.offer_of("v2"), 1)
    assert device.leftovers() == []


async def test_engine_is_ready_before_it_is_swapped_in(device):
    await device.updater.offer(device.offer_of("v2", shift=1), 1)
    assert isinstance(device.pipeline.engine, Engine)
    assert device.pipeline.engine.run(sample(3)).argmax() == 2
