"""MLServer with a runtime of onnxruntime, adaptive batching as its settings configure it."""

import models_env
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self._model = models_env.Model(self.name, models_env.descriptions()[self.name])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        results = self._model.run(rows.astype(self._model.dtype, copy=False))
        outputs = [
            NumpyCodec.encode_output(name=name, payload=result)
            for (name, _), result in zip(self._model.outputs, results, strict=True)
        ]
        return InferenceResponse(model_name=self.name, model_version="1", outputs=outputs)
