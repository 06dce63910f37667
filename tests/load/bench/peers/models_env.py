"""What every peer's server shares: the models from BENCH_MODELS (a JSON file), each as one session on one thread.

These files run in the peers' own environments: they import nothing of cornet.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

DTYPES = {"FP32": "f4", "FP64": "f8", "INT32": "i4", "INT64": "i8", "UINT8": "u1", "BOOL": "?"}


class Model:
    """One model: `run` takes rows and answers the outputs in the order of `outputs`."""

    def __init__(self, name: str, description: dict[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.name = name
        self.session = onnxruntime.InferenceSession(description["path"], options, providers=["CPUExecutionProvider"])
        self.input = description["input"]["name"]
        self.datatype = description["input"]["datatype"]
        self.shape = tuple(description["input"]["shape"])
        self.dtype = np.dtype(DTYPES[self.datatype])
        self.outputs = [(output["name"], output["datatype"]) for output in description["outputs"]]
        self._names = [name for name, _ in self.outputs]

    def run(self, rows: np.ndarray) -> list[np.ndarray]:
        results: list[np.ndarray] = self.session.run(self._names, {self.input: rows})
        return results


def descriptions() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(Path(os.environ["BENCH_MODELS"]).read_text())
    return found


def models() -> dict[str, Model]:
    return {name: Model(name, description) for name, description in descriptions().items()}


def port(kind: str) -> int:
    """The port this server was given: `http` or `grpc`."""
    return int(os.environ[f"BENCH_{kind.upper()}_PORT"])
