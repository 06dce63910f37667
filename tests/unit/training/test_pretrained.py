"""Backbones: the table, what each makes of a picture's bytes, and weights out of files of every kind."""

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.errors import DataError, InvalidArgument, Unavailable
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training import pretrained
from training.backbones import BACKBONES, Backbone, find_backbone
from training.environment import import_keras
from training.formats import layers_of, serving_function, write_saved_model

import_keras(0, deterministic=False)

import keras  # noqa: E402  # after the quiet import

from training.layers.image import Preprocessing  # noqa: E402  # imports keras

# Keras turns TensorFlow variables into arrays by a protocol that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = "mobilenet"
SIDE = 32


def constructor(backbone: Backbone) -> Any:
    return getattr(keras.applications, backbone.constructor)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def seeded() -> keras.Model:
    """A whole network with its classifier, its weights of a seed: what a user may have trained."""
    keras.utils.set_random_seed(11)
    return keras.applications.MobileNet(weights=None, input_shape=(SIDE, SIDE, 3), classes=5)


def features(network: keras.Model, pictures: np.ndarray) -> np.ndarray:
    """What the network has before its classifier's pooling."""
    last = keras.Model(network.input, network.get_layer("conv_pw_13_relu").output)
    return np.asarray(last(pictures.astype(np.float32), training=False))


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_preprocessing_in_the_graph_is_keras_s_own(backbone: Backbone, pictures: np.ndarray) -> None:
    reference = inspect.getmodule(constructor(backbone)).preprocess_input
    got = np.asarray(Preprocessing(backbone.preprocessing)(pictures))
    np.testing.assert_allclose(got, reference(pictures.astype(np.float32)), rtol=0, atol=1e-6)


def test_every_network_of_keras_is_in_the_table_or_named_as_left_out() -> None:
    there = {
        name
        for name, member in vars(keras.applications).items()
        if inspect.isfunction(member) and "include_top" in inspect.signature(member).parameters
    }
    left_out = {name for name in there if re.match(r"EfficientNetB\d|NASNet", name)}
    assert {backbone.constructor for backbone in BACKBONES} == there - left_out


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "efficientnetv2_b0", "efficientnetv2-b0"])
def test_a_name_is_found_however_its_words_are_joined(name: str) -> None:
    assert find_backbone(name).constructor == "EfficientNetV2B0"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        InvalidArgument, match=r"vgg16, .*convnext-xlarge\. Received: 'resnet5'\. Did you mean resnet50\?"
    ):
        find_backbone("resnet5")


def test_a_picture_smaller_than_the_network_takes_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"at least 75 pixels for inceptionv3\. Received: 64"):
        pretrained.load_backbone(find_backbone("inceptionv3"), 80, 64, "random")


