"""Mixed precision: products in bfloat16 while a network learns, weights and everything that is exported in float32.

bfloat16 has float32's range, so that gradients need no scaling as float16's do. It pays where the hardware multiplies in it,
on GPUs from compute capability 8.0 (Ampere) and processors with matrix tiles (AMX), and where layers are wide.

    with computing_in(model, training_dtype(options)):
        pipeline.fit(model, ...)
    # The same model, in float32 again: judged, proven and exported like any other.

A network is built in float32. Only while it is fitted, its layers compute in another precision than their weights have: the
weights stay the same variables, so that nothing is built, read or downloaded twice. What sees raw units and what answers
stays in float32, and with it the loss: only what lies between the first weights and the last ones changes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from services.errors import InvalidArgument
from training.optimization import GradientOptions
from training.pipeline import CommonOptions

FLOAT32, BFLOAT16 = "float32", "bfloat16"

_LEAST_CAPABILITY = (8, 0)
_CPU_INFO = Path("/proc/cpuinfo")

_log = logging.getLogger(__name__)


def training_dtype(options: CommonOptions, began: str = "") -> str:
    """What layers compute in while they learn: bfloat16 where the options ask for it and the hardware is quicker in it.

    A resumed run goes on in what it `began` in, whatever the hardware. Warns where that is not what is best here.
    """
    if not isinstance(options, GradientOptions) or not options.mixed_precision:
        return FLOAT32
    lacking = shortcoming()
    best = FLOAT32 if lacking else BFLOAT16
    if began and began != best:
        _warn(f"This run began in {began} and goes on in it: here {best} would be quicker.")
    elif lacking:
        _warn(
            "Expected hardware that is quicker in bfloat16 for mixed_precision: a GPU of compute capability 8.0 or more, "
            f"or a CPU with AMX. Found {lacking}: training in float32."
        )
    return began or best


def shortcoming() -> str:
    """What this machine has instead of hardware that is quicker in bfloat16, in words; '' where it has that."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        known = ".".join(map(str, capability))
        return "" if tuple(capability) >= _LEAST_CAPABILITY else f"a GPU of compute capability {known}"
    flags = _CPU_INFO.read_text(encoding="ascii", errors="replace") if _CPU_INFO.exists() else ""
    return "" if "amx_bf16" in flags else "a CPU without AMX"


@contextmanager
def computing_in(model: keras.Model, dtype: str) -> Iterator[None]:
    """While within, the inner layers of a model compute in `dtype`, and afterwards as they did before.

    Raises InvalidArgument where a network that is to compute in bfloat16 has no such layers.
    """
    if dtype == FLOAT32:
        yield
        return
    layers = inner_layers(model)
    if not layers:
        raise InvalidArgument(
            "Expected a network with layers between its first weights and its last ones for mixed_precision: what sees raw "
            f"units and what answers stays in float32. Received: {model.name}, which has none."
        )
    before = [layer.dtype_policy for layer in layers]
    _compute(model, layers, [keras.DTypePolicy(f"mixed_{dtype}")] * len(layers))
    try:
        yield
    finally:
        _compute(model, layers, before)


def inner_layers(model: keras.Model) -> list[Any]:
    """The layers that have weights, or come after some, and before others; the layers inside them included.

    A layer that sees raw units, or answers, may be made of others of which some are inner ones: its `hidden_layers`.
    """
    places, _ = _places(model, [None] * len(model.inputs))
    for place in places:
        place.after = _has_weights(place.operation) or any(parent.after for parent in place.parents)
    for place in reversed(places):
        for parent in place.parents:
            parent.before = parent.before or place.before or _has_weights(place.operation)
    outer = {id(place.operation) for place in places if not (place.after and place.before)}
    inner: dict[int, Any] = {}
    for layer in (place.operation for place in places if isinstance(place.operation, keras.layers.Layer)):
        parts = getattr(layer, "hidden_layers", ()) if id(layer) in outer else (layer,)
        for part in parts:
            # Keras has no public way to the layers inside a layer.
            inner |= {id(each): each for each in part._flatten_layers()}  # noqa: SLF001
    return list(inner.values())


@dataclass
class _Place:
    """One use of an operation in a network. `after`: weights are in it or before it; `before`: others follow."""

    operation: Any
    parents: list["_Place"]
    after: bool = False
    before: bool = False


def _places(model: keras.Model, given: Sequence[_Place | None]) -> tuple[list[_Place], list[_Place | None]]:
    """Every use of an operation in a model and the models inside it, each after those it takes from, and what answers.

    `given` are the places its inputs come from, None outside of all.
    """
    # Keras has no public way to the graph of a model.
    graph = getattr(model, "_functional", None) or model
    sources: dict[int, _Place | None] = dict(zip(map(id, graph.inputs), given, strict=True))
    places: list[_Place] = []
    for depth in sorted(graph._nodes_by_depth, reverse=True):  # noqa: SLF001
        for node in graph._nodes_by_depth[depth]:  # noqa: SLF001
            if node.is_input:
                continue
            parents = [sources[id(tensor)] for tensor in node.input_tensors]
            if isinstance(node.operation, keras.Model):
                inside, answers = _places(node.operation, parents)
                places += inside
            else:
                place = _Place(node.operation, [parent for parent in parents if parent])
                answers = [place] * len(node.outputs)
                places.append(place)
            sources |= zip(map(id, node.outputs), answers, strict=True)
    return places, [sources[id(tensor)] for tensor in graph.outputs]


def _has_weights(operation: Any) -> bool:
    """Whether it learns. Means and spreads of raw values, which Keras counts as weights too, are none."""
    learns = isinstance(operation, keras.layers.Layer) and not isinstance(operation, keras.layers.Normalization)
    return learns and bool(operation.weights)


def _compute(model: keras.Model, layers: Sequence[Any], policies: Sequence[keras.DTypePolicy]) -> None:
    """Let layers follow policies, and forget what was compiled of models while they followed others."""
    for layer, policy in zip(layers, policies, strict=True):
        layer.dtype_policy = policy
    for part in (model, *(layer for layer in model.layers if isinstance(layer, keras.Model))):
        part.train_function = part.test_function = part.predict_function = None


@cache
def _warn(message: str) -> None:
    """Once per process: a search has many trials."""
    _log.warning("%s", message)
