"""TensorFlow takes seconds to import, so one SavedModel serves all of these."""

from pathlib import Path

import numpy as np
import pytest

from services.engine.backend import BackendOptions
from services.engine.loader import LoadOptions, load, open_backend
from services.engine.model_config import ModelConfig
from services.engine.savedmodel_backend import SavedModelBackend
from services.errors import DataLoss, InvalidArgument, SignatureNotFound


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signatures: numbers with a variable axis, and strings; the first checks its values."""
    tf = pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")

    class Model(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, None], tf.float32, "x"), tf.TensorSpec([None], tf.int64, "n")]
        )
        def numbers(self, x, n):
            with tf.control_dependencies([tf.debugging.assert_non_negative(n, "n must not be negative")]):
                return {"total": tf.reduce_sum(x, axis=1), "next": n + 1}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def shout(self, text):
            return {"loud": tf.strings.upper(text)}

    path = tmp_path_factory.mktemp("saved") / "1"
    model = Model()
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.numbers, "shout": model.shout})
    return path


@pytest.fixture(scope="module")
def backend(version: Path) -> SavedModelBackend:
    return SavedModelBackend(version)


def test_every_signature_is_described(backend):
    assert sorted(backend.signatures) == ["serving_default", "shout"]
    numbers = backend.signatures["serving_default"]
    assert [str(spec) for spec in numbers.inputs] == ["n: int64 [-1]", "x: float32 [-1, -1]"]
    assert [str(spec) for spec in numbers.outputs] == ["next: int64 [-1]", "total: float32 [-1]"]
    assert numbers.batchable


def test_numbers_and_strings_go_in_and_come_out(backend):
    inputs = {"x": np.ones((2, 3), np.float32), "n": np.array([4, 5])}
    assert backend.run("serving_default", inputs, ("total",))["total"].tolist() == [3, 3]
    assert backend.run("serving_default", inputs)["next"].tolist() == [5, 6]
    answer = backend.run("shout", {"text": np.array([b"a\0b", b""], object)})["loud"]
    assert answer.dtype == object
    assert answer.tolist() == [b"A\0B", b""]


def test_values_the_graph_refuses_are_the_caller_s_fault(backend):
    with pytest.raises(InvalidArgument, match="n must not be negative"):
        backend.run("serving_default", {"x": np.ones((1, 3), np.float32), "n": np.array([-1])})


def test_an_unknown_signature_names_the_known_ones(backend):
    with pytest.raises(SignatureNotFound, match="serving_default, shout"):
        backend.run("other", {})


def test_a_plain_saved_model_is_loaded_like_any_version(version):
    servable = load(ModelConfig("m", version.parent), 1, version, LoadOptions())
    assert servable.platform == "tensorflow_savedmodel"
    assert servable.providers == ("CPU",)
    servable.close()


def test_a_file_that_is_no_saved_model_is_data_loss(version, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"rubbish")
    with pytest.raises(DataLoss, match="cannot be loaded") as error:
        open_backend(tmp_path, None, BackendOptions())
    assert str(tmp_path) not in str(error.value)


@pytest.fixture(scope="module")
def of_tensorflow_1(tmp_path_factory: pytest.TempPathFactory) -> SavedModelBackend:
    """Half plus two as TensorFlow 1 wrote it: reference variables, a regress method, a shape that the graph does not keep."""
    tf = pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed").compat.v1
    path = tmp_path_factory.mktemp("saved") / "1"
    with tf.Graph().as_default(), tf.Session() as session:
        half = tf.Variable(0.5, name="half", use_resource=False)
        x = tf.placeholder(tf.float32, [None, 1], "features/x")
        y = tf.add(half * x, 2.0, name="answer/y")
        factor = tf.multiply(half, 3.0, name="factor")
        session.run(tf.global_variables_initializer())
        info = tf.saved_model.build_tensor_info
        declared = info(factor)
        declared.tensor_shape.dim.add(size=-1)
        builder = tf.saved_model.builder.SavedModelBuilder(str(path))
        definition = tf.saved_model.signature_def_utils.build_signature_def(
            {"inputs": info(x)}, {"outputs": info(y), "factor": declared}, "tensorflow/serving/regress"
        )
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": definition})
        builder.save()
    return SavedModelBackend(path)


def test_a_model_of_tensorflow_1_runs_as_it_is_even_where_its_shapes_are_wrong(of_tensorflow_1):
    answer = of_tensorflow_1.run("serving_default", {"inputs": np.array([2, 4], np.float32)})
    assert {name: array.tolist() for name, array in answer.items()} == {"outputs": [3, 4], "factor": 1.5}


def test_signatures_keep_the_names_the_model_gave_its_tensors_and_methods(of_tensorflow_1):
    signature = of_tensorflow_1.signatures["serving_default"]
    assert signature.method_name == "tensorflow/serving/regress"
    assert [spec.graph_name for spec in signature.inputs] == ["features/x:0"]
    assert [(spec.name, spec.graph_name) for spec in signature.outputs] == [
        ("factor", "factor:0"),
        ("outputs", "answer/y:0"),
    ]
