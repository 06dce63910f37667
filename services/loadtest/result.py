"""A result: what it holds, and how it is written and read.

JSON, schema version 1:
- `created`; `target` (protocol, address, model, inputs, rows per request, ...); `bounds` (seconds, warm-up, time limit,
  connections, ...); `thresholds`; `client` (python, machine); `passed`: whether every step had good answers and kept every
  threshold, or the search found a load; `interrupted`: whether somebody ended the test early, which then has not passed;
- `steps`, in the order they ran, each with `load` (`kind` and `concurrency` or `rate_per_s`), `requests` (answered or
  failed), `unfinished` (cut by an interruption, and counted nowhere else), `ok`, `errors` by code with an `error_examples`
  text each, `error_rate`, `seconds`, `ok_per_s`, `rows_per_s` (null where rows are not known),
  `latency_ms` of good answers (mean, min, p50, p90, p95, p99, p999, max; in an open loop from the due time),
  `lateness_ms` (open loop: how late the client sent), `histogram` (upper bounds in milliseconds, counts), `timeline` per
  second, `client` (see `ClientLoad`), `server` (per phase count, mean, p50 and p99 in milliseconds; batches, rows per batch;
  null where there are no metrics) and `broken`: the thresholds it broke, in words;
- `search`: null, or `unit`, `best` and `failed` load, `tolerance`, `ok_per_s` at the best, and `client_limited`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.errors import DataError
from services.files import write_whole
from services.loadtest.client_load import ClientLoad
from services.loadtest.measurement import Recorder
from services.loadtest.plan import Load

SCHEMA_VERSION = 1


def step_result(
    load: Load, recorder: Recorder, client: ClientLoad, server: Mapping[str, Any] | None, rows: int | None
) -> dict[str, Any]:
    """A step as the schema has it, without `broken`."""
    latency = recorder.latency
    errors = sum(recorder.errors.values())
    ok_per_s = latency.count / recorder.seconds if recorder.seconds else 0.0
    return {
        "load": load.to_json(),
        "requests": recorder.requests,
        "unfinished": recorder.unfinished,
        "ok": latency.count,
        "errors": dict(recorder.errors),
        "error_examples": recorder.examples,
        "error_rate": round(errors / recorder.requests, 6) if recorder.requests else 0.0,
        "seconds": round(recorder.seconds, 4),
        "ok_per_s": round(ok_per_s, 2),
        "rows_per_s": None if rows is None else round(ok_per_s * rows, 2),
        "latency_ms": latency.summary_ms(),
        "lateness_ms": None if load.kind == "closed" else recorder.lateness.summary_ms(),
        "histogram": latency.to_json(),
        "timeline": recorder.timeline(),
        "client": client.to_json(),
        "server": server,
    }


def write(result: Mapping[str, Any], path: Path) -> None:
    write_whole(path, json.dumps(result, indent=2) + "\n", f"the result {path}")


def read(path: Path) -> dict[str, Any]:
    """A result that `write` wrote. Raises DataError."""
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name}: expected a load test's result. Received: {error}.") from error
    if not isinstance(result, dict) or result.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path.name}: expected a load test's result of schema version {SCHEMA_VERSION}.")
    return result


def label(step: Mapping[str, Any]) -> str:
    """A step's load in words."""
    load = step["load"]
    value = load["concurrency"] if load["kind"] == "closed" else load["rate_per_s"]
    return str(Load(load["kind"], value))
