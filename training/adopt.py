"""Read a signature off a Keras model of any origin, and put our names on its tensors.

serving = adopt(model, inputs={"input_layer": "features"}, outputs={}, task="regression")
serving.signature      # features f32 [-1, 8] -> prediction f32 [-1, 1]
"""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from services.errors import InvalidArgument
from services.tensors import BY_NAME, DYNAMIC, Signature, TensorSpec
from training.pipeline import ServingModel

if TYPE_CHECKING:
    import keras

TASK_TENSORS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "regression": ("features", ("prediction",)),
    "classification": ("features", ("probabilities",)),
    "image_classification": ("image", ("probabilities",)),
    "forecasting": ("window", ("forecast",)),
    "text_classification": ("tokens", ("probabilities",)),
    "anomaly_detection": ("features", ("reconstruction", "score", "is_anomaly")),
    "image_features": ("image", ("features",)),
    "text_to_image": ("tokens", ("image",)),
    "tabular_features": ("features", ("hidden",)),
}
"""Input and outputs by task, as the typed HTTP endpoints know them."""

_MADE_UP_INPUT = re.compile(r"(input|input_layer|keras_tensor|inputs)(_\d+)?")


def adopt(
    model: Any,
    *,
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
    task: str = "",
    labels: tuple[str, ...] = (),
) -> ServingModel:
    """Wrap a functional or sequential model so that it takes and returns dicts of named tensors.

    `inputs` and `outputs` map a tensor's name in the model to the one it is to have. Names that Keras made up are replaced
    by the task's, or by `input` and `output`. Raises InvalidArgument for a model without fixed inputs, for element types
    outside the table, for unknown or contradicting names, and where the outputs do not fit the task or the labels.
    """
    import keras

    old_inputs, taken, make = _inputs(model)
    usual_input, usual_outputs = TASK_TENSORS.get(task, ("input", ()))
    new_inputs = _names(
        "input", old_inputs, inputs or {}, [bool(_MADE_UP_INPUT.fullmatch(n)) for n in old_inputs], usual_input
    )
    named = {
        name: keras.Input(shape=tensor.shape[1:], dtype=tensor.dtype, name=name)
        for name, tensor in zip(new_inputs, taken, strict=True)
    }
    answers = make(list(named.values()))
    old_outputs, given, made_up = _outputs(model, answers)
    usual_output = usual_outputs[0] if len(usual_outputs) == 1 else "output"
    new_outputs = _names("output", old_outputs, outputs or {}, made_up, usual_output)
    missing = sorted(set(usual_outputs) - set(new_outputs))
    if missing:
        raise InvalidArgument(
            f"Expected a model for {task} to have the outputs {', '.join(usual_outputs)}. "
            f"Received: {', '.join(new_outputs)}; choose names with --output-name OLD=NEW."
        )
    signature = Signature(
        tuple(_spec(name, tensor) for name, tensor in zip(new_inputs, taken, strict=True)),
        tuple(_spec(name, tensor) for name, tensor in zip(new_outputs, given, strict=True)),
    )
    _check_labels(labels, signature.outputs)
    wrapped = keras.Model(named, dict(zip(new_outputs, given, strict=True)), name=_safe(str(model.name), "model"))
    return ServingModel(wrapped, signature, labels=labels)


def _inputs(model: "keras.Model") -> tuple[list[str], list[Any], Any]:
    """Names and symbolic tensors of the model's inputs, and the function that calls it on as many."""
    import keras

    if isinstance(model, keras.Sequential):
        if not model.built or not model.inputs:
            raise InvalidArgument(
                "Expected a model with known inputs. Received: a Sequential that was never built; call "
                "model.build((None, ...)), or start it with keras.Input, and save it again."
            )
        return [model.inputs[0].name], [model.inputs[0]], lambda tensors: model(tensors[0])
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise InvalidArgument(
            f"Expected a functional or sequential model. Received: {type(model).__name__}, whose inputs are not declared; "
            "wrap it as keras.Model(x, model(x)) with x = keras.Input(...), and save that."
        )
    structure = model.input

    def call(tensors: list[Any]) -> Any:
        return model(keras.tree.pack_sequence_as(structure, tensors))

    return _keys(structure) or [tensor.name for tensor in model.inputs], list(model.inputs), call


def _outputs(model: "keras.Model", answers: Any) -> tuple[list[str], list[Any], list[bool]]:
    """Names and symbolic tensors of what the model returns, and whether Keras made each name up."""
    import keras

    tensors = keras.tree.flatten(answers)
    keys = _keys(answers)
    if keys:
        return keys, tensors, [False] * len(keys)
    if isinstance(model, keras.Sequential):
        last = model.layers[-1]
        return [last.name], tensors, [_made_up(last)]
    operations = {operation.name: operation for operation in model.operations}
    names = list(model.output_names)
    return names, tensors, [_made_up(operations[name]) for name in names]


def _keys(structure: Any) -> list[str]:
    """A plain dict's keys in the order Keras flattens it; nothing for any other structure."""
    if isinstance(structure, dict) and not any(isinstance(value, dict | list | tuple) for value in structure.values()):
        return sorted(structure)
    return []


def _made_up(operation: Any) -> bool:
    """Whether a layer bears the name Keras gives one that nobody named: its class in snake case, and a number."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(operation).__name__).lower()
    return re.fullmatch(rf"{words}(_\d+)?", operation.name) is not None


def _names(side: str, old: Sequence[str], chosen: Mapping[str, str], made_up: Sequence[bool], usual: str) -> list[str]:
    """What the tensors of one side are called: as chosen, or as in the model, or readably where Keras made a name up."""
    unknown = sorted(set(chosen) - set(old))
    if unknown:
        raise InvalidArgument(f"Expected --{side}-name for one of {', '.join(old)}. Received: {', '.join(unknown)}.")
    numbered = made_up.count(True) > 1
    names = []
    for i, (name, invented) in enumerate(zip(old, made_up, strict=True)):
        readable = (f"{usual}_{i + 1}" if numbered else usual) if invented else _safe(name, f"{side}_{i + 1}")
        names.append(chosen.get(name, readable))
    return names


def _safe(name: str, otherwise: str) -> str:
    """A name both formats take: a letter, then letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).lstrip("_0123456789").rstrip("_") or otherwise


def _spec(name: str, tensor: Any) -> TensorSpec:
    if tensor.dtype == "string":
        raise InvalidArgument(
            f"{name}: expected numbers or booleans; strings are a processor's work, before the model. Received: string."
        )
    if tensor.dtype not in BY_NAME or tensor.sparse or getattr(tensor, "ragged", False):
        kind = "a sparse or ragged tensor" if tensor.dtype in BY_NAME else tensor.dtype
        raise InvalidArgument(f"{name}: expected a dense tensor of {', '.join(BY_NAME)}. Received: {kind}.")
    shape = tuple(DYNAMIC if length is None else int(length) for length in tensor.shape)
    return TensorSpec(name, BY_NAME[tensor.dtype], shape)


def _check_labels(labels: tuple[str, ...], outputs: Sequence[TensorSpec]) -> None:
    widths = [spec.shape[-1] for spec in outputs if spec.shape and spec.name == "probabilities"]
    if labels and widths and widths[0] not in {DYNAMIC, len(labels)}:
        raise InvalidArgument(f"Expected {widths[0]} labels, one per probability. Received: {len(labels)}.")
