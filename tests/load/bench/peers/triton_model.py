"""The model of Triton's Python backend: the requests of a dynamic batch as one run of onnxruntime."""

import json
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = config["parameters"]["path"]["string_value"]
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input = config["input"][0]["name"]
        self.outputs = [output["name"] for output in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [pb_utils.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        results = self.session.run(self.outputs, {self.input: rows[0] if len(rows) == 1 else np.concatenate(rows)})
        responses, first = [], 0
        for part in rows:
            last = first + len(part)
            tensors = [
                pb_utils.Tensor(name, result[first:last]) for name, result in zip(self.outputs, results, strict=True)
            ]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
            first = last
        return responses
