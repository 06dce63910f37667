"""Triton's statistics extension: how often a version was asked since the server started, and where the time went.

Both transports say the same: the JSON document is the protobuf message's, with numbers as numbers, and every field written.

Source: Triton's `protocol/extension_statistics.md`.
"""

from collections.abc import Iterable
from typing import Any

import orjson

from services.protocols.messages import ModelStatisticsRequest, ModelStatisticsResponse, parse
from services.protocols.oip_grpc import decode_version
from services.telemetry.statistics import Total, VersionStatistics

_NONE = Total()


def decode_request(data: bytes) -> tuple[str, int | None]:
    """The model, '' for all of them, and the version, None for all, of a serialised ModelStatisticsRequest.

    Raises InvalidArgument.
    """
    message = parse(ModelStatisticsRequest, data, "ModelStatisticsRequest")
    return message.name, decode_version(message.version)


def encode_json(statistics: Iterable[VersionStatistics]) -> bytes:
    return orjson.dumps(_document(statistics))


def encode_grpc(statistics: Iterable[VersionStatistics]) -> bytes:
    """The serialised ModelStatisticsResponse."""
    from google.protobuf import json_format

    data: bytes = json_format.ParseDict(_document(statistics), ModelStatisticsResponse()).SerializeToString()
    return data


def _document(statistics: Iterable[VersionStatistics]) -> dict[str, Any]:
    return {"model_stats": [_version(one) for one in statistics]}


def _version(one: VersionStatistics) -> dict[str, Any]:
    totals = {
        "success": one.success,
        "fail": one.fail,
        "queue": one.queue,
        "compute_input": one.compute_input,
        "compute_infer": one.compute_infer,
        "compute_output": one.compute_output,
        "cache_hit": _NONE,
        "cache_miss": _NONE,
    }
    return {
        "name": one.model,
        "version": str(one.version),
        "last_inference": one.last_inference_ms,
        "inference_count": one.inference_count,
        "execution_count": one.execution_count,
        "inference_stats": {name: _duration(total) for name, total in totals.items()},
        "batch_stats": [_batch(rows, runs) for rows, runs in sorted(one.batch_runs.items())],
    }


def _batch(rows: int, runs: Total) -> dict[str, Any]:
    return {
        "batch_size": rows,
        "compute_input": _duration(_NONE),
        "compute_infer": _duration(runs),
        "compute_output": _duration(_NONE),
    }


def _duration(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.ns}
