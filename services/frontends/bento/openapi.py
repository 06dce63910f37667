"""The typed endpoints in OpenAPI 3.0, with an example of each that works on the models that are served."""

from collections.abc import Mapping
from typing import Any

from services.errors import CornetError
from services.frontends.bento.calls import DEFAULT_SCALE, MAX_SCALE, MAX_SIDE, TypedCalls
from services.frontends.bento.endpoints import ENDPOINTS, IMAGES, Endpoint
from services.frontends.bento.examples import example_records, placeholder, with_gaps
from services.processing.imputation import IMPUTE
from services.processing.prompt import HOTTEST, MAX_SEED
from services.server_info import ServerInfo

Json = dict[str, Any]

_NUMBER: Json = {"type": "number"}
_NUMBERS: Json = {"type": "array", "items": _NUMBER}
_CELL: Json = {"nullable": True, "oneOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]}
_FILE: Json = {"type": "string", "format": "binary"}

_RECORDS: Mapping[str, Json] = {
    "records": {
        "description": "One record: an object by column name, or the values in column order. null is a missing value.",
        "oneOf": [{"type": "object", "additionalProperties": _CELL}, {"type": "array", "items": _CELL}],
    },
    "windows": {
        "description": "One window, oldest step first: numbers, or objects by column name, or one object of columns.",
        "oneOf": [
            {
                "type": "array",
                "items": {"oneOf": [_NUMBER, _NUMBERS, {"type": "object", "additionalProperties": _NUMBER}]},
            },
            {"type": "object", "additionalProperties": _NUMBERS},
        ],
    },
    "texts": {"description": "A text; what is beyond the model's length is not read.", "type": "string"},
    "images": {
        "description": "One image file (JPEG, PNG, WebP, GIF, BMP) in base64.",
        "type": "string",
        "format": "byte",
    },
}

_PROMPT: Json = {
    "prompt": {"type": "string", "description": "What to draw; words that the model does not know change nothing."},
    "temperature": {
        "type": "number",
        "minimum": 0,
        "maximum": HOTTEST,
        "nullable": True,
        "description": "How freely: 0 draws the most probable picture. Default: the model's.",
    },
    "seed": {
        "type": "integer",
        "minimum": 0,
        "maximum": MAX_SEED,
        "nullable": True,
        "description": "Equal seeds draw equal pictures. Default: another each time, named in the answer's x-seed.",
    },
}

_CLASSES: Json = {
    "type": "object",
    "required": ["label", "probabilities"],
    "properties": {
        "label": {"type": "string", "description": "The most probable class."},
        "probabilities": {
            "type": "object",
            "additionalProperties": _NUMBER,
            "description": "By class, the most probable first.",
        },
    },
}
_FEATURES: Json = {
    "type": "object",
    "required": ["features"],
    "properties": {"features": {"type": "array", "items": {}}},
}
_ANSWERS: Mapping[str, Json] = {
    "regression": {"type": "object", "required": ["prediction"], "properties": {"prediction": _NUMBER}},
    "classification": _CLASSES,
    "image_classification": _CLASSES,
    "text_classification": _CLASSES,
    "forecasting": {
        "type": "object",
        "required": ["forecast"],
        "properties": {
            "forecast": {
                "description": "The steps after the window; by column where there are several.",
                "oneOf": [_NUMBERS, {"type": "object", "additionalProperties": _NUMBERS}],
            }
        },
    },
    "anomaly_detection": {
        "type": "object",
        "required": ["score", "is_anomaly"],
        "properties": {
            "score": {"type": "number", "description": "How badly the model could rebuild the record."},
            "is_anomaly": {"type": "boolean", "description": "Whether the score is above the model's threshold."},
            "reconstruction": {
                "description": "The record as the model rebuilt it; of a picture, a PNG file in base64.",
                "oneOf": [
                    {"type": "object", "additionalProperties": _NUMBER},
                    _NUMBERS,
                    {"type": "string", "format": "byte"},
                ],
            },
        },
    },
    "image_features": _FEATURES,
    "tabular_features": _FEATURES,
}
_COMPLETED: Json = {
    "type": "object",
    "required": ["record"],
    "properties": {
        "record": {"type": "object", "additionalProperties": _CELL, "description": "All cells, by column name."}
    },
}
_PICTURE: Json = {
    "description": "The picture; x-model and x-model-version name what drew it, x-seed the seed.",
    "headers": {
        "x-model": {"schema": {"type": "string"}},
        "x-model-version": {"schema": {"type": "integer"}},
        "x-seed": {"schema": {"type": "integer"}},
    },
    "content": {"image/png": {"schema": _FILE}},
}

_ERRORS = {
    "400": "The request does not fit: the error names the member, what was expected and what was received.",
    "404": "No such model or version, or no model of this task is served.",
    "413": "The body is larger than the server takes.",
    "429": "Too many requests are waiting; Retry-After says when to try again.",
    "503": "The server is shutting down, or the model is not ready.",
}


async def openapi(calls: TypedCalls, info: ServerInfo) -> Json:
    """The document for the models that are served at this moment."""
    paths = {}
    for endpoint in ENDPOINTS.values():
        model, records = await _example(calls, endpoint)
        paths[f"/{endpoint.name}"] = {"post": _operation(endpoint, model, records)}
    return {
        "openapi": "3.0.3",
        "info": {
            "title": info.name,
            "version": info.version,
            "description": "Typed endpoints, one per task: records in, labelled answers or a picture out.",
        },
        "servers": [{"url": "."}],
        "paths": paths,
        "components": {
            "schemas": {
                "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
            }
        },
    }


async def _example(calls: TypedCalls, endpoint: Endpoint) -> tuple[str, list[Any]]:
    """The default model and a record for it; '' and a placeholder where there is none."""
    try:
        model = calls.choose(endpoint)
        with calls.engine.acquire(model) as handle:
            processor = await calls.processor(handle.servable)
            records = await calls.in_thread(lambda: example_records(handle.servable, processor))
            return model, with_gaps(records) if endpoint.signature == IMPUTE else records
    except CornetError:
        return "", placeholder(endpoint.field)


def _operation(endpoint: Endpoint, model: str, records: list[Any]) -> Json:
    served = (
        f"Answered by `{model}` unless `model` says otherwise." if model else "No single model is served for this task."
    )
    answer = _PICTURE
    if not endpoint.draws:
        answer = {
            "description": "One prediction per record, in order.",
            "content": {"application/json": {"schema": _answer(endpoint)}},
        }
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": served,
        "x-model": model or None,
        "requestBody": {"required": True, "content": _bodies(endpoint, records)},
        "responses": {
            "200": answer,
            **{status: {"description": text, "content": error} for status, text in _ERRORS.items()},
        },
    }


