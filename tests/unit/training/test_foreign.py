"""Models that were trained elsewhere: names, rows to compare on, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from services.engine.backend import OnnxBackend
from services.engine.verification import verify
from services.errors import DataError, InvalidArgument
from services.tensors import BY_NAME, Signature, TensorSpec
from training.adopt import adopt
from training.environment import import_keras
from training.foreign import export_file, load, random_rows, read_labels, read_rows, register

import_keras(0, deterministic=False)

import keras  # noqa: E402  # after the quiet import
from keras import layers  # noqa: E402  # after the quiet import

# Keras reads variables through a NumPy protocol that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def functional(outputs: int = 1) -> keras.Model:
    x = keras.Input((4,))
    heads = [layers.Dense(width + 2)(x) for width in range(outputs)]
    return keras.Model(x, heads if outputs > 1 else heads[0])


def two_sided() -> keras.Model:
    """A dict in and a dict out, in an order that is not the alphabet's."""
    right, left = keras.Input((3,), name="right"), keras.Input((2,), name="left")
    both = layers.Concatenate()([right, left])
    return keras.Model({"right": right, "left": left}, {"sum": layers.Dense(1)(both), "gap": layers.Dense(2)(right)})


def saved(model: keras.Model, folder: Path, name: str = "model.keras") -> Path:
    model.save(folder / name)
    return folder / name


def names(serving) -> tuple[list[str], list[str]]:
    signature = serving.signature
    return [spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs]


def test_names_that_keras_made_up_become_readable():
    assert names(adopt(functional())) == (["input"], ["output"])


def test_several_made_up_names_are_numbered():
    assert names(adopt(functional(2)))[1] == ["output_1", "output_2"]


def test_a_task_brings_its_names():
    assert names(adopt(functional(), task="classification")) == (["features"], ["probabilities"])


def test_names_that_somebody_chose_are_kept():
    x = keras.Input((4,), name="petals")
    assert names(adopt(keras.Model(x, layers.Dense(1, name="species score")(x)))) == (["petals"], ["species_score"])


def test_names_can_be_chosen():
    serving = adopt(two_sided(), inputs={"left": "l"}, outputs={"gap": "difference"})
    assert names(serving) == (["l", "right"], ["difference", "sum"])


def test_renamed_tensors_are_wired_as_before():
    model = two_sided()
    serving = adopt(model, inputs={"left": "zebra"}, outputs={"gap": "a"})
    left, right = np.ones((2, 2), "float32"), np.full((2, 3), 2, "float32")
    want = model({"left": left, "right": right})
    got = serving.model({"zebra": left, "right": right})
    np.testing.assert_array_equal(got["a"], want["gap"])
    np.testing.assert_array_equal(got["sum"], want["sum"])


def test_a_built_sequential_model_is_taken():
    model = keras.Sequential([layers.Dense(3)])
    model.build((None, 4))
    assert adopt(model).signature.outputs == (TensorSpec("output", BY_NAME["float32"], (-1, 3)),)


def test_free_axes_stay_free():
    x = keras.Input((None, 5))
    assert adopt(keras.Model(x, layers.GRU(2)(x))).signature.inputs[0].shape == (-1, -1, 5)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class Custom(layers.Layer):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "choices", "message"),
    [
        (Subclassed, {}, "functional or sequential"),
        (lambda: keras.Sequential([layers.Dense(2)]), {}, "never built"),
        (functional, {"inputs": {"nothing": "x"}}, "--input-name for one of"),
        (functional, {"task": "anomaly_detection"}, "is_anomaly"),
        (functional, {"task": "classification", "labels": ("a", "b", "c")}, "Expected 2 labels"),
    ],
)
def test_a_model_that_cannot_be_adopted_is_refused(make, choices, message):
    with pytest.raises(InvalidArgument, match=message):
        adopt(make(), **choices)


def test_strings_are_a_processor_s_work():
    x = keras.Input((1,), dtype="string")
    with pytest.raises(InvalidArgument, match="processor"):
        adopt(keras.Model(x, layers.StringLookup(vocabulary=["a"])(x)))


def test_random_rows_repeat_and_fit():
    serving = adopt(two_sided())
    first, again = random_rows(serving, 3), random_rows(serving, 3)
    np.testing.assert_equal(first, again)
    assert all(spec.accepts(first[spec.name].shape) for spec in serving.signature.inputs)


def test_random_integers_stay_below_the_embedding():
    x = keras.Input((None,), dtype="int32")
    serving = adopt(keras.Model(x, layers.GlobalAveragePooling1D()(layers.Embedding(3, 2)(x))))
    assert set(np.unique(random_rows(serving, 0)["input"])) == {0, 1, 2}


