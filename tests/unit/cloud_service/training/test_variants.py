"""A family of variants from one run, its stages one by one, and the same run twice."""

import shutil

import numpy as np
import pytest
import torch

from cloud_service.tasks.compression import Calibration, Choice, PruneSettings, QuantizeSettings, Variant, Weights
from cloud_service.tasks.learning import LearningSettings, Start
from cloud_service.tasks.task import TaskDefinition
from cloud_service.training import pipeline, variants, weights
from cloud_service.training.calibrate import Calibration as Calibrated
from cloud_service.training.choosing import QAT
from cloud_service.training.evaluate import open_runner
from cloud_service.training.progress import silent
from cloud_service.training.quantized import Quantized
from cloud_service.training.request import CANDIDATE, INCUMBENT, INCUMBENT_WEIGHTS, SAMPLES, TrainingRequest
from cloud_service.training.results import Distilled, Pruned, read_result
from shared import bundle
from shared.errors import SettingsError
from tests.sim.students import Dropping
from tests.unit.cloud_service.training.conftest import write_samples

HALF = Variant(
    name="half",
    prune=PruneSettings(macs_left=0.5, rounds=1, fine_tune_steps=30),
    quantize=QuantizeSettings(calibration=Calibration.MINMAX),
)
INT8 = Variant(quantize=QuantizeSettings(calibration=Calibration.MINMAX))
FAMILY = (INT8, HALF, Variant(name="fp16", weights=Weights.FP16))
MODELS = ("model.onnx", "model.half.onnx", "model.fp16.onnx")
BUNDLES = ("candidate.bundle", "candidate.half.bundle", "candidate.fp16.bundle")


@pytest.fixture(scope="module")
def request_(task) -> TrainingRequest:
    return TrainingRequest(task=task.model_copy(update={"compression": FAMILY}), version="rows-7")


def folder_for(parent, name="run"):
    folder = parent / name
    folder.mkdir()
    write_samples(folder / SAMPLES, count=90)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, request_):
    """The folder of a whole run with three variants, and its report; not to be written to."""
    folder = folder_for(tmp_path_factory.mktemp("family"))
    return folder, pipeline.run(request_, folder, silent)


def test_stage_that_is_refused_forgets_nothing(tmp_path, made, request_):
    folder = tmp_path / "run"
    shutil.copytree(made[0], folder)
    (folder / "evaluate.json").unlink()
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(SettingsError, match="evaluate"):
        pipeline.run_stage(request_, folder, silent, stage="gate")
    assert sorted(file.name for file in folder.iterdir()) == before


def test_variants_that_are_pruned_alike_share_the_pruned_students(tmp_path, request_):
    same = Variant(name="half-fp16", prune=HALF.prune, weights=Weights.FP16)
    both = request_.model_copy(update={"task": request_.task.model_copy(update={"compression": (HALF, same)})})
    folder = folder_for(tmp_path)
    pipeline.run(both, folder, silent)
    assert [file.name for file in folder.glob("pruned*.pt")] == ["pruned.pt"]
    results = [read_result(folder, stage, Pruned) for stage in ("prune", "prune.half-fp16")]
    assert results[0] == results[1]
    x = np.load(folder / SAMPLES)["x"]
    floats = [open_runner(folder / name)(x) for name in ("float.onnx", "float.half-fp16.onnx")]
    assert np.array_equal(*floats)


def test_training_with_quantization_has_a_rate_of_its_own(tmp_path, made, request_):
    def quantized(name, **learning):
        folder = tmp_path / name
        shutil.copytree(made[0], folder)
        (folder / "lineage.json").unlink()
        settings = INT8.quantize.model_copy(update={"qat": Choice.ALWAYS, "qat_steps": 10, "mixed_precision": False})
        training = request_.task.training.model_copy(update={"learning": LearningSettings(**learning)})
        changed = {"compression": (INT8.model_copy(update={"quantize": settings}),), "training": training}
        again = request_.model_copy(update={"task": request_.task.model_copy(update=changed)})
        pipeline.run_stage(again, folder, silent, stage="quantize")
        assert read_result(folder, "quantize", Quantized).how.method == QAT
        return (folder / "model.onnx").read_bytes()

    plain = quantized("plain")
    assert quantized("pruning", fine_tune_rate=1.0) == plain
    assert quantized("wild", quantized_rate=1.0) != plain


