import numpy as np
import pytest
from onnx import numpy_helper

from edge_agent.errors import ModelUnusable
from edge_agent.execution.choice import Choice, Provider
from edge_agent.execution.engine import Engine
from shared import bundle
from shared.errors import BundleError, SampleError
from shared.manifest import Manifest, Outputs, TensorSpec
from tests.sim import bundles
from tests.sim.bundles import sample
from tests.sim.sessions import Manner, SimulatedProviders


def test_run_gives_the_models_logits(tmp_path):
    engine = Engine(bundles.unpacked(tmp_path / "b", shift=2), sha256="abc")
    tensor = np.arange(64, dtype=np.uint8).reshape(8, 8)
    logits = engine.run(tensor)
    assert (logits.shape, logits.dtype) == ((10,), np.float32)
    np.testing.assert_allclose(logits, 0.5 * np.arange(2, 12))
    assert (engine.sha256, engine.manifest.version) == ("abc", "v1")


def test_run_takes_a_view_that_is_not_contiguous(tmp_path):
    engine = Engine(bundles.unpacked(tmp_path / "b"))
    wide = np.zeros((8, 16), np.uint8)
    wide[0, 6] = 16
    assert engine.run(wide[:, ::2]).argmax() == 3


def test_run_both_gives_the_embedding_too(tmp_path):
    engine = Engine(bundles.unpacked(tmp_path / "b", embedding=True))
    tensor = np.arange(64, dtype=np.uint8).reshape(8, 8)
    logits, embedding = engine.run_both(tensor)
    np.testing.assert_array_equal(logits, engine.run(tensor))
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(embedding, np.arange(64))


def test_run_both_of_a_model_without_an_embedding_gives_none(tmp_path):
    engine = Engine(bundles.unpacked(tmp_path / "b"))
    logits, embedding = engine.run_both(sample(3))
    assert (logits.argmax(), embedding) == (3, None)


@pytest.mark.parametrize("run", ["run", "run_both"])
@pytest.mark.parametrize(
    "tensor", [np.zeros((1, 8, 8), np.uint8), np.zeros((8, 8), np.int8), np.zeros((8, 8), np.dtype(">u2"))]
)
def test_run_refuses_another_shape_or_dtype(tmp_path, tensor, run):
    engine = Engine(bundles.unpacked(tmp_path / "b", embedding=True))
    with pytest.raises(SampleError, match="the task takes"):
        getattr(engine, run)(tensor)


def test_run_refuses_another_byte_order(tmp_path):
    engine = Engine(bundles.unpacked(tmp_path / "b", dtype="float32"))
    assert engine.run(sample(3).astype("<f4")).argmax() == 3
    with pytest.raises(SampleError):
        engine.run(sample(3).astype(">f4"))


@pytest.mark.parametrize("run", ["run", "run_both"])
def test_run_on_a_provider_that_breaks_says_which_model(tmp_path, run):
    device = SimulatedProviders({Provider.CUDA: Manner()})
    engine = Engine(bundles.unpacked(tmp_path / "b", embedding=True), choice=Choice(Provider.CUDA), opener=device)
    device.manners[Provider.CUDA].breaks = True
    with pytest.raises(ModelUnusable, match="digits v1 failed while running: the device was lost"):
        getattr(engine, run)(sample(3))


def test_engine_runs_where_it_was_chosen_to_or_not_at_all(tmp_path):
    folder = bundles.unpacked(tmp_path / "b")
    choice = Choice(Provider.CUDA)
    assert Engine(folder, choice=choice, opener=SimulatedProviders()).choice == choice
    for manner, said in ((Manner(refuses=True), "does not load"), (Manner(falls_back=True), "fell back to CPU")):
        with pytest.raises(ModelUnusable, match=said):
            Engine(folder, choice=choice, opener=SimulatedProviders({Provider.CUDA: manner}))


def test_run_of_a_model_that_fails_says_which(tmp_path):
    # Loads and answers the zeros and the golden inputs, but gathers beyond its weights for others.
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["i"], ["highest"], axes=None, keepdims=0),
        helper.make_node("Gather", ["rows", "highest"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "axis"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(np.zeros((17, 10), np.float32), "rows"),
            numpy_helper.from_array(np.array([0]), "axis"),
        ],
    )
    engine = Engine(bundles.unpacked(tmp_path / "b", model=bundles._model_bytes(graph)))
    with pytest.raises(ModelUnusable, match="digits v1 failed while running"):
        engine.run(sample(0, value=200))
    assert engine.run(sample(0)).shape == (10,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": b"nonsense"}, "onnxruntime does not load"),
        ({"model": bundles.linear_model(bundles.weights(64, 9))}, "10 labels need float32"),
        ({"model": bundles.linear_model(bundles.weights(36, 10), shape=(6, 6))}, "does not take the sample"),
        ({"outputs": Outputs(logits="scores")}, "its manifest says 'scores'"),
        ({"outputs": Outputs(embedding="features")}, "its manifest says 'features'"),
    ],
)
def test_engine_refuses_a_model_that_does_not_fit(tmp_path, options, said):
    with pytest.raises(ModelUnusable, match=said):
        Engine(bundles.unpacked(tmp_path / "b", **options))


def test_engine_refuses_an_embedding_that_is_no_row_of_numbers(tmp_path):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["embedding"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["embedding"], ["rows"], axes=None, keepdims=0),
            helper.make_node("Reshape", ["rows", "shape"], ["one"]),
            helper.make_node("Expand", ["one", "wide"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "embedding")],
        [
            numpy_helper.from_array(np.array([1, 1]), "shape"),
            numpy_helper.from_array(np.array([1, 10]), "wide"),
        ],
    )
    options = {"model": bundles._model_bytes(graph), "outputs": Outputs(embedding="embedding")}
    with pytest.raises(ModelUnusable, match=r"embedding is float32 of shape \[1, 8, 8\]"):
        Engine(bundles.unpacked(tmp_path / "b", **options))


def test_engine_refuses_a_model_whose_samples_fit_no_frame(tmp_path):
    shape = (4100, 4100)
    bundle.pack(
        tmp_path / "f",
        model=bundles.linear_model(bundles.weights(64, 10), shape=shape),
        description=Manifest(
            task="t", version="v1", labels=bundles.LABELS, input=TensorSpec(shape=shape, dtype="uint8")
        ),
        golden=bundle.Golden(np.zeros((1, *shape), np.uint8), np.zeros((1, 10), np.float32)),
    )
    bundle.unpack(tmp_path / "f", tmp_path / "b")
    with pytest.raises(ModelUnusable, match="does not fit a frame"):
        Engine(tmp_path / "b")


def test_engine_refuses_a_model_of_two_inputs(tmp_path):
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["y"], ["logits"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 8, 8]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
    )
    with pytest.raises(ModelUnusable, match="takes 2 inputs"):
        Engine(bundles.unpacked(tmp_path / "b", model=bundles._model_bytes(graph)))


def test_engine_refuses_a_folder_without_a_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"cannot read manifest\.json"):
        Engine(tmp_path)
