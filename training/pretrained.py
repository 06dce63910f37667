"""The weights a pretrained backbone starts from: ImageNet's, a file's, or random ones that were asked for by name."""

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.errors import DataError, InvalidArgument, Unavailable
from services.manifest import sha256

if TYPE_CHECKING:
    import keras

_log = logging.getLogger(__name__)

IMAGENET, RANDOM = "imagenet", "random"
_SUFFIXES = (".h5", ".keras")
_DOWNLOAD_SILENCE_S = 30.0


def check_weights(weights: str) -> None:
    """Raise InvalidArgument for what is neither `imagenet`, `random` nor a weights file."""
    if weights in (IMAGENET, RANDOM):
        return
    path = Path(weights)
    if path.suffix not in _SUFFIXES or not path.is_file():
        raise InvalidArgument(
            f"Option weights: expected imagenet, random, or the path of a .weights.h5, .h5 or .keras file. "
            f"Received: {weights!r}{'' if path.is_file() else ', where there is no file'}."
        )


def base_weights(weights: str) -> str:
    """What the manifest records: `imagenet`, `random`, or `sha256:<hash>` of the file."""
    return weights if weights in (IMAGENET, RANDOM) else f"sha256:{sha256(Path(weights))}"


def vgg16(height: int, width: int, weights: str) -> "keras.Model":
    """`keras.applications.VGG16` without its classifier, for f32 `[B, height, width, 3]`, BGR with the mean taken off.

    Raises Unavailable where ImageNet's weights cannot be downloaded and DataError where a file does not hold VGG16's.
    """
    import keras

    check_weights(weights)
    shape = (height, width, 3)
    if weights == IMAGENET:
        return _imagenet(shape)
    model = keras.applications.VGG16(include_top=False, weights=None, input_shape=shape)
    if weights == RANDOM:
        _log.warning("vgg16: random weights, as asked for: the features carry no knowledge of pictures")
        return model
    _read(model, Path(weights))
    return model


def _imagenet(shape: tuple[int, int, int]) -> "keras.Model":
    import keras

    try:
        with _impatient():
            return keras.applications.VGG16(include_top=False, weights=IMAGENET, input_shape=shape)
    except Exception as error:  # keras raises bare Exception for a failed download
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unavailable(
            f"ImageNet's weights for VGG16 could not be downloaded: {reason}. Expected a network, or "
            "--set weights=FILE (a .weights.h5, .h5 or .keras file), or --set weights=random for features without meaning."
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


def _read(model: "keras.Model", path: Path) -> None:
    """Put a file's weights into the model. What the file has on top of VGG16's convolutions is passed over."""
    import keras

    try:
        if path.suffix == ".keras":
            _copy_by_name(keras.models.load_model(path, compile=False), model, path)
        elif path.name.endswith(".weights.h5"):
            with warnings.catch_warnings():
                # Keras only warns of layers the file lacks, and leaves them as they were made.
                warnings.filterwarnings("error", "Skipping", UserWarning)
                model.load_weights(path)
        else:
            _read_legacy(model, path)
    except (ValueError, OSError, KeyError, TypeError, UserWarning) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise DataError(f"{path.name}: expected the weights of VGG16. Received: {reason}.") from error
    for layer in model.layers:
        if not all(np.isfinite(values).all() for values in layer.get_weights()):
            raise DataError(f"{path.name}: expected finite weights. Received: others in layer {layer.name}.")


def _read_legacy(model: "keras.Model", path: Path) -> None:
    """An .h5 file as Keras 2 wrote it (weights alone or a whole model), by the names of its layers."""
    import h5py  # type: ignore[import-untyped]  # h5py ships no types

    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        _check_names(path, {str(name) for name in group}, model)
    model.load_weights(path, by_name=True)


def _copy_by_name(source: "keras.Model", model: "keras.Model", path: Path) -> None:
    found = {layer.name: layer for layer in _all_layers(source)}
    _check_names(path, set(found), model)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(found[layer.name].get_weights())


def _check_names(path: Path, found: set[str], model: "keras.Model") -> None:
    missing = [layer.name for layer in model.layers if layer.weights and layer.name not in found]
    if missing:
        raise DataError(f"{path.name}: expected VGG16's layers. Found no {', '.join(missing)}.")


def _all_layers(model: "keras.Model") -> Iterator["keras.layers.Layer"]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)
