"""Where quantization-aware training rounds: uint8 activations and int8 weights per channel, as onnxruntime fuses them.

A subclass of torchao's public `Quantizer`. The patterns are those that onnxruntime turns into QLinearConv, QGemm and
QLinearAdd: convolution or linear layer with batch normalisation and ReLU as one unit, sums, and what only moves values.
"""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import (
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)

_aten = torch.ops.aten
_HEAVY = {_aten.conv1d.default, _aten.conv2d.default, _aten.conv1d.padding, _aten.conv2d.padding, _aten.linear.default}
_BATCH_NORM = {_aten.batch_norm.default}
_RELU = {_aten.relu.default, _aten.relu_.default}
_ADD = {_aten.add.Tensor, _aten.add_.Tensor}
# These give values that they took: their results share the range of what they take.
_MOVING = {
    _aten.max_pool2d.default, _aten.max_pool1d.default, _aten.flatten.using_ints, _aten.view.default,
    _aten.reshape.default, _aten.permute.default, _aten.squeeze.dim, _aten.unsqueeze.default,
}  # fmt: skip
_KEY = "quantization_annotation"
# Smallest scale. torchao's own choice for XNNPACK, 2^-12, is coarser than the folded weights of small networks.
_SMALLEST_SCALE = 2.0**-20


class IntegerQuantizer(Quantizer):  # type: ignore[misc]  # torchao has no types
    """Marks every product and convolution, and the sums behind them; what comes before the first stays float.

    Args:
        reduce_range: weights in −64..63 instead of −127..127.
    """

    def __init__(self, *, reduce_range: bool) -> None:
        super().__init__()
        self._activation = QuantizationSpec(
            dtype=torch.uint8,
            quant_min=0,
            quant_max=255,
            qscheme=torch.per_tensor_affine,
            observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
                observer=MovingAverageMinMaxObserver, eps=_SMALLEST_SCALE
            ),
        )
        self._weight = QuantizationSpec(
            dtype=torch.int8,
            quant_min=-64 if reduce_range else -127,
            quant_max=63 if reduce_range else 127,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
            observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
                # The range of the weights as they are, not of what they were a hundred steps ago.
                observer=MovingAveragePerChannelMinMaxObserver.with_args(averaging_constant=1.0),
                eps=_SMALLEST_SCALE,
            ),
        )

    def annotate(self, model: GraphModule) -> GraphModule:
        """Mark the nodes of an exported network in place."""
        behind: set[Node] = set()  # what depends on a product or convolution
        for node in model.graph.nodes:
            if node.op != "call_function":
                continue
            if node.target in _HEAVY and not _is_feature(node):
                self._annotate_heavy(node)
            elif not behind & set(node.all_input_nodes):
                continue
            elif node.target in _ADD:
                self._annotate_sum(node)
            elif node.target in _MOVING:
                _annotate_moving(node)
            behind.add(node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to refuse: what is not marked stays float."""

    def _annotate_heavy(self, node: Node) -> None:
        bias = node.args[2] if len(node.args) > 2 else None
        inputs: dict[Node, QuantizationSpecBase | None] = {
            _node(node.args[0]): self._activation,
            _node(node.args[1]): self._weight,
        }
        if isinstance(bias, Node):
            inputs[bias] = None
        self._mark(node, _end_of_unit(node, _BATCH_NORM, _RELU), inputs)

    def _annotate_sum(self, node: Node) -> None:
        inputs = {arg: self._activation for arg in node.args[:2] if isinstance(arg, Node) and _is_float(arg)}
        if len(inputs) == 2:
            self._mark(node, _end_of_unit(node, _RELU), dict(inputs))

    def _mark(self, start: Node, end: Node, inputs: dict[Node, QuantizationSpecBase | None]) -> None:
        """A unit is rounded at its inputs and its result; without the latter the last product runs in float."""
        start.meta[_KEY] = QuantizationAnnotation(input_qspec_map=inputs, _annotated=True)
        annotation = end.meta.setdefault(_KEY, QuantizationAnnotation(_annotated=True))
        annotation.output_qspec = self._activation


def _annotate_moving(node: Node) -> None:
    before = _node(node.args[0])
    known = before.meta.get(_KEY)
    if known is not None and known.output_qspec is not None:
        shared = SharedQuantizationSpec(before)
        node.meta[_KEY] = QuantizationAnnotation(input_qspec_map={before: shared}, output_qspec=shared, _annotated=True)


def _end_of_unit(node: Node, *followers: set[OpOverload]) -> Node:
    """Follow the node's only user while it is of the kinds given, in their order; each may be absent."""
    for kind in followers:
        users = list(node.users)
        if len(users) == 1 and users[0].target in kind:
            node = users[0]
    return node


def _node(argument: object) -> Node:
    assert isinstance(argument, Node)
    return argument


def _is_feature(node: Node) -> bool:
    """Whether it is the preprocessing's, which stays float; an exported buffer's node keeps its name."""
    weight = node.args[1]
    return isinstance(weight, Node) and str(weight.target).startswith("preprocessing.")


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32