def test_each_variant_has_a_bundle_that_says_whose_variant_it_is(made):
    folder, report = made
    assert [variant.name for variant in report.variants] == ["half", "fp16"]
    manifests = [bundle.inspect(folder / file).manifest for file in BUNDLES]
    assert [manifest.version for manifest in manifests] == ["rows-7", "rows-7-half", "rows-7-fp16"]
    assert [manifest.lineage["variant"]["of"] for manifest in manifests] == ["rows-7"] * 3
    assert [manifest.lineage["variant"]["name"] for manifest in manifests] == ["int8", "half", "fp16"]
    assert manifests[1].lineage["variant"]["prune"]["macs_left"] == 0.5
    for variant, file in zip(report.variants, BUNDLES[1:], strict=True):
        assert variant.bundle == file
        assert variant.bundle_sha256 == bundle.sha256_file(folder / file)


def test_any_variant_may_stand_in_for_any_other_on_a_device(made):
    # What the device asks of its small bundle: the same task, labels and input.
    folder, _ = made
    own, *others = (bundle.inspect(folder / file).manifest for file in BUNDLES)
    assert all((other.task, other.labels, other.input) == (own.task, own.labels, own.input) for other in others)


def test_pruned_variant_is_smaller_and_has_thresholds_of_its_own(made):
    folder, report = made
    half, fp16 = report.variants
    assert half.macs_left <= 0.5
    assert half.after.model_bytes < 0.7 * report.after.model_bytes
    assert half.after.base_accuracy > 0.9
    assert fp16.macs_left is None
    with np.load(folder / "scores.npz") as whole, np.load(folder / "pruned.half.npz") as pruned:
        assert not np.allclose(whole["logits"], pruned["logits"])
    assert not (folder / "scores.fp16.npz").exists()


def test_pruned_folds_have_not_seen_their_own_uploads_in_fine_tuning(made, request_):
    folder, _ = made
    pruned = weights.load(folder / "pruned.half.pt", request_.task)
    assert len(pruned) == 4  # three folds and the final one
    assert all(student.hidden.out_features < 72 for student in pruned)
    with np.load(folder / SAMPLES) as samples, np.load(folder / "pruned.half.npz") as scores, torch.no_grad():
        this = variants.family(pipeline.prepare(request_, folder, silent))[1].run
        for fold in range(3):
            mine = this.folds == fold
            expected = pruned[fold](torch.from_numpy(samples["x"][mine]))[0].numpy()
            assert np.allclose(scores["logits"][mine], expected, atol=1e-6)


def test_other_seed_gives_another_model(made, request_, tmp_path):
    folder, _ = made
    training = request_.task.training.model_copy(update={"seed": 1})
    changed = TrainingRequest(task=request_.task.model_copy(update={"training": training, "compression": FAMILY[:1]}))
    again = folder_for(tmp_path)
    pipeline.run(changed, again, silent)
    assert (again / "model.onnx").read_bytes() != (folder / "model.onnx").read_bytes()


def test_same_run_again_and_stage_by_stage_is_the_same_to_the_last_bit(made, request_, tmp_path):
    folder, report = made
    alone = folder_for(tmp_path)
    for stage in pipeline.STAGES:
        pipeline.run_stage(request_, alone, silent, stage=stage)
    for file in (*MODELS, *BUNDLES):
        assert (alone / file).read_bytes() == (folder / file).read_bytes(), file
    worked = []
    again = pipeline.run(request_, alone, worked.append)
    assert worked == []  # nothing was left to do
    assert again.bundle_sha256 == report.bundle_sha256


def test_training_in_int8_alone_draws_the_chance_that_it_draws_in_a_whole_run(task, tmp_path):
    torch.manual_seed(1)
    torch.save(Dropping(task).state_dict(), tmp_path / "teacher.pt")
    name = "tests.sim.students:Dropping"
    said = task.model_dump() | {"student": name, "teacher": {"model": name, "weights": tmp_path / "teacher.pt"}}
    quantize = QuantizeSettings(calibration=Calibration.MINMAX, qat=Choice.ALWAYS, qat_steps=30)
    request = TrainingRequest(task=TaskDefinition.model_validate(said | {"compression": (Variant(quantize=quantize),)}))
    folder = folder_for(tmp_path)
    pipeline.run(request, folder, silent)
    model = (folder / "model.onnx").read_bytes()
    pipeline.run_stage(request, folder, silent, stage="quantize")
    assert (folder / "model.onnx").read_bytes() == model


