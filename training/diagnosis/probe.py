"""One look into a network: gradients by layer and the state of its activations, on a batch, changing nothing."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.diagnosis.figures import Activation, ActivationKind

LEAST_SLOPE = 0.05
"""A sigmoid or tanh counts as saturated where its slope is below this share of its greatest: 20 times less gradient passes.

For the sigmoid these are values below 0.0127 and above 0.9873, for tanh those beyond 0.9747 of either sign. That activations
pushed against their bounds stop learning is described by Glorot and Bengio 2010, "Understanding the difficulty of training
deep feedforward neural networks".
"""
CERTAIN = 0.99
"""A softmax counts as saturated in a row where its largest probability is above this: its slope is below 0.01."""

_KINDS: Mapping[str, ActivationKind] = {
    "Relu": "relu",
    "Relu6": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
}


@dataclass(frozen=True)
class Look:
    """What one batch showed, by layer. `peaks` has each ReLU's greatest value per unit, f32 `[units]`."""

    gradient_norm: dict[str, float]
    saturation: dict[str, float]
    peaks: dict[str, np.ndarray]


class Probe:
    """Computes what a training step would, dropout and batch statistics included, and keeps none of it.

    Built for a compiled model, in one place of its training. Layers are the places where weights lie (the paths of the
    variables): so nested models and layers inside layers are seen too. Activations are found in the traced graph, by their
    operations; those inside a loop (the gates of an LSTM) are not seen, nor those of frozen layers, which nothing passes
    through that is learnt.

        probe = Probe(model)
        look = probe.look(inputs, targets, weights)
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._places = places(model)
        self.layers = tuple(dict.fromkeys(self._places))
        self.activations: tuple[Activation, ...] = ()
        """Known after the first look."""
        self._compute = tf.function(self._traced)

    def look(self, inputs: Mapping[str, np.ndarray], targets: np.ndarray, weights: np.ndarray | None) -> Look:
        squares, saturation, peaks = self._compute(dict(inputs), targets, weights)
        return Look(
            {layer: _root(float(value)) for layer, value in squares.items()},
            {layer: float(value) for layer, value in saturation.items()},
            {layer: value.numpy() for layer, value in peaks.items()},
        )

    def weights(self) -> list[np.ndarray]:
        return [np.array(variable.value.numpy()) for variable in self._model.trainable_variables]

    def update_ratio(self, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> dict[str, float]:
        """By layer, the norm of the change over that of the weights, before or after, the larger: some begin at 0."""
        changes = self._norms([new - old for new, old in zip(after, before, strict=True)])
        sizes = [self._norms(weights) for weights in (before, after)]
        return {
            layer: change / size if (size := max(size[layer] for size in sizes)) else 0.0
            for layer, change in changes.items()
        }

    def _norms(self, arrays: Sequence[np.ndarray]) -> dict[str, float]:
        squares = dict.fromkeys(self.layers, 0.0)
        for place, array in zip(self._places, arrays, strict=True):
            squares[place] += float(np.square(array, dtype=np.float64).sum())
        return {layer: _root(square) for layer, square in squares.items()}

    def _traced(self, inputs: Any, targets: Any, weights: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        variables = [variable.value for variable in self._model.trainable_variables]
        # What the layers would keep (moving averages, the state of their random numbers) goes to the scope, which is dropped.
        with keras.StatelessScope(), tf.GradientTape() as tape:
            outputs = self._model(inputs, training=True)
            operations = _activations(tf.nest.flatten(outputs), _depending_on(variables))
            loss = self._model.compute_loss(inputs, targets, outputs, weights, training=True)
        squares: dict[str, Any] = {}
        for place, gradient in zip(self._places, tape.gradient(loss, variables), strict=True):
            if gradient is not None:
                square = tf.reduce_sum(tf.square(tf.cast(tf.convert_to_tensor(gradient), tf.float32)))
                squares[place] = squares.get(place, 0.0) + square
        self.activations = tuple(operations)
        saturation = {a.layer: _saturation(a.kind, tensors) for a, tensors in operations.items() if a.kind != "relu"}
        peaks = {a.layer: _peaks(tensors) for a, tensors in operations.items() if a.kind == "relu"}
        return squares, saturation, peaks


def places(model: keras.Model) -> list[str]:
    """The layer of each trainable variable: its path without the variable's own name."""
    return [variable.path.rpartition("/")[0] or variable.path for variable in model.trainable_variables]


