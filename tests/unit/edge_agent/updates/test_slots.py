import shutil

import pytest

from edge_agent.errors import NoWorkingModel
from edge_agent.updates.slots import Pointer, Slot, Slots
from shared import bundle
from shared.errors import BundleError, StorageFull
from tests.sim import bundles
from tests.sim.disk import fill, small_disk


class Bench:
    def __init__(self, folder):
        self.folder = folder / "task"
        self.factory = folder / "factory.bundle"
        self.info = {"factory": bundles.make(self.factory, version="factory")}
        for name in ("v1", "v2"):
            self.info[name] = bundles.make(folder / f"{name}.bundle", version=name)

    def slots(self):
        """As after a restart."""
        return Slots(self.folder)

    def install(self, name):
        slots = self.slots()
        slot = slots.inactive()
        slots.stage(self.factory.with_name(f"{name}.bundle"))
        slots.activate(slot, name, self.info[name].sha256)

    def version(self):
        return self.slots().open(self.factory).manifest.version

    def spoil(self, slot):
        (self.folder / slot.value / "model.onnx").write_bytes(b"nonsense")


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_first_start_installs_the_factory_bundle(bench):
    slots = bench.slots()
    assert slots.pointer() is None
    engine = slots.open(bench.factory)
    assert (engine.manifest.version, engine.sha256) == ("factory", bench.info["factory"].sha256)
    assert slots.pointer() == Pointer(Slot.A, "factory", engine.sha256)


def test_later_starts_do_not_need_the_factory_bundle(bench):
    bench.version()
    bench.factory.unlink()
    assert bench.version() == "factory"


def test_activated_slot_is_opened_and_the_one_before_remembered(bench):
    bench.version()
    bench.install("v1")
    slots = bench.slots()
    engine = slots.open(bench.factory)
    assert (engine.manifest.version, engine.sha256) == ("v1", bench.info["v1"].sha256)
    pointer = slots.pointer()
    assert (pointer.slot, pointer.previous.slot, pointer.previous.version) == (Slot.B, Slot.A, "factory")
    assert slots.inactive() is Slot.A


def test_stage_never_touches_the_active_slot(bench):
    bench.version()
    for name in ("v1", "v2", "v1"):
        before = bench.slots().pointer().slot
        content = {file.name: file.read_bytes() for file in bench.slots().path(before).iterdir()}
        bench.slots().stage(bench.factory.with_name(f"{name}.bundle"))
        assert {file.name: file.read_bytes() for file in bench.slots().path(before).iterdir()} == content
        bench.install(name)
        assert bench.version() == name


def test_crash_between_staging_and_pointing_leaves_the_old_model(bench):
    bench.version()
    bench.slots().stage(bench.factory.with_name("v1.bundle"))
    assert bench.version() == "factory"


def test_crash_in_the_middle_of_staging_leaves_the_old_model(bench):
    bench.version()
    folder = bench.slots().stage(bench.factory.with_name("v1.bundle"))
    (folder / "manifest.json").unlink()
    assert bench.version() == "factory"
    bench.install("v2")
    assert bench.version() == "v2"


def test_candidate_that_was_never_proven_is_no_way_back(bench):
    bench.version()
    bench.install("v1")
    bench.slots().stage(bench.factory.with_name("v2.bundle"))
    assert bench.slots().pointer() == Pointer(Slot.B, "v1", bench.info["v1"].sha256)
    bench.spoil(Slot.B)
    assert bench.version() == "factory"


def test_crash_while_pointing_leaves_old_or_new(bench):
    bench.version()
    bench.install("v1")
    (bench.folder / ".active.json.99.tmp").write_bytes(b'{"slot": "a", "ver')
    assert bench.version() == "v1"


def test_stage_of_an_altered_bundle_is_refused(bench):
    bench.version()
    file = bench.factory.with_name("v1.bundle")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError):
        bench.slots().stage(file)
    assert bench.version() == "factory"


def test_stage_on_a_full_disk_leaves_the_old_model(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        bench = Bench(disk)
        bench.version()
        fill(disk)
        with pytest.raises(StorageFull):
            bench.slots().stage(bench.factory.with_name("v1.bundle"))
        assert bench.version() == "factory"


def test_active_slot_that_does_not_load_gives_way_to_the_one_before(bench, caplog):
    bench.version()
    bench.install("v1")
    bench.spoil(Slot.B)
    assert bench.version() == "factory"
    assert "back to factory" in caplog.text
    assert bench.slots().pointer() == Pointer(Slot.A, "factory", bench.info["factory"].sha256)


def test_active_slot_that_does_not_load_gives_way_on_a_full_disk_too(tmp_path):
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        bench = Bench(disk)
        bench.version()
        bench.install("v1")
        bench.spoil(Slot.B)
        fill(disk)
        assert bench.version() == "factory"


def test_missing_slot_gives_way_to_the_one_before(bench):
    bench.version()
    bench.install("v1")
    bench.install("v2")
    shutil.rmtree(bench.folder / "a")
    assert bench.version() == "v1"


def test_no_slot_that_loads_gives_way_to_the_factory_bundle(bench, caplog):
    bench.version()
    bench.install("v1")
    bench.install("v2")
    bench.spoil(Slot.A)
    bench.spoil(Slot.B)
    assert bench.version() == "factory"
    assert "no slot holds a working model" in caplog.text
    assert bench.slots().pointer().previous is None
    assert bench.version() == "factory"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"slot": "c", "version": "v", "sha256": "", "previous": null}'])
def test_unreadable_pointer_falls_back_to_the_factory_bundle(bench, caplog, text):
    bench.version()
    bench.install("v1")
    (bench.folder / "active.json").write_text(text)
    assert bench.slots().pointer() is None
    assert bench.version() == "factory"
    assert "cannot be read" in caplog.text


def test_unreadable_pointer_without_a_factory_bundle_still_finds_a_model(bench):
    bench.version()
    bench.install("v1")
    (bench.folder / "active.json").write_text("{")
    bench.factory.unlink()
    assert bench.version() in ("factory", "v1")


def test_nothing_that_loads_says_everything_that_was_tried(bench):
    bench.version()
    bench.install("v1")
    bench.spoil(Slot.A)
    bench.spoil(Slot.B)
    bench.factory.write_bytes(b"nonsense")
    with pytest.raises(NoWorkingModel) as raised:
        bench.version()
    text = str(raised.value)
    assert "slot a:" in text
    assert "slot b:" in text
    assert f"factory bundle {bench.factory}" in text
    assert raised.value.exit_code == 66


def test_go_back(bench):
    bench.version()
    bench.install("v1")
    assert bench.slots().go_back().version == "factory"
    assert bench.version() == "factory"
    with pytest.raises(NoWorkingModel):
        bench.slots().go_back()


def test_go_back_without_a_pointer(bench):
    with pytest.raises(NoWorkingModel):
        bench.slots().go_back()


def test_activating_the_active_slot_again_does_not_call_it_its_own_past(bench):
    bench.version()
    bench.slots().activate(Slot.A, "factory", bench.info["factory"].sha256)
    assert bench.slots().pointer().previous is None


def test_slot_holds_what_the_bundle_held(bench):
    folder = bench.slots().stage(bench.factory.with_name("v1.bundle"))
    assert bundle.check_folder(folder) == bench.info["v1"].manifest
