"""KServe's SDK: one model class over onnxruntime for every model, one worker."""

from typing import Any

import kserve
import models_env
from kserve import InferOutput, InferResponse


class OnnxModel(kserve.Model):
    def __init__(self, model: models_env.Model) -> None:
        super().__init__(model.name)
        self.model = model
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> InferResponse:
        rows = payload.inputs[0].as_numpy()
        outputs = []
        for (name, datatype), result in zip(self.model.outputs, self.model.run(rows), strict=True):
            output = InferOutput(name=name, shape=list(result.shape), datatype=datatype)
            output.set_data_from_numpy(result, binary_data=False)
            outputs.append(output)
        return InferResponse(response_id=payload.id or "none", model_name=self.name, infer_outputs=outputs)


if __name__ == "__main__":
    ports = {"http_port": models_env.port("http"), "grpc_port": models_env.port("grpc")}
    server = kserve.ModelServer(**ports, workers=1, enable_latency_logging=False, access_log_format="")
    server.start([OnnxModel(model) for model in models_env.models().values()])
