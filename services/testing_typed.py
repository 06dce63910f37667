"""Toy models of every task, with manifests and processors: what the typed endpoints answer on in tests.

    write_family(repository / "regressor" / "1", "regressor")

Each computes something a test can check by hand; see `_GRAPHS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services import testing
from services.manifest import Manifest, hash_files, onnx_file_of
from services.parity import write_samples
from services.processing import Processor
from services.processing.image import ImageProcessor
from services.processing.prompt import PromptProcessor
from services.processing.series import SeriesProcessor
from services.processing.tabular import TabularProcessor
from services.processing.text import TextProcessor
from services.tensors import BY_NAME, DEFAULT_SIGNATURE, Signature, TensorSpec

Tensors = Mapping[str, tuple[str, tuple[int | None, ...]]]

_OPSET = 18
PICTURE_AUTOENCODER = "autoencoder of pictures"
"""A second toy of the family, beside the one in `toys`."""
_TEXTS = ("free entry in a draw", "see you on friday", "win a free prize", "are you free on friday")


@dataclass(frozen=True)
class Toy:
    """One toy: its task, graph and processor."""

    task: str
    inputs: Tensors
    outputs: Tensors
    nodes: tuple[tuple[Any, ...], ...]
    weights: Mapping[str, np.ndarray]
    processor: Processor
    labels: tuple[str, ...] = ()
    further: Mapping[str, "Toy"] = field(default_factory=dict)
    """By signature: what of it counts is its graph."""


def _f32(*values: object) -> np.ndarray:
    return np.array(values, np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def toys() -> dict[str, Toy]:
    """By family.

    regressor: `x + 10 y`. classifier: softmax of `(x, town, 0)`. autoencoder: half of each feature; score is the mean squared
    error, an anomaly above 1. cnn: the share of white, as the probability of `white`. vgg16: the mean of each channel.
    lstm: the window's mean, and twice that. transformer: `long` above three tokens. text_to_image: 2 x 2 pixels, the noise
    times the temperature times 100 in each, and as many more as there are words. rbm: `(x, y, x + y)`; `impute` takes 9 for
    what is missing.
    """
    point = TabularProcessor.fit({"x": [0.0, 1.0], "y": [0.0, 1.0]})
    features: Tensors = {"features": ("float32", (None, 2))}
    return {
        "regressor": Toy(
            "regression",
            features,
            {"prediction": ("float32", (None, 1))},
            (("MatMul", ["features", "w"], ["prediction"]),),
            {"w": _f32([1], [10])},
            point,
        ),
        "classifier": Toy(
            "classification",
            {"features": ("float32", (None, 2))},
            {"probabilities": ("float32", (None, 3))},
            (("MatMul", ["features", "w"], ["logits"]), ("Softmax", ["logits"], ["probabilities"])),
            {"w": _f32([1, 0, 0], [0, 1, 0])},
            TabularProcessor.fit({"x": [0.0, 1.0], "town": ["Bonn", "Ulm"]}),
            ("ant", "bee", "cat"),
        ),
        "autoencoder": Toy(
            "anomaly_detection",
            features,
            {
                "reconstruction": ("float32", (None, 2)),
                "score": ("float32", (None,)),
                "is_anomaly": ("bool", (None,)),
            },
            (
                ("Mul", ["features", "half"], ["reconstruction"]),
                ("Sub", ["features", "reconstruction"], ["error"]),
                ("Mul", ["error", "error"], ["squared"]),
                ("ReduceMean", ["squared", "axis"], ["score"], {"keepdims": 0}),
                ("Greater", ["score", "one"], ["is_anomaly"]),
            ),
            {"half": _f32(0.5), "one": _f32(1), "axis": _ints(1)},
            point,
        ),
        "rbm": Toy(
            "tabular_features",
            features,
            {"hidden": ("float32", (None, 3))},
            (("MatMul", ["features", "w"], ["hidden"]),),
            {"w": _f32([1, 0, 1], [0, 1, 1])},
            point,
            further={
                "impute": Toy(
                    "",
                    {"values": ("float32", (None, 2)), "mask": ("bool", (None, 2))},
                    {"rows": ("float32", (None, 2))},
                    (("Where", ["mask", "values", "nine"], ["rows"]),),
                    {"nine": _f32(9)},
                    point,
                )
            },
        ),
        "cnn": Toy(
            "image_classification",
            {"image": ("uint8", (None, 8, 8, 1))},
            {"probabilities": ("float32", (None, 2))},
            (
                ("Cast", ["image"], ["pixels"], {"to": 1}),
                ("ReduceMean", ["pixels", "axes"], ["mean"], {"keepdims": 0}),
                ("MatMul", ["mean", "w"], ["scaled"]),
                ("Add", ["scaled", "b"], ["probabilities"]),
            ),
            {"axes": _ints(1, 2), "w": _f32([-1 / 255, 1 / 255]), "b": _f32(1, 0)},
            ImageProcessor.fit(8, 8, 1),
            ("black", "white"),
        ),
        "vgg16": Toy(
            "image_features",
            {"image": ("uint8", (None, 4, 6, 3))},
            {"features": ("float32", (None, 3))},
            (
                ("Cast", ["image"], ["pixels"], {"to": 1}),
                ("ReduceMean", ["pixels", "axes"], ["features"], {"keepdims": 0}),
            ),
            {"axes": _ints(1, 2)},
            ImageProcessor.fit(4, 6, 3),
        ),
        "lstm": Toy(
            "forecasting",
            {"window": ("float32", (None, 3, 1))},
            {"forecast": ("float32", (None, 2))},
            (
                ("ReduceMean", ["window", "axis"], ["mean"], {"keepdims": 0}),
                ("MatMul", ["mean", "w"], ["forecast"]),
            ),
            {"axis": _ints(1), "w": _f32([1, 2])},
            SeriesProcessor.fit(["temperature"], 3),
        ),
        "transformer": Toy(
            "text_classification",
            {"tokens": ("int32", (None, None))},
            {"probabilities": ("float32", (None, 2))},
            (
                ("Cast", ["tokens"], ["present"], {"to": 9}),
                ("Cast", ["present"], ["ones"], {"to": 1}),
                ("ReduceSum", ["ones", "axis"], ["length"], {"keepdims": 1}),
                ("MatMul", ["length", "w"], ["scaled"]),
                ("Add", ["scaled", "b"], ["logits"]),
                ("Softmax", ["logits"], ["probabilities"]),
            ),
            {"axis": _ints(1), "w": _f32([0, 1]), "b": _f32(3.5, 0)},
            TextProcessor.fit(_TEXTS * 2, vocabulary_size=80, max_length=16),
            ("short", "long"),
        ),
        "text_to_image": Toy(
            "text_to_image",
            {"tokens": ("int32", (None, None)), "noise": ("float32", (None, 4)), "temperature": ("float32", (None,))},
            {"image": ("uint8", (None, 2, 2))},
            (
                ("Cast", ["tokens"], ["present"], {"to": 9}),
                ("Cast", ["present"], ["ones"], {"to": 1}),
                ("ReduceSum", ["ones", "axis"], ["length"], {"keepdims": 1}),
                ("Unsqueeze", ["temperature", "axis"], ["column"]),
                ("Mul", ["noise", "column"], ["freely"]),
                ("Mul", ["freely", "hundred"], ["drawn"]),
                ("Add", ["drawn", "length"], ["pixels"]),
                ("Reshape", ["pixels", "square"], ["grey"]),
                ("Cast", ["grey"], ["image"], {"to": 2}),
            ),
            {"axis": _ints(1), "hundred": _f32(100), "square": _ints(-1, 2, 2)},
            PromptProcessor.fit(["a bold seven", "the digit 7"] * 2, noise=4, temperature=1.0),
        ),
    }


def write_families(repository: Path) -> None:
    """Write version 1 of every family, under its default name."""
    for family in toys():
        write_family(repository / family / "1", family)


def picture_autoencoder() -> Toy:
    """An autoencoder of pictures: it rebuilds half of each pixel; the score is the mean pixel, an anomaly above 100."""
    return Toy(
        "anomaly_detection",
        {"image": ("uint8", (None, 4, 6, 1))},
        {
            "reconstruction": ("float32", (None, 4, 6, 1)),
            "score": ("float32", (None,)),
            "is_anomaly": ("bool", (None,)),
        },
        (
            ("Cast", ["image"], ["pixels"], {"to": 1}),
            ("Mul", ["pixels", "half"], ["reconstruction"]),
            ("ReduceMean", ["pixels", "axes"], ["score"], {"keepdims": 0}),
            ("Greater", ["score", "limit"], ["is_anomaly"]),
        ),
        {"half": _f32(0.5), "limit": _f32(100), "axes": _ints(1, 2, 3)},
        ImageProcessor.fit(4, 6, 1),
    )


def write_family(version: Path, family: str, *, task: str | None = None, name: str | None = None) -> Manifest:
    """Write a whole version directory, held-out sample rows included. `task` and `name` replace the family's."""
    toy = picture_autoencoder() if family == PICTURE_AUTOENCODER else toys()[family]
    files = {key: onnx_file_of(key) for key in (DEFAULT_SIGNATURE, *toy.further)}
    signatures = {}
    for key, each in {DEFAULT_SIGNATURE: toy, **toy.further}.items():
        testing.write_graph(
            version, list(each.nodes), each.inputs, each.outputs, each.weights, opset=_OPSET, file=files[key]
        )
        signatures[key] = Signature(_specs(each.inputs), _specs(each.outputs))
    samples = {spec.name: _sample(spec) for spec in signatures[DEFAULT_SIGNATURE].inputs}
    write_samples(version, samples, {})
    processor = toy.processor.save(version)
    manifest = Manifest(
        name=name or version.parent.name,
        family=family,
        task=toy.task if task is None else task,
        created="2026-01-31T12:00:00Z",
        signatures=signatures,
        onnx_files={key: file for key, file in files.items() if key != DEFAULT_SIGNATURE},
        processor=processor,
        labels=toy.labels,
        files=hash_files(version),
    )
    manifest.write(version)
    return manifest


def _specs(tensors: Tensors) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, BY_NAME[dtype], tuple(-1 if axis is None else axis for axis in shape))
        for name, (dtype, shape) in tensors.items()
    )


def _sample(spec: TensorSpec) -> np.ndarray:
    shape = [2 if axis == -1 else axis for axis in spec.shape or ()]
    return np.arange(int(np.prod(shape)), dtype=spec.dtype.numpy).reshape(shape)