@pytest.mark.parametrize("name", ["whole.weights.h5", "whole.h5", "whole.keras"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_classifier_in_a_weights_file_is_passed_over(
    seeded: keras.Model, tmp_path: Path, pictures: np.ndarray, name: str
) -> None:
    path = tmp_path / name
    seeded.save_weights(path) if name.endswith(".weights.h5") else seeded.save(path)
    loaded = pretrained.load_backbone(find_backbone(SMALL), SIDE, SIDE, str(path))
    np.testing.assert_array_equal(features(loaded, pictures), features(seeded, pictures))


def test_a_network_inside_a_model_is_found_behind_layers_of_that_model(
    seeded: keras.Model, tmp_path: Path, pictures: np.ndarray
) -> None:
    base = keras.Model(seeded.input, seeded.get_layer("conv_pw_13_relu").output)
    first = keras.layers.Conv2D(3, 1)
    whole = keras.Sequential([keras.Input((SIDE, SIDE, 3)), first, base, keras.layers.Flatten(), keras.layers.Dense(2)])
    whole.save(tmp_path / "model.keras")
    loaded = pretrained.load_backbone(find_backbone(SMALL), SIDE, SIDE, str(tmp_path / "model.keras"))
    np.testing.assert_array_equal(features(loaded, pictures), features(base, pictures))


def test_a_published_version_gives_its_weights_and_another_network_s_is_refused(
    seeded: keras.Model, tmp_path: Path, pictures: np.ndarray
) -> None:
    base = keras.Model(seeded.input, seeded.get_layer("conv_pw_13_relu").output)
    image = keras.Input((SIDE, SIDE, 3), name="image")
    pooled = keras.layers.GlobalAveragePooling2D()(base(image, training=False))
    answers = {"probabilities": keras.layers.Dense(2)(keras.layers.Dropout(0.5)(pooled))}
    model = keras.Model({"image": image}, answers)
    floats = BY_NAME["float32"]
    taken, given = (
        TensorSpec("image", floats, (DYNAMIC, SIDE, SIDE, 3)),
        TensorSpec("probabilities", floats, (DYNAMIC, 2)),
    )
    version = tmp_path / "flowers" / "3"
    write_saved_model(version, [model], {"serving_default": serving_function(model, Signature((taken,), (given,)))})
    loaded = pretrained.load_backbone(find_backbone(SMALL), SIDE, SIDE, str(version))
    np.testing.assert_array_equal(features(loaded, pictures), features(base, pictures))
    with pytest.raises(DataError, match=r"^flowers/3: expected the weights of VGG16\. Received: \d+ arrays"):
        pretrained.load_backbone(find_backbone("vgg16"), SIDE, SIDE, str(version))


def test_a_folder_that_is_no_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArgument, match=r"of a published version\. Received: .* a folder without saved_model\.pb"
    ):
        pretrained.check_weights(str(tmp_path))


def test_another_network_s_file_is_refused(seeded: keras.Model, tmp_path: Path) -> None:
    for name in ("other.keras", "other.weights.h5"):
        path = tmp_path / name
        seeded.save_weights(path) if name.endswith(".h5") else seeded.save(path)
        with pytest.raises(DataError, match=rf"{re.escape(name)}: expected the weights of MobileNetV2\."):
            pretrained.load_backbone(find_backbone("mobilenetv2"), SIDE, SIDE, str(path))


def test_layers_whose_names_keras_numbers_are_found_by_their_place(
    seeded: keras.Model, tmp_path: Path, pictures: np.ndarray
) -> None:
    def renamed(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config(layer.get_config() | {"name": f"renamed_{layer.name}"})

    other = keras.models.clone_model(seeded, clone_function=renamed)
    other.set_weights(seeded.get_weights())
    other.save(tmp_path / "renamed.keras")
    loaded = pretrained.load_backbone(find_backbone(SMALL), SIDE, SIDE, str(tmp_path / "renamed.keras"))
    np.testing.assert_array_equal(features(loaded, pictures), features(seeded, pictures))


def test_weights_that_are_no_numbers_are_refused(seeded: keras.Model, tmp_path: Path) -> None:
    broken = keras.models.clone_model(seeded)
    broken.get_layer("conv1").set_weights([np.full((3, 3, 3, 32), np.nan, np.float32)])
    broken.save_weights(tmp_path / "broken.weights.h5")
    with pytest.raises(DataError, match=r"expected finite weights\. Received: others in layer conv1"):
        pretrained.load_backbone(find_backbone(SMALL), SIDE, SIDE, str(tmp_path / "broken.weights.h5"))


def test_a_failed_download_names_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> keras.Model:
        raise Exception("URL fetch failure on https://example.org: None -- no route")  # as keras does

    monkeypatch.setattr(keras.applications, "ResNet50", offline)
    with pytest.raises(
        Unavailable, match=r"for ResNet50 could .* no route\. Expected a network, or --set weights=FILE"
    ):
        pretrained.load_backbone(find_backbone("resnet50"), SIDE, SIDE, "imagenet")


def test_only_the_last_layers_learn_and_batch_normalisation_where_it_was_not_pretrained() -> None:
    base = pretrained.load_backbone(find_backbone(SMALL), SIDE, SIDE, "random")
    pretrained.unfreeze(base, 2)
    names = [layer.name for layer in layers_of(base) if layer.trainable_weights]
    assert names == ["conv_dw_13", "conv_pw_13"]
    pretrained.unfreeze(base, 2, normalisation=True)
    names = [layer.name for layer in layers_of(base) if layer.trainable_weights]
    assert names == ["conv_dw_13", "conv_dw_13_bn", "conv_pw_13", "conv_pw_13_bn"]
    pretrained.unfreeze(base, 0)
    assert not base.trainable_weights


def test_more_layers_than_there_are_is_refused() -> None:
    base = pretrained.load_backbone(find_backbone("vgg16"), SIDE, SIDE, "random")
    with pytest.raises(InvalidArgument, match=r"at most 13, the layers of vgg16 with a kernel\. Received: 14"):
        pretrained.check_unfreeze(base, find_backbone("vgg16"), 14)
