"""The weights a backbone starts from: ImageNet's, a file's, a published version's, or random ones, asked for by name."""

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.errors import DataError, InvalidArgument, Unavailable
from services.manifest import SAVED_MODEL_FILE, sha256
from training.backbones import Backbone, check_size
from training.formats import quiet

if TYPE_CHECKING:
    import keras

_log = logging.getLogger(__name__)

IMAGENET, RANDOM = "imagenet", "random"
_SUFFIXES = (".h5", ".keras")
_VARIABLES = Path("variables", "variables.data-00000-of-00001")
"""Where a SavedModel keeps its weights."""
_DOWNLOAD_SILENCE_S = 30.0
_MOMENTUM = 0.9
"""Of batch normalisation that learns from random weights: networks' own, to 0.999, are for ten thousands of steps."""


def check_weights(weights: str) -> None:
    """Raise InvalidArgument for what is neither `imagenet`, `random`, a weights file nor a version with a SavedModel."""
    path = Path(weights)
    if weights in (IMAGENET, RANDOM) or _is_version(path):
        return
    if path.suffix not in _SUFFIXES or not path.is_file():
        lacking = (
            f", a folder without {SAVED_MODEL_FILE} and variables" if path.is_dir() else ", where there is no file"
        )
        raise InvalidArgument(
            "Option weights: expected imagenet, random, or the path of a .weights.h5, .h5 or .keras file or of a published "
            f"version. Received: {weights!r}{'' if path.is_file() else lacking}."
        )


def base_weights(weights: str) -> str:
    """What the manifest records: `imagenet`, `random`, or `sha256:<hash>` of the file that holds them.

    Raises InvalidArgument for what is none of these.
    """
    check_weights(weights)
    if weights in (IMAGENET, RANDOM):
        return weights
    path = Path(weights)
    try:
        return f"sha256:{sha256(path / _VARIABLES if path.is_dir() else path)}"
    except OSError as error:
        raise InvalidArgument(
            f"Option weights: expected a file that can be read. Received: {weights!r} ({error.strerror})."
        ) from error


def load_backbone(backbone: Backbone, height: int, width: int, weights: str) -> "keras.Model":
    """The network of `keras.applications` without its classifier, for f32 `[B, height, width, 3]`, preprocessed.

    Raises InvalidArgument for a picture smaller than the network takes, Unavailable where ImageNet's weights cannot be
    downloaded and DataError where a file or a version does not hold this network's.
    """
    check_weights(weights)
    check_size(backbone, height=height, width=width)
    shape = (height, width, 3)
    if weights == IMAGENET:
        return _imagenet(backbone, shape)
    model = _constructor(backbone)(include_top=False, weights=None, input_shape=shape)
    if weights == RANDOM:
        _log.warning("%s: random weights, as asked for: its features carry no knowledge of pictures", backbone.name)
        return model
    _read(model, backbone, Path(weights))
    return model