def test_variant_that_is_not_pruned_has_the_whole_students_thresholds_beside_one_that_is(request_, tmp_path):
    def calibrated(name, first):
        family = (first, Variant(name="fp16", weights=Weights.FP16))
        folder = folder_for(tmp_path, name)
        pipeline.run(TrainingRequest(task=request_.task.model_copy(update={"compression": family})), folder, silent)
        return [read_result(folder, stage, Calibrated) for stage in ("calibrate", "calibrate.fp16")]

    pruned, whole = calibrated("pruned", HALF), calibrated("whole", INT8)
    assert pruned[1] == whole[1]
    assert pruned[0] != whole[0]


def test_stage_that_is_done_again_forgets_what_came_after_it(made, request_, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0], folder)
    pipeline.run_stage(request_, folder, silent, stage="calibrate")
    there = {name for name in ("distill", *pipeline.OF_A_VARIANT) if (folder / f"{name}.half.json").exists()}
    assert there == {"prune", "quantize", "calibrate"}
    assert (folder / "distill.json").exists()


def test_stage_before_its_turn_says_which_is_missing(request_, tmp_path):
    folder = folder_for(tmp_path)
    with pytest.raises(SettingsError, match="no result of the stage distill yet"):
        pipeline.run_stage(request_, folder, silent, stage="quantize")
    pipeline.run_stage(request_, folder, silent, stage="distill")
    with pytest.raises(SettingsError, match="no result of the stage quantize yet"):
        pipeline.run_stage(request_, folder, silent, stage="gate")


def test_pruning_where_no_variant_is_pruned_says_what_to_add(task, tmp_path):
    folder = folder_for(tmp_path)
    with pytest.raises(SettingsError, match="no variant of task rows is pruned"):
        pipeline.run_stage(TrainingRequest(task=task), folder, silent, stage="prune")


def test_folder_of_a_run_with_other_variants_is_refused(made, request_, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made[0], folder)
    other = TrainingRequest(task=request_.task.model_copy(update={"compression": FAMILY[:2]}), version="rows-7")
    with pytest.raises(SettingsError, match="use an empty folder"):
        pipeline.run(other, folder, silent)


def test_variants_need_names_of_their_own(task):
    with pytest.raises(ValueError, match="a name of its own, not int8, int8"):
        TaskDefinition.model_validate(task.model_dump() | {"compression": [{}, {"weights": "fp32"}]})


def test_version_of_a_variant_is_never_too_long():
    assert variants.version_of("v" * 64, HALF) == "v" * 59 + "-half"
    assert variants.version_of("v" * 60 + "-7-2", HALF) == "v" * 55 + "-7-2-half"


def test_student_starts_from_the_incumbents_weights(made, task, tmp_path):
    learning = LearningSettings(start=Start.INCUMBENT)
    training = task.training.model_copy(update={"learning": learning, "steps": 3, "learning_rate": 1e-6, "folds": 0})
    request = TrainingRequest(task=task.model_copy(update={"training": training}))
    folder = folder_for(tmp_path)
    shutil.copy(made[0] / CANDIDATE, folder / INCUMBENT)
    shutil.copy(made[0] / "student.pt", folder / INCUMBENT_WEIGHTS)
    report = pipeline.run(request, folder, silent)
    assert read_result(folder, "distill", Distilled).from_incumbent
    assert report.lineage["started_from_sha256"] == bundle.sha256_file(made[0] / "student.pt")
    with np.load(task.base_data) as base:
        old, new = (open_runner(parent / "float.onnx")(base["x_eval"]) for parent in (made[0], folder))
    assert np.allclose(old, new, atol=1e-2)


@pytest.mark.parametrize("file", [None, "pruned.half.pt"])
def test_student_starts_from_scratch_where_the_incumbents_weights_are_absent_or_of_another_network(
    made, task, tmp_path, caplog, file
):
    training = task.training.model_copy(update={"learning": LearningSettings(start=Start.INCUMBENT), "steps": 3})
    folder = folder_for(tmp_path)
    if file is not None:
        shutil.copy(made[0] / file, folder / INCUMBENT_WEIGHTS)
    request = TrainingRequest(task=task.model_copy(update={"training": training}))
    pipeline.run_stage(request, folder, silent, stage="distill")
    assert not read_result(folder, "distill", Distilled).from_incumbent
    assert "the student starts from scratch" in caplog.text
