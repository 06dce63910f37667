"""What the tables say of each version, as the statistics extension asks it."""

from typing import NamedTuple

import pytest

from services import errors
from services.telemetry.exchange import Exchange
from services.telemetry.metrics import Metrics
from services.telemetry.statistics import statistics


class Answer(NamedTuple):
    queue_us: float = 200.0
    compute_us: float = 1000.0
    batch_rows: int = 2


@pytest.fixture
def metrics() -> Metrics:
    """Versions 1 and 2 of a model `m`."""
    metrics = Metrics(gpus=False)
    for version in (1, 2):
        metrics.track_version("m", version, "AVAILABLE")
    return metrics


def request(metrics: Metrics, version: int | None, code: int = errors.OK, operation: str = "ModelInfer") -> None:
    exchange = Exchange(metrics, "oip-grpc", operation, ())
    exchange.decoded("m")
    if version is not None:
        exchange.inferred(Answer(), version)
    exchange.finish(code)


def test_requests_that_succeed_are_their_versions(metrics: Metrics) -> None:
    request(metrics, 1)
    request(metrics, 2)
    request(metrics, 2)

    first, second = statistics(metrics.tables, {"m": [1, 2]})

    assert (first.success.count, second.success.count) == (1, 2)
    assert second.queue.ns == 400_000
    assert second.compute_infer.ns == 2_000_000
    assert second.last_inference_ms >= first.last_inference_ms > 0


def test_one_that_fails_is_the_highest_versions(metrics: Metrics) -> None:
    request(metrics, None, errors.INVALID_ARGUMENT)

    first, second = statistics(metrics.tables, {"m": [1, 2]})

    assert (first.fail.count, second.fail.count) == (0, 1)
    assert second.fail.ns > 0
    assert second.success.count == second.queue.count == 0


def test_what_is_no_inference_is_not_counted(metrics: Metrics) -> None:
    request(metrics, None, operation="ModelMetadata")

    (one,) = statistics(metrics.tables, {"m": [2]})

    assert one.success.count == one.last_inference_ms == 0


def test_runs_are_counted_by_their_exact_rows_over_all_signatures(metrics: Metrics) -> None:
    for signature, rows, seconds in (("a", 3, 0.5), ("b", 3, 0.25), ("b", 5, 1.0)):
        runs = metrics.batch("m", 2, signature).runs
        runs.kept += (rows, 8, seconds)

    (one,) = statistics(metrics.tables, {"m": [2]})

    assert (one.inference_count, one.execution_count) == (11, 3)
    assert {rows: (total.count, total.ns) for rows, total in one.batch_runs.items()} == {
        3: (2, 750_000_000),
        5: (1, 1_000_000_000),
    }


def test_runs_add_up_over_many_settlings(metrics: Metrics) -> None:
    runs = metrics.batch("m", 2, "a").runs
    for _ in range(3):
        runs.kept += (4, 4, 0.5)
        runs.settle()

    (one,) = statistics(metrics.tables, {"m": [2]})

    assert (one.batch_runs[4].count, one.batch_runs[4].ns) == (3, 1_500_000_000)