def settle(base: "keras.Model", pixels: Any) -> None:
    """Give every batch normalisation the statistics of `pixels`, f32 `[B,H,W,3]`, preprocessed, and a pace to learn others.

    Random weights have none, and without them the signal fades from layer to layer: a frozen base would answer all alike.
    """
    import keras

    layers = [layer for layer in _leaves(base) if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = 0.0
    base(pixels, training=True)
    for layer in layers:
        layer.momentum = _MOMENTUM


def unfreeze(base: "keras.Model", layers: int, *, normalisation: bool = False) -> None:
    """Let the last `layers` that have a kernel learn, and what lies between and after.

    Batch normalisation among them keeps what it was pretrained with, unless `normalisation` says that it was not.
    """
    import keras

    leaves = _leaves(base)
    with_kernel = [index for index, layer in enumerate(leaves) if _has_kernel(layer)]
    first = with_kernel[-layers] if layers else len(leaves)
    base.trainable = True
    for index, layer in enumerate(leaves):
        layer.trainable = index >= first and (normalisation or not isinstance(layer, keras.layers.BatchNormalization))


def check_unfreeze(base: "keras.Model", backbone: Backbone, layers: int) -> None:
    """Raise InvalidArgument where the network has fewer layers with a kernel."""
    known = sum(map(_has_kernel, _leaves(base)))
    if layers > known:
        raise InvalidArgument(
            f"Option unfreeze: expected at most {known}, the layers of {backbone.name} with a kernel. Received: {layers}."
        )


def _is_version(path: Path) -> bool:
    return (path / SAVED_MODEL_FILE).is_file() and (path / _VARIABLES).is_file()


def _has_kernel(layer: "keras.layers.Layer") -> bool:
    return any(len(weight.shape) > 1 for weight in layer.weights)


def _constructor(backbone: Backbone) -> Any:
    import keras

    return getattr(keras.applications, backbone.constructor)


def _imagenet(backbone: Backbone, shape: tuple[int, int, int]) -> "keras.Model":
    try:
        with _impatient():
            return _constructor(backbone)(include_top=False, weights=IMAGENET, input_shape=shape)
    except Exception as error:  # keras raises bare Exception for a failed download
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unavailable(
            f"ImageNet's weights for {backbone.constructor} could not be downloaded: {reason}. Expected a network, or "
            "--set weights=FILE (a .weights.h5, .h5 or .keras file), or --set weights=random for a base without knowledge."
        ) from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Let a connection that stays silent fail: Keras's download has no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SILENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(model: "keras.Model", backbone: Backbone, path: Path) -> None:
    """Put weights out of a file or a version into the model. What comes before and after the network's own is passed over."""
    title = "/".join(path.parts[-2:]) if path.is_dir() else path.name
    try:
        if path.name.endswith(".weights.h5"):
            with warnings.catch_warnings():
                # Keras only warns of layers the file lacks, and leaves them as they were made.
                warnings.filterwarnings("error", "Skipping", UserWarning)
                model.load_weights(path)
        else:
            _transfer(_arrays_of(path), model)
    except (ValueError, OSError, KeyError, TypeError, UserWarning) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"{title}: expected the weights of {backbone.constructor}. Received: {reason}.") from error
    for layer in model.layers:
        if not all(np.isfinite(values).all() for values in layer.get_weights()):
            raise DataError(f"{title}: expected finite weights. Received: others in layer {layer.name}.")


def _arrays_of(path: Path) -> list[np.ndarray]:
    """All weights of a published version, of a .keras file's model or of an .h5 file as Keras 2 wrote it, layer by layer."""
    import h5py  # type: ignore[import-untyped]  # h5py ships no types
    import keras

    if path.is_dir():
        return _arrays_of_version(path)
    if path.suffix == ".keras":
        loaded = keras.models.load_model(path, compile=False)
        return [values for layer in _leaves(loaded) for values in layer.get_weights()]
    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        layers = [group[_text(name)] for name in group.attrs["layer_names"]]
        return [layer[_text(name)][()] for layer in layers for name in layer.attrs["weight_names"]]


def _arrays_of_version(path: Path) -> list[np.ndarray]:
    """The weights that Keras wrote beside the functions, in the order of its layers. Raises ValueError."""
    import tensorflow as tf

    with quiet():
        try:
            variables = getattr(tf.saved_model.load(str(path)), "variables", ())
        except tf.errors.OpError as error:
            raise ValueError(error.message) from error
    return [variable.numpy() for variable in variables if variable.dtype.is_floating]


def _transfer(found: list[np.ndarray], model: "keras.Model") -> None:
    """Give the model the first run of arrays that have its weights' shapes, in order.

    Names are no help: Keras numbers layers through a whole process, and networks leave the naming to it. Raises ValueError.
    """
    leaves = _leaves(model)
    wanted = [tuple(weight.shape) for layer in leaves for weight in layer.weights]
    shapes = [values.shape for values in found]
    starts = (start for start in range(len(shapes) - len(wanted) + 1) if shapes[start : start + len(wanted)] == wanted)
    if (start := next(starts, None)) is None:
        raise ValueError(f"{len(shapes)} arrays, among which its {len(wanted)} are not")
    values = iter(found[start:])
    for layer in leaves:
        layer.set_weights([next(values) for _ in layer.weights])


def _leaves(model: "keras.Model") -> list["keras.layers.Layer"]:
    """The layers of a model in order, those of models inside it in the place of these."""
    return [leaf for layer in model.layers for leaf in (_leaves(layer) if hasattr(layer, "layers") else [layer])]


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
