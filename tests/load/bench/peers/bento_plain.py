"""BentoML alone: one service with an endpoint per model, as its documentation shows it. BENCH_BATCHABLE=1: batching."""

import os
from typing import Any

import bentoml
import models_env
import numpy as np

BATCHABLE = os.environ.get("BENCH_BATCHABLE") == "1"


def endpoint(name: str, dtype: str) -> Any:
    def predict(self: Any, x: np.ndarray) -> np.ndarray:
        answer: np.ndarray = self.models[name].run(x.astype(dtype))[0]
        return answer

    predict.__name__ = method_name(name)
    options: dict[str, Any] = {"batchable": True, "max_batch_size": 64, "max_latency_ms": 60_000} if BATCHABLE else {}
    return bentoml.api(route=f"/{name}", **options)(predict)


def method_name(model: str) -> str:
    return model.replace("-", "_")


def prepare(self: Any) -> None:
    self.models = models_env.models()


METHODS = {
    method_name(name): endpoint(name, models_env.DTYPES[model["input"]["datatype"]])
    for name, model in models_env.descriptions().items()
}
Plain = bentoml.service(workers=1, traffic={"timeout": 60})(type("Plain", (), {"__init__": prepare, **METHODS}))
