"""Thresholds, the client's verdict on itself, the server's figures, and comparisons: all plain functions."""

import pytest

from services.errors import InvalidArgument
from services.loadtest.client_load import judge
from services.loadtest.comparison import compare
from services.loadtest.options import default_metrics_url, parse_loads, parse_shapes
from services.loadtest.plan import Load, Target, is_loopback
from services.loadtest.requests import Model
from services.loadtest.server_metrics import Scrape, difference
from services.loadtest.thresholds import Thresholds


def step(p99=10.0, errors=0.0, rate=100.0, load=1):
    latency = {"p50": p99 and p99 / 2, "p99": p99}
    return {
        "load": {"kind": "closed", "concurrency": load},
        "requests": 200,
        "latency_ms": latency,
        "error_rate": errors,
        "ok_per_s": rate,
    }


@pytest.mark.parametrize(
    ("limits", "measured", "broken"),
    [
        (Thresholds(), step(p99=None, errors=1.0, rate=0.0), 1),
        (Thresholds(max_p99_ms=10.0), step(p99=10.0), 0),
        (Thresholds(max_p99_ms=10.0), step(p99=10.1), 1),
        (Thresholds(max_p99_ms=10.0), step(p99=None), 1),
        (Thresholds(max_error_rate=0.0), step(errors=0.001), 1),
        (Thresholds(min_rps=100.0), step(rate=99.9), 1),
        (Thresholds(1.0, 0.0, 1000.0), step(errors=0.5), 3),
    ],
)
def test_thresholds_say_what_was_broken(limits: Thresholds, measured, broken: int) -> None:
    assert len(limits.broken(measured)) == broken


def test_a_step_without_a_request_or_a_good_answer_is_broken_without_limits() -> None:
    assert Thresholds().broken({**step(p99=None, rate=0.0), "requests": 0}) == [
        "no request was answered: the step says nothing"
    ]
    assert Thresholds().broken(step(p99=None, errors=1.0, rate=0.0)) == ["no good answer to 200 requests"]


@pytest.mark.parametrize(
    ("loop", "late_s", "limited"), [(0.5, None, ""), (0.95, None, "busy 95%"), (0.2, 0.001, ""), (0.2, 0.1, "100 ms")]
)
def test_the_client_says_when_it_is_the_limit(loop: float, late_s: float | None, limited: str) -> None:
    verdict = judge(loop, loop, 0.5, late_s)

    assert limited in verdict.limited
    assert bool(verdict.limited) == bool(limited)


def test_a_busy_machine_is_noted_and_is_not_the_clients_limit() -> None:
    verdict = judge(0.3, 0.3, 0.99, None)

    assert "CPUs of this machine were busy" in verdict.note
    assert not verdict.limited


EXPOSITION = """\
# TYPE cornet_queue_seconds histogram
cornet_queue_seconds_bucket{{model="m",le="0.001"}} {low}
cornet_queue_seconds_bucket{{model="m",le="0.01"}} {high}
cornet_queue_seconds_bucket{{model="m",le="+Inf"}} {high}
cornet_queue_seconds_sum{{model="m"}} {total}
cornet_queue_seconds_count{{model="m"}} {high}
cornet_queue_seconds_bucket{{model="other",le="+Inf"}} 900
cornet_queue_seconds_sum{{model="other"}} 900
cornet_queue_seconds_count{{model="other"}} 900
# TYPE cornet_batch_rows histogram
cornet_batch_rows_bucket{{model="m",le="+Inf"}} {high}
cornet_batch_rows_sum{{model="m"}} {rows}
cornet_batch_rows_count{{model="m"}} {high}
"""


def test_the_servers_figures_are_those_of_the_model_between_two_scrapes() -> None:
    before = Scrape(EXPOSITION.format(low=10, high=20, total=0.5, rows=20), "m")
    after = Scrape(EXPOSITION.format(low=20, high=120, total=1.0, rows=620), "m")

    figures = difference(before, after)

    assert figures["phases"]["queue"]["count"] == 100
    assert figures["phases"]["queue"]["mean_ms"] == pytest.approx(5.0)
    assert figures["phases"]["queue"]["p50_ms"] == pytest.approx(1 + 9 * 40 / 90, abs=1e-3)
    assert (figures["batches"], figures["rows_per_batch"]) == (100, 6.0)


