"""The image feature extractor: where weights come from, and what the graph does to a picture."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.errors import DataError, InvalidArgument
from services.manifest import sha256
from training import pretrained
from training.backbones import find_backbone
from training.environment import import_keras
from training.options import parse
from training.pipeline import ServingModel, Source
from training.pipelines.vgg16 import PIPELINE, Options
from training.runner import predict

import_keras(0, deterministic=False)

import keras  # noqa: E402  # after the quiet import

# Keras turns TensorFlow variables into arrays by a protocol that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = ("height=32", "width=48", "probe_images=4")


def options(*settings: str) -> Options:
    return parse(Options, [*SMALL, *settings])


def serving_of(chosen: Options) -> ServingModel:
    import_keras(chosen.seed, deterministic=False)
    data = PIPELINE.load(Source(), chosen).data
    split = PIPELINE.split(data, chosen)
    processor = PIPELINE.fit_processor(split.train, chosen)
    train = PIPELINE.examples(split.train, processor, chosen)
    model = PIPELINE.build(train, processor, chosen)
    PIPELINE.fit(model, train, train, chosen, [])
    return PIPELINE.serving_model(model, train, train, processor, chosen)


@pytest.fixture(scope="module")
def seeded() -> keras.Model:
    """What Keras itself makes of VGG16, with weights of a seed, for any size."""
    keras.utils.set_random_seed(11)
    return keras.applications.VGG16(include_top=False, weights=None)


@pytest.fixture(scope="module")
def weights(seeded: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "seeded.weights.h5"
    seeded.save_weights(path)
    return path


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)


def reference(model: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """Keras's own preprocessing and network."""
    prepared = keras.applications.vgg16.preprocess_input(pictures.astype(np.float32))
    return np.asarray(model(prepared))


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("avg", lambda maps: maps.mean(axis=(1, 2))),
        ("max", lambda maps: maps.max(axis=(1, 2))),
        ("none", lambda maps: maps),
    ],
)
def test_features_are_keras_own_for_rgb_bytes(
    seeded: keras.Model, weights: Path, pictures: np.ndarray, pooling: str, pool: object
) -> None:
    serving = serving_of(options(f"weights={weights}", f"pooling={pooling}"))
    want = pool(reference(seeded, pictures))
    got = predict(serving, {"image": pictures})["features"]
    assert serving.signature.outputs[0].shape == (-1, *want.shape[1:])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_weights_file_is_recorded_by_its_hash(weights: Path) -> None:
    assert PIPELINE.base_weights(options(f"weights={weights}")) == f"sha256:{sha256(weights)}"


def test_a_whole_keras_model_gives_its_weights(seeded: keras.Model, tmp_path: Path, pictures: np.ndarray) -> None:
    path = tmp_path / "model.keras"
    outer = keras.Sequential([keras.Input((64, 64, 3)), seeded, keras.layers.GlobalAveragePooling2D()])
    outer.save(path)
    loaded = pretrained.load_backbone(find_backbone("vgg16"), 32, 48, str(path))
    np.testing.assert_array_equal(loaded(pictures.astype(np.float32)), seeded(pictures.astype(np.float32)))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_an_old_h5_file_gives_its_weights(seeded: keras.Model, tmp_path: Path, pictures: np.ndarray) -> None:
    path = tmp_path / "model.h5"
    seeded.save(path)
    loaded = pretrained.load_backbone(find_backbone("vgg16"), 32, 48, str(path))
    np.testing.assert_array_equal(loaded(pictures.astype(np.float32)), seeded(pictures.astype(np.float32)))


@pytest.mark.parametrize("name", ["other.keras", "other.weights.h5"])
def test_another_models_file_is_refused(tmp_path: Path, name: str) -> None:
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    path = tmp_path / name
    other.save_weights(path) if name.endswith(".h5") else other.save(path)
    with pytest.raises(DataError, match=rf"{re.escape(name)}: expected the weights of VGG16"):
        pretrained.load_backbone(find_backbone("vgg16"), 32, 48, str(path))


@pytest.mark.parametrize("name", ["junk.keras", "junk.weights.h5", "junk.h5"])
def test_a_file_that_is_no_weights_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not weights at all")
    with pytest.raises(DataError, match=re.escape(name)):
        pretrained.load_backbone(find_backbone("vgg16"), 32, 48, str(path))


@pytest.mark.parametrize("weights", ["imagenot", "nowhere.weights.h5", "training/pretrained.py"])
def test_an_unknown_choice_of_weights_names_the_choices(weights: str) -> None:
    with pytest.raises(InvalidArgument, match="expected imagenet, random, or the path"):
        PIPELINE.base_weights(options(f"weights={weights}"))


def test_random_weights_are_seeded_and_marked(pictures: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    first, again, other = (serving_of(options("weights=random", f"seed={seed}")) for seed in (1, 1, 2))
    assert "random weights" in caplog.text
    answers = [predict(serving, {"image": pictures})["features"] for serving in (first, again, other)]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.allclose(answers[0], answers[2])


def test_another_backbone_gives_features_of_its_own_width_and_size() -> None:
    chosen = parse(Options, ["backbone=MobileNet", "weights=random", "probe_images=2"])
    serving = serving_of(chosen)
    assert serving.signature.inputs[0].shape == (-1, 224, 224, 3)
    assert serving.signature.outputs[0].shape == (-1, 1024)
    assert parse(Options, ["backbone=inceptionv3"]).size == (299, 299)


def test_probes_of_a_users_folder_are_judged_by_their_neighbours(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / f"{index}.png")
    chosen = options("weights=random", "probe_images=6")
    split = PIPELINE.split(PIPELINE.load(Source(tmp_path), chosen).data, chosen)
    processor = PIPELINE.fit_processor(split.train, chosen)
    test = PIPELINE.examples(split.test, processor, chosen)
    assert (len(split.train), len(split.validation), len(test)) == (0, 0, 6)
    serving = serving_of(chosen)
    outputs = predict(serving, test.inputs)
    metrics = PIPELINE.evaluate(outputs, test, chosen)
    assert set(PIPELINE.baseline(test, test, chosen).metrics) <= set(metrics)
    assert 0 <= metrics["nearest_accuracy"] <= 1
    (plot,) = PIPELINE.figures(outputs, test, serving, chosen)
    assert plot.title.startswith("RANDOM WEIGHTS")
    plot.figure.canvas.draw()
