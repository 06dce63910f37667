"""Tensor specifications, and the one table of element types.

Every part that must name an element type (a manifest, TensorFlow's DataType enum, the Open Inference Protocol's
datatype, ONNX Runtime's type string) looks it up here.

String tensors are numpy arrays of dtype `object` that hold `bytes`: neither dialect promises UTF-8.

Sources: tensorflow/core/framework/types.proto (enum values), the Open Inference Protocol's "Tensor Data Types" table,
onnxruntime's `NodeArg.type`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.errors import InvalidArgument, ManifestError

DYNAMIC = -1
"""An axis whose length is not fixed: the batch, or a variable axis."""

DEFAULT_SIGNATURE = "serving_default"
"""The signature that answers where none is named; what an export has, and a plain ONNX file is taken to have."""


@dataclass(frozen=True, slots=True)
class DType:
    """One element type under all the names it goes by.

    `name` is numpy's (`float32`, `bool`, ...) or `string`; `tf_enum` the value of tensorflow.DataType and `tf_name` its
    name; `oip` the Open Inference Protocol's datatype; `ort` ONNX Runtime's type string. `itemsize` is in bytes, 0 for
    strings.
    """

    name: str
    numpy: np.dtype[Any]
    tf_enum: int
    tf_name: str
    oip: str
    ort: str

    @property
    def itemsize(self) -> int:
        return 0 if self.is_string else self.numpy.itemsize

    @property
    def is_string(self) -> bool:
        return self.name == "string"


def _dtype(name: str, tf_enum: int, tf_name: str, oip: str, ort: str) -> DType:
    return DType(name, np.dtype("object" if name == "string" else name), tf_enum, tf_name, oip, f"tensor({ort})")


DTYPES: tuple[DType, ...] = (
    _dtype("float32", 1, "DT_FLOAT", "FP32", "float"),
    _dtype("float64", 2, "DT_DOUBLE", "FP64", "double"),
    _dtype("int32", 3, "DT_INT32", "INT32", "int32"),
    _dtype("uint8", 4, "DT_UINT8", "UINT8", "uint8"),
    _dtype("int16", 5, "DT_INT16", "INT16", "int16"),
    _dtype("int8", 6, "DT_INT8", "INT8", "int8"),
    _dtype("string", 7, "DT_STRING", "BYTES", "string"),
    _dtype("int64", 9, "DT_INT64", "INT64", "int64"),
    _dtype("bool", 10, "DT_BOOL", "BOOL", "bool"),
    _dtype("uint16", 17, "DT_UINT16", "UINT16", "uint16"),
    _dtype("float16", 19, "DT_HALF", "FP16", "float16"),
    _dtype("uint32", 22, "DT_UINT32", "UINT32", "uint32"),
    _dtype("uint64", 23, "DT_UINT64", "UINT64", "uint64"),
)

BY_NAME: Mapping[str, DType] = {d.name: d for d in DTYPES}
BY_TF_ENUM: Mapping[int, DType] = {d.tf_enum: d for d in DTYPES}
BY_OIP: Mapping[str, DType] = {d.oip: d for d in DTYPES}
BY_ORT: Mapping[str, DType] = {d.ort: d for d in DTYPES}
BY_NUMPY: Mapping[np.dtype[Any], DType] = {d.numpy: d for d in DTYPES}


def dtype_of(array: np.ndarray) -> DType:
    """The table's entry for an array; numpy's `S` and `U` arrays count as strings. Raises InvalidArgument for others."""
    if array.dtype.kind in "SU":
        return BY_NAME["string"]
    try:
        return BY_NUMPY[array.dtype]
    except KeyError:
        raise InvalidArgument(
            f"Expected an element type out of {', '.join(BY_NAME)}. Received: {array.dtype.name}."
        ) from None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, element type and shape of one tensor of a signature.

    `shape` has `-1` for the batch axis (the first, in a batchable signature) and for every variable axis; `None` means
    that the model does not say even its rank. `graph_name` is what a TensorFlow graph calls the tensor (`dense/Softmax:0`);
    it is told in metadata, and no part of what makes two specifications equal.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...] | None
    graph_name: str = field(default="", compare=False)

    @property
    def batchable(self) -> bool:
        """Whether the first axis counts rows."""
        return bool(self.shape) and self.shape is not None and self.shape[0] == DYNAMIC

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of that shape fits: same rank, and every fixed axis equal."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            want in (DYNAMIC, got) for want, got in zip(self.shape, shape, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype.name, "shape": None if self.shape is None else list(self.shape)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> "TensorSpec":
        """Read what `to_json` wrote; `where` names the place in the manifest for the error. Raises ManifestError."""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
            raise ManifestError(f"{where}: expected an object with name, dtype and shape. Received: {value!r}.")
        if value.get("dtype") not in BY_NAME:
            raise ManifestError(
                f"{where}.dtype: expected one of {', '.join(BY_NAME)}. Received: {value.get('dtype')!r}."
            )
        shape = value.get("shape")
        if shape is None:
            return cls(value["name"], BY_NAME[value["dtype"]], None)
        if not isinstance(shape, list) or not all(type(d) is int and d >= DYNAMIC for d in shape):
            raise ManifestError(f"{where}.shape: expected a list of integers of at least -1. Received: {shape!r}.")
        return cls(value["name"], BY_NAME[value["dtype"]], tuple(shape))

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype.name} {'of any shape' if self.shape is None else list(self.shape)}"


@dataclass(frozen=True, slots=True)
class Signature:
    """Named inputs and outputs of one callable of a model, in the order the model declares them.

    `method_name` is TensorFlow Serving's name of what the callable is for, told in metadata.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    method_name: str = field(default="tensorflow/serving/predict", compare=False)

    @property
    def batchable(self) -> bool:
        """Whether requests may be merged along the first axis: every input and output counts rows there."""
        return all(spec.batchable for spec in (*self.inputs, *self.outputs))
