"""The typed endpoints, seen from the client: one per task, records in, labelled answers or a picture out."""

import itertools
from typing import Any

import numpy as np
import orjson

from services.errors import InvalidArgument
from services.loadtest.requests import Answer, Arrays, Description, Model, Request

_PNG = b"\x89PNG"


class Typed:
    """`POST /<task's endpoint>`. The OpenAPI document says which endpoint serves the model, with an example record."""

    is_grpc = False

    def describe(self, model: Model) -> Request:
        return Request("/openapi.json", verb="GET")

    def description(self, model: Model, answer: Answer) -> Description:
        try:
            paths = orjson.loads(answer.body)["paths"]
            served = {path: operation["post"] for path, operation in paths.items() if "post" in operation}
            for path, operation in served.items():
                if operation.get("x-model") == model.name:
                    content = operation["requestBody"]["content"]["application/json"]
                    return Description(None, path, content["example"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidArgument(f"Expected an OpenAPI document. Received: {answer.body!r:.200}.") from error
        names = ", ".join(sorted({operation["x-model"] for operation in served.values() if operation.get("x-model")}))
        raise InvalidArgument(
            f"Expected the default model of a typed endpoint: {names or 'none'}. Received: {model.name}."
        )

    def predict(self, model: Model, inputs: Arrays) -> Request:
        raise InvalidArgument("Expected a JSON body for the typed endpoints. Received: tensors.")

    def predict_body(self, model: Model, description: Description, body: bytes) -> Request:
        return Request(description.path, body)

    def outputs(self, answer: Answer) -> dict[str, np.ndarray]:
        """The predictions as they are, one object per row; a picture is one."""
        if answer.body.startswith(_PNG):
            return {"predictions": np.array([answer.body], object)}
        predictions = orjson.loads(answer.body)["predictions"]
        rows = np.empty(len(predictions), object)
        rows[:] = predictions
        return {"predictions": rows}


def example_body(model: Model, description: Description, rows: int) -> bytes:
    """A body of `rows` records: the example's, repeated.

    Raises InvalidArgument where the example has none, or is a single record and several are wanted.
    """
    example: dict[str, Any] = dict(description.example or {})
    version = {} if model.version is None else {"version": model.version}
    if isinstance(example.get("prompt"), str):
        if rows != 1:
            raise InvalidArgument(
                f"Expected 1 row per request: {description.path} draws one picture. Received: {rows}."
            )
        return orjson.dumps({**example, "model": model.name, **version})
    for name, value in example.items():
        if isinstance(value, list) and value:
            example[name] = list(itertools.islice(itertools.cycle(value), rows))
            return orjson.dumps({**example, "model": model.name, **version})
    raise InvalidArgument(f"Expected an example with records. Received: {example!r:.200}.")
