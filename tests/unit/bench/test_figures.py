"""The outputs of the generators, as they print them."""

import math

import pytest

from tests.load.bench.figures import Figures, percentile, read_h2load, read_json, read_perf_analyzer

H2LOAD = """\
finished in 1.00s, 2528.00 req/s, 370.60KB/s
requests: 2592 total, 2592 started, 2528 done, 2528 succeeded, 64 failed, 64 errored, 0 timeout
status codes: 2528 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 370.60KB (379494) total, 79.11KB (81006) headers (space savings 82.10%), {data} data
                     min         max         mean         sd        +/- sd
time for request:     4.05ms     49.17ms     24.94ms      5.13ms    81.61%
"""
PERF_ANALYZER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency\n"
    "64,6356.7,12,30,1,2,3,4,5,9123,12000,15000,19850\n"
)


def log(*microseconds: int, status: int = 200) -> str:
    return "".join(f"{1_000_000 + 1000 * index}\t{status}\t{taken}\n" for index, taken in enumerate(microseconds))


def traffic(size: int) -> str:
    return H2LOAD.format(data=f"{size / 1024:.2f}KB ({size})")


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile([1, 2, 3, 4], 0.99) == 4
    assert percentile([7], 0.01) == 7
    assert math.isnan(percentile([], 0.5))


def test_the_figures_of_a_client_are_its_last_line_of_them() -> None:
    line = 'FIGURES {"requests": 10, "seconds": 2.0, "errors": 1, "p50_ms": 0.5, "p99_ms": 1.5}'
    assert read_json(f"Running 2s test\n{line}\n\n") == Figures(10, 2.0, 1, 0.5, 1.5)


@pytest.mark.parametrize(
    "output",
    ["", "connect refused\n", 'FIGURES {"requests": 0, "seconds": 1.0, "errors": 0, "p50_ms": 0, "p99_ms": 0}\n'],
)
def test_a_client_that_was_not_answered_has_no_figures(output: str) -> None:
    with pytest.raises(ValueError, match="Expected a line of figures"):
        read_json(output)


def test_h2loads_times_come_from_its_log() -> None:
    figures = read_h2load(traffic(3 * 40), log(3000, 1000, 2000), answer_bytes=40, seconds=1)
    assert figures == Figures(3, 1, 0, 2.0, 3.0)


def test_h2load_without_a_duration_took_from_the_first_start_to_the_last_end() -> None:
    figures = read_h2load(traffic(2 * 40), log(500_000, 1_499_000), answer_bytes=40)
    assert figures.seconds == pytest.approx(1.5)


def test_an_answer_without_its_message_is_an_error_though_its_status_is_200() -> None:
    assert read_h2load(traffic(2 * 40), log(1, 1, 1), answer_bytes=40, seconds=1).errors == 1


def test_a_refused_request_is_one_error_not_two() -> None:
    assert read_h2load(traffic(40), log(1) + log(1, status=503), answer_bytes=40, seconds=1).errors == 1


def test_h2load_that_was_not_answered_has_no_figures() -> None:
    with pytest.raises(ValueError, match="Expected answers"):
        read_h2load(traffic(0), "", answer_bytes=40, seconds=1)


def test_perf_analyzers_report_is_read_by_its_columns() -> None:
    assert read_perf_analyzer(PERF_ANALYZER, seconds=3) == Figures(19070, 3, 0, 9.123, 19.85, answered=22248)