def _bodies(endpoint: Endpoint, records: list[Any]) -> Json:
    options = _options(endpoint)
    if endpoint.draws:
        properties = {**_PROMPT, **options}
        schema = {
            "type": "object",
            "required": [endpoint.field],
            "properties": properties,
            "additionalProperties": False,
        }
        return {"application/json": {"schema": schema, "example": records[0]}}
    items = {name: {"type": "array", "minItems": 1, "items": _RECORDS[name]} for name in endpoint.fields}
    either: Json = {"oneOf": [{"required": [name]} for name in items]} if len(items) > 1 else {"required": list(items)}
    field = IMAGES if endpoint.images and isinstance(records[0], str) else endpoint.field
    bodies: Json = {
        "application/json": {
            "schema": {
                "type": "object",
                **either,
                "properties": {**items, **options},
                "additionalProperties": False,
            },
            "example": {field: records},
        }
    }
    if endpoint.images:
        files = {"type": "array", "items": _FILE, "description": "One or several image files."}
        form = {"type": "object", "required": [IMAGES], "properties": {IMAGES: files, **options}}
        bodies["multipart/form-data"] = {"schema": form}
        bodies["image/*"] = {"schema": {**_FILE, "description": "One image file; the options go into the query."}}
    return bodies


def _options(endpoint: Endpoint) -> Json:
    options: Json = {
        "model": {
            "type": "string",
            "nullable": True,
            "description": f"Default: {endpoint.family}, or the only model of the task.",
        },
        "version": {"type": "integer", "minimum": 1, "nullable": True, "description": "Default: the latest."},
    }
    if endpoint.ranked:
        options["top_k"] = {
            "type": "integer",
            "minimum": 1,
            "nullable": True,
            "description": "How many classes; default all.",
        }
    if endpoint.draws:
        options["scale"] = {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_SCALE,
            "nullable": True,
            "description": (
                f"Pixels of the file for each that is drawn; default {DEFAULT_SCALE}. "
                f"The file has at most {MAX_SIDE} in each direction."
            ),
        }
    return options


def _answer(endpoint: Endpoint) -> Json:
    predictions = _COMPLETED if endpoint.signature == IMPUTE else _ANSWERS[endpoint.task]
    return {
        "type": "object",
        "required": ["model", "version", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "predictions": {"type": "array", "items": predictions},
        },
    }
