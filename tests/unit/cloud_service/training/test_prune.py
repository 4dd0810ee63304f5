import copy
import itertools

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from cloud_service.errors import ModelError
from cloud_service.tasks.compression import Importance, Method, PruneSettings
from cloud_service.training import prune, quantize, sparsity, structure
from cloud_service.training.evaluate import open_runner
from cloud_service.training.macs import count_macs, count_parameters
from tests.sim.students import Bare, Mixed, Residual

EXAMPLE = torch.zeros((2, 8, 8), dtype=torch.uint8)


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Residual()


def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, 17, (8, 8, 8), generator=generator).to(torch.uint8),
            torch.randint(0, 4, (8,), generator=generator),
        )
    ]


def untouched(module, steps):
    """Training that changes nothing."""


def train(module, steps):
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.05, weight_decay=0.1)
    module.train()
    x, y = batches()[0]
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(x)[0], y).backward()
        optimiser.step()


def test_macs_of_a_convolution_and_a_linear_layer_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    # 8 outputs of 4 × 4, each 3 · 3 · 3; then 5 outputs of 128 inputs. One sample of the two.
    assert count_macs(network, torch.zeros(2, 3, 4, 4)) == 8 * 16 * 27 + 5 * 128


def test_macs_of_grouped_and_transposed_convolutions_by_hand():
    assert count_macs(nn.Conv1d(8, 8, 3, padding=1, groups=8), torch.zeros(2, 8, 10)) == 8 * 10 * 3
    assert count_macs(nn.ConvTranspose1d(4, 6, 2, stride=2), torch.zeros(2, 4, 5)) == 4 * 5 * 6 * 2


@pytest.mark.parametrize("importance", list(Importance))
def test_structured_pruning_meets_its_target_in_blocks_of_eight(student, importance):
    settings = PruneSettings(importance=importance, macs_left=0.4, rounds=2, fine_tune_steps=0)
    pruned = prune.prune(student, example=EXAMPLE, settings=settings, fine_tune=untouched, batches=batches())
    assert pruned.macs_after <= 0.4 * pruned.macs_before
    assert pruned.parameters_after < pruned.parameters_before
    channels = [layer.out_channels for layer in student.modules() if isinstance(layer, nn.Conv2d)]
    assert all(count % 8 == 0 and count > 0 for count in channels)
    assert student(EXAMPLE)[0].shape == (2, 4)
    assert student(EXAMPLE)[1].shape[1] == student.head.in_features < 32