def _activations(outputs: Sequence[Any], learnt: Collection[str]) -> dict[Activation, list[Any]]:
    """The activations in the graph that is being traced, with what comes out of them; an unrolled one comes out often.

    Those alone that are among the operations `learnt`, by name.
    """
    found: dict[Activation, list[Any]] = {}
    answers = {tensor.ref() for tensor in outputs}
    for operation in _leading_to(outputs):
        kind = _KINDS.get(operation.type)
        if kind is None or operation.name not in learnt or _gates_its_own_input(operation):
            continue
        (output,) = operation.outputs
        found.setdefault(Activation(_layer(operation.name), kind, output.ref() in answers), []).append(output)
    return found


def _depending_on(variables: Sequence[Any]) -> set[str]:
    """Names of the operations in the graph that is being traced which one of these variables has a part in."""
    graph = tf.compat.v1.get_default_graph()
    handles = {id(variable.handle) for variable in variables}
    names = {inner.op.name for outer, inner in graph.captures if id(outer) in handles}
    for operation in graph.get_operations():  # each after those it takes from
        if any(tensor.op.name in names for tensor in operation.inputs):
            names.add(operation.name)
    return names


def _leading_to(outputs: Sequence[Any]) -> list[Any]:
    """The operations that the outputs depend on, in the order of the graph.

    Keras traces a recurrent cell once outside its loop, for the shapes: what it computes there leads nowhere.
    """
    needed: set[str] = set()
    waiting = [tensor.op for tensor in outputs]
    while waiting:
        operation = waiting.pop()
        if operation.name not in needed:
            needed.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
    return [each for each in tf.compat.v1.get_default_graph().get_operations() if each.name in needed]


def _layer(operation: str) -> str:
    """The path of the layer that made an operation of that name, without the model at its head.

    Keras opens a layer's scope twice, to build and to call it, and TensorFlow numbers the second: `relu_1` is layer `relu`.
    """
    scopes = operation.split("/")[1:-1]
    return "/".join(re.sub(r"_\d+$", "", scope) for scope in scopes) or operation


def _gates_its_own_input(operation: Any) -> bool:
    """Whether this is the inner part of swish (x sigmoid(beta x)) or mish (x tanh(softplus(x))): their slope is another."""
    (source,) = operation.inputs
    if source.op.type == "Softplus":
        return True
    gated = {source.ref()} | ({each.ref() for each in source.op.inputs} if source.op.type == "Mul" else set())
    consumers = operation.outputs[0].consumers()
    return any(each.type == "Mul" and gated & {i.ref() for i in each.inputs} for each in consumers)


def _saturation(kind: ActivationKind, tensors: Sequence[Any]) -> Any:
    shares = []
    for tensor in tensors:
        values = tf.cast(tensor, tf.float32)
        if kind == "softmax":
            near = tf.reduce_max(values, axis=-1) > CERTAIN
        else:
            slope = 4 * values * (1 - values) if kind == "sigmoid" else 1 - tf.square(values)
            near = slope < LEAST_SLOPE
        shares.append(tf.reduce_mean(tf.cast(near, tf.float32)))
    return tf.add_n(shares) / len(shares)


def _peaks(tensors: Sequence[Any]) -> Any:
    peaks = [tf.reduce_max(tensor, axis=list(range(len(tensor.shape) - 1))) for tensor in tensors]
    return tf.cast(tf.reduce_max(tf.stack(peaks), axis=0), tf.float32)


def _root(square: float) -> float:
    return math.sqrt(square) if math.isfinite(square) else math.inf