def test_random_images_are_as_large_as_the_model_needs():
    x = keras.Input((None, None, 1), dtype="uint8")
    y = layers.Conv2D(1, 40)(keras.ops.cast(x, "float32"))
    rows = random_rows(adopt(keras.Model(x, layers.GlobalMaxPooling2D()(y))), 0)["input"]
    assert (rows.shape[1:], rows.dtype) == ((64, 64, 1), np.uint8)


SIGNATURE = Signature((TensorSpec("tokens", BY_NAME["int32"], (-1, 3)),), ())


def test_rows_are_cast_where_no_value_changes(tmp_path):
    np.savez(tmp_path / "rows.npz", tokens=np.arange(6).reshape(2, 3))
    assert read_rows(tmp_path / "rows.npz", SIGNATURE)["tokens"].dtype == np.int32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": np.array([[1.5, 2, 3]])}, "do not fit"),
        ({"tokens": np.array([[2**40, 2, 3]])}, "do not fit"),
        ({"words": np.zeros((1, 3), "int32")}, "Received: words"),
        ({"tokens": np.array([["a", "b", "c"]])}, "do not fit"),
    ],
)
def test_rows_that_would_change_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "rows.npz", SIGNATURE)


def test_labels_are_lines(tmp_path):
    (tmp_path / "labels.txt").write_text("\ufeffcat\ndog\n\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt") == ("cat", "dog")


@pytest.mark.parametrize("content", [b"", b"cat\ncat\n", b"\xff\xfe\x00"])
def test_labels_that_are_none_are_refused(tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.txt"):
        read_labels(tmp_path / "labels.txt")


def test_a_python_lambda_is_not_executed(tmp_path):
    x = keras.Input((2,))
    path = saved(keras.Model(x, layers.Lambda(lambda y: y * 2)(x)), tmp_path)
    with pytest.raises(InvalidArgument, match="lambdas"):
        load(path)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_custom_class_is_named(tmp_path, name):
    path = saved(keras.Sequential([keras.Input((2,)), Custom()]), tmp_path, name)
    with pytest.raises(InvalidArgument, match="custom class Custom"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.keras", b"nonsense", "ZIP"),
        ("model.h5", b"nonsense", "Keras can load"),
        ("model.keras", None, "no such file"),
        ("model.pb", b"", "ends in"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgument, match=message):
        load(tmp_path / name)


def test_a_file_is_published_with_where_it_comes_from(tmp_path):
    path = saved(functional(), tmp_path, "model.h5")
    exported = export_file(path, name="mine", repository=tmp_path / "models", task="regression")
    provenance = exported.manifest.provenance
    assert provenance.base_weights.startswith("sha256:")
    assert provenance.options["parity_rows"] == "drawn at random with seed 0"
    assert verify(exported.path).ok


def test_the_command_publishes_under_the_chosen_names(tmp_path):
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    path = saved(functional(), tmp_path)
    np.savez(tmp_path / "rows.npz", petals=np.ones((50, 4)))
    (tmp_path / "labels.txt").write_text("a\nb\n")
    old = load(path).inputs[0].name
    words = f"export {path} --name iris --repository {tmp_path / 'models'} --task classification"
    words += f" --input-name {old}=petals --labels {tmp_path / 'labels.txt'} --samples {tmp_path / 'rows.npz'}"
    done = CliRunner().invoke(app, words.split(), catch_exceptions=False)
    assert "petals: float32 [-1, 4]" in done.output
    (signature,) = OnnxBackend(tmp_path / "models" / "iris" / "1" / "model.onnx").signatures.values()
    assert [spec.name for spec in (*signature.inputs, *signature.outputs)] == ["petals", "probabilities"]


@pytest.mark.parametrize("pair", ["a", "=b", "a="])
def test_a_rename_that_is_none_is_refused(pair):
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, ["m.keras", "--name", "n", "--input-name", pair])
    assert isinstance(result.exception, InvalidArgument)
    assert "OLD=NEW" in str(result.exception)


def test_other_precisions_of_a_foreign_model_are_published_beside_it(tmp_path):
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    arguments = [str(saved(functional(), tmp_path)), "--name", "mine", "--repository", str(tmp_path / "models")]
    result = CliRunner().invoke(app, ["export", *arguments, "--precision", "fp16", "--precision", "int8"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["mine", "mine-fp16", "mine-int8"]
    assert verify(tmp_path / "models" / "mine-int8" / "1").problems == ()