def test_channels_of_the_exported_graph_are_fewer(student, task, tmp_path):
    settings = PruneSettings(macs_left=0.4, rounds=1, fine_tune_steps=0)
    prune.prune(student, example=EXAMPLE, settings=settings, fine_tune=untouched)
    quantize.export_student(student, task, tmp_path / "pruned.onnx")
    shapes = [
        tuple(tensor.dims) for tensor in onnx.load(tmp_path / "pruned.onnx").graph.initializer if len(tensor.dims) == 4
    ]
    assert sorted(shapes) == [(8, 1, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (24, 8, 3, 3)]
    x = np.random.default_rng(0).integers(0, 17, (3, 8, 8)).astype(np.uint8)
    with torch.no_grad():
        assert np.allclose(open_runner(tmp_path / "pruned.onnx")(x), student(torch.from_numpy(x))[0], atol=1e-4)


def test_channels_that_give_nothing_go_first_and_change_no_answer(student):
    x = batches()[0][0]
    dead = [0, 3, 4, 7, 8, 9, 12, 15]
    with torch.no_grad():
        # The inner convolution of the block: its channels reach nothing but the next one.
        for tensor in (student.one.weight, student.one_norm.weight, student.one_norm.bias):
            tensor[dead] = 0.0
        student.two.weight[:, dead] = 0.0
        student.one_norm.running_mean[dead] = 0.0
        before = student(x)[0]
        structure.cut(student, [("one", True, dead)], example=EXAMPLE)
        assert torch.allclose(student(x)[0], before, atol=1e-5)
    assert student.one.out_channels == student.two.in_channels == 8


def test_least_important_channels_are_the_ones_that_go():
    torch.manual_seed(0)
    student = Residual()
    with torch.no_grad():
        student.one.weight[:8] *= 1e-3
        student.one_norm.weight[:8] *= 1e-3
        student.two.weight[:, :8] *= 1e-3
    settings = PruneSettings(macs_left=0.4, rounds=1, fine_tune_steps=0)
    structure.prune(student, example=EXAMPLE, settings=settings, fine_tune=untouched)
    assert student.one.out_channels == 8
    assert student.one.weight.flatten(1).norm(dim=1).min() > 0.1


def test_target_is_not_overshot_by_layers_that_have_few_blocks():
    torch.manual_seed(0)
    student = Residual(16)
    settings = PruneSettings(macs_left=0.7, rounds=1, fine_tune_steps=0)
    pruned = prune.prune(student, example=EXAMPLE, settings=settings, fine_tune=untouched)
    # Every layer of 16 channels in one step to 8 would leave less than a third.
    assert 0.4 * pruned.macs_before < pruned.macs_after <= 0.7 * pruned.macs_before


class Chain(nn.Module):
    """Four convolutions of one width: at one ratio all of them lose their next block."""

    def __init__(self):
        super().__init__()
        widths = [1, 64, 64, 64, 64]
        layers = [nn.Conv2d(i, o, 3, padding=1) for i, o in itertools.pairwise(widths)]
        self.body = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        embedding = self.body(x.float()[:, None]).mean(dim=(2, 3))
        return self.head(embedding), embedding


def test_layers_of_one_width_lose_the_same_to_within_a_block():
    torch.manual_seed(0)
    student = Chain()
    settings = PruneSettings(macs_left=0.5, rounds=1, fine_tune_steps=0)
    pruned = prune.prune(student, example=EXAMPLE, settings=settings, fine_tune=untouched)
    kept = [layer.out_channels for layer in student.body if isinstance(layer, nn.Conv2d)]
    assert max(kept) - min(kept) == 8
    assert 0.44 < pruned.macs_after / pruned.macs_before <= 0.5


def test_fine_tuning_follows_each_round(student):
    seen = []
    settings = PruneSettings(macs_left=0.4, rounds=2, round_to=4, fine_tune_steps=7)
    prune.prune(
        student, example=EXAMPLE, settings=settings,
        fine_tune=lambda module, steps: seen.append((steps, count_macs(module, EXAMPLE))),
    )  # fmt: skip
    assert [steps for steps, _ in seen] == [7, 7]
    assert seen[0][1] > seen[1][1]


def test_cuts_repeated_on_a_fresh_student_take_the_pruned_weights(student):
    settings = PruneSettings(macs_left=0.4, rounds=2, round_to=4, fine_tune_steps=0)
    pruned = prune.prune(student, example=EXAMPLE, settings=settings, fine_tune=untouched)
    fresh = Residual()
    structure.cut(fresh, pruned.cuts, example=EXAMPLE)
    fresh.load_state_dict(student.state_dict())
    x = batches()[0][0]
    assert torch.equal(fresh(x)[0], student(x)[0])


def test_network_of_one_layer_has_nothing_to_prune():
    with pytest.raises(ModelError, match="nothing to prune in Bare"):
        prune.prune(Bare(), example=EXAMPLE, settings=PruneSettings(), fine_tune=untouched)


def test_target_out_of_reach_is_said_before_any_training(student):
    def trained(module, steps):
        raise AssertionError("trained")

    before = count_parameters(student)
    with pytest.raises(ModelError, match=r"not to 5%: raise macs_left or lower round_to"):
        prune.prune(student, example=EXAMPLE, settings=PruneSettings(macs_left=0.05), fine_tune=trained)
    assert count_parameters(student) == before


def test_network_that_cannot_be_followed_is_named():
    with pytest.raises(ModelError, match="channels of Mixed cannot be pruned"):
        prune.prune(Mixed(), example=EXAMPLE, settings=PruneSettings(), fine_tune=untouched)


def test_taylor_without_samples_is_refused(student):
    with pytest.raises(ModelError, match="taylor needs labelled samples"):
        prune.prune(student, example=EXAMPLE, settings=PruneSettings(importance=Importance.TAYLOR), fine_tune=untouched)


def test_logits_keep_their_width_where_it_could_be_cut():
    torch.manual_seed(0)
    student = Residual(classes=32)
    settings = PruneSettings(macs_left=0.4, rounds=1, fine_tune_steps=0)
    prune.prune(student, example=EXAMPLE, settings=settings, fine_tune=untouched)
    assert student(EXAMPLE)[0].shape == (2, 32)


def test_last_layers_are_those_of_the_logits_alone(student):
    assert structure.find_last_layers(student, EXAMPLE) == [student.head]


UNSTRUCTURED = PruneSettings(method=Method.UNSTRUCTURED, weights_left=0.25, rounds=2, fine_tune_steps=3)


def test_pruned_weights_stay_zero_through_training_and_the_rest_learns(student):
    before = copy.deepcopy(student)
    pruned = prune.prune(student, example=EXAMPLE, settings=UNSTRUCTURED, fine_tune=train)
    assert pruned.weights_left == pytest.approx(0.25, abs=0.001)
    kept = student.one.weight != 0
    assert (student.one.weight[kept] != before.one.weight[kept]).all()
    assert student.state_dict().keys() == before.state_dict().keys()


def test_threshold_is_of_all_weights_together_by_hand():
    weights = [torch.tensor([[1.0, -8.0], [3.0, 4.0]]), torch.tensor([-2.0, 5.0, 6.0, 7.0])]
    assert sparsity.threshold(weights, weights_left=0.25) == 6.0
    assert sparsity.threshold(weights, weights_left=1.0) < 0.0


def test_channels_last_weights_are_pruned_like_any(student):
    other = copy.deepcopy(student).to(memory_format=torch.channels_last)
    settings = UNSTRUCTURED.model_copy(update={"fine_tune_steps": 0})
    for network in (student, other):
        prune.prune(network, example=EXAMPLE, settings=settings, fine_tune=untouched)
    assert torch.equal(student.two.weight, other.two.weight)


def test_network_without_weights_has_nothing_to_prune():
    class Sum(nn.Module):
        def forward(self, x):
            return x.float().sum((1, 2))[:, None].repeat(1, 4), x.flatten(1).float()

    with pytest.raises(ModelError, match="neither convolution nor linear layer"):
        prune.prune(Sum(), example=EXAMPLE, settings=UNSTRUCTURED, fine_tune=untouched)


def test_weights_that_are_not_finite_are_refused(student):
    with torch.no_grad():
        student.one.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        prune.prune(student, example=EXAMPLE, settings=UNSTRUCTURED, fine_tune=untouched)