def test_a_server_that_was_started_anew_meanwhile_has_no_figures() -> None:
    before = Scrape(EXPOSITION.format(low=900, high=900, total=0.5, rows=900), "m")
    after = Scrape(EXPOSITION.format(low=100, high=1000, total=1.0, rows=1000), "m")

    assert difference(before, after) is None


def test_a_server_without_our_metrics_has_no_figures() -> None:
    empty = Scrape("# TYPE up gauge\nup 1\n", "m")

    assert difference(empty, empty) is None


def result(*steps, rows=1):
    target = {"protocol": "tfs-grpc", "model": "m", "version": None, "rows_per_request": rows}
    return {"target": target, "steps": list(steps)}


def test_a_comparison_has_the_ratios_of_the_loads_both_have() -> None:
    comparison = compare(result(step(), step(load=8)), result(step(p99=5.0, rate=300.0, load=8), rows=2))

    (row,) = comparison["loads"]
    assert row["load"] == "8 callers"
    assert (row["ok_per_s"]["ratio"], row["p99_ms"]["ratio"], row["error_rate"]["ratio"]) == (3.0, 0.5, None)
    assert comparison["differences"] == ["rows_per_request: 1 and 2"]


def test_results_without_a_common_load_are_not_compared() -> None:
    with pytest.raises(InvalidArgument, match="in both"):
        compare(result(step(load=1)), result(step(load=2)))


def test_loads_are_read_from_the_command_line() -> None:
    assert parse_loads(None, None, "poisson") == [Load("closed", 1)]
    assert parse_loads("1,8", None, "poisson") == [Load("closed", 1), Load("closed", 8)]
    assert parse_loads(None, "0.5,20", "constant") == [Load("constant", 0.5), Load("constant", 20)]


@pytest.mark.parametrize(
    "texts",
    [
        ("1", "2", "poisson"),
        ("0", None, "poisson"),
        ("1.5", None, "poisson"),
        (None, "x", "poisson"),
        (None, "1", "burst"),
    ],
)
def test_loads_that_make_no_sense_are_refused(texts) -> None:
    with pytest.raises(InvalidArgument):
        parse_loads(*texts)


def test_shapes_are_read_from_the_command_line() -> None:
    assert parse_shapes(["tokens=4,64", "scale="]) == {"tokens": (4, 64), "scale": ()}
    with pytest.raises(InvalidArgument):
        parse_shapes(["tokens=a"])


@pytest.mark.parametrize("host", ["example.com", "10.0.0.1", "0.0.0.0", "::"])
def test_another_machine_is_refused_unless_it_is_allowed(host: str) -> None:
    address = f"[{host}]:8500" if ":" in host else f"{host}:8500"

    assert not is_loopback(host)
    with pytest.raises(InvalidArgument, match="--allow-remote"):
        Target("tfs-grpc", address, Model("m"))
    assert Target("tfs-grpc", address, Model("m"), allow_remote=True)


def test_the_metrics_address_of_an_allowed_server_is_held_to_the_same_rule() -> None:
    with pytest.raises(InvalidArgument, match="--allow-remote"):
        Target("tfs-grpc", "127.0.0.1:8500", Model("m"), metrics_url="http://example.com:80/metrics")


def test_metrics_are_looked_for_beside_an_http_target_and_at_the_default_port_of_a_grpc_one() -> None:
    assert default_metrics_url("oip-rest", "127.0.0.1:9000") == "http://127.0.0.1:9000/metrics"
    assert default_metrics_url("tfs-grpc", "127.0.0.1:8500") == "http://127.0.0.1:8501/metrics"
    assert default_metrics_url("tfs-grpc", "127.0.0.1:9000") == ""
