"""The ratios a run ends with."""

import math

import pytest

from tests.load.bench.cells import IN_PROCESS, LIBRARY, Cell, Results, Sample
from tests.load.bench.figures import Figures
from tests.load.bench.generators import H2LOAD
from tests.load.bench.protocols import ECHO_GRPC, OIP_GRPC
from tests.load.bench.targets import Extras, Verdict, judge, rate, ratio


def sample(per_second: float, p50_ms: float = 1.0, p99_ms: float = 2.0) -> Sample:
    return Sample(
        Figures(round(per_second), 1.0, 0, p50_ms, p99_ms), cpu_s=0.5, foreign=0.0, generator=0.5, rss_bytes=1
    )


def results(**rounds: list[Sample]) -> Results:
    found = Results()
    for server, samples in rounds.items():
        for each in samples:
            found.add(Cell(server, OIP_GRPC, "mlp", H2LOAD, 64), each)
    return found


def verdict(found: Results, text: str, extras: Extras | None = None) -> Verdict:
    return next(each for each in judge(found, extras or Extras()) if each.text == text)


def test_a_ratio_is_the_median_of_the_quotients_of_its_rounds() -> None:
    """A slow moment of the machine meets both sides of a round; the ratio of medians would mix rounds."""
    ours, theirs = [sample(300), sample(30), sample(320)], [sample(100), sample(10), sample(80)]
    assert ratio(ours, theirs, rate) == 3.0


def test_a_ratio_that_is_high_enough_is_reached() -> None:
    found = verdict(
        results(cornet=[sample(900)], triton=[sample(300)]), "gRPC ModelInfer, mlp, 64: requests/s over Triton's"
    )
    assert (found.measured, found.bound, found.reached) == (3.0, 3.0, True)


def test_a_ratio_that_is_too_low_is_not_reached() -> None:
    found = verdict(
        results(cornet=[sample(899)], triton=[sample(300)]), "gRPC ModelInfer, mlp, 64: requests/s over Triton's"
    )
    assert found.reached is False


def test_a_bound_from_above_is_reached_below_it() -> None:
    found = verdict(results(cornet=[sample(100, 2.0, 3.9)]), "gRPC ModelInfer, mlp, 64: p99 over p50")
    assert found.reached is True
    assert found.measured == pytest.approx(1.95)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell("echo-native", ECHO_GRPC, "mlp", H2LOAD, 64), "the same of a bare echo on its transport"),
        (Cell("echo-nghttpd", ECHO_GRPC, "mlp", H2LOAD, 64), "the same of nghttpd, a server in C++: the rig's own"),
        (
            Cell(LIBRARY, IN_PROCESS, "cnn", LIBRARY, 64),
            "the same of one run of a model again and again, in process: the core's own",
        ),
    ],
)
def test_the_spread_of_what_serves_no_model_stands_beside_ours_and_is_not_judged(cell: Cell, text: str) -> None:
    found = results(cornet=[sample(100, 2.0, 3.0)])
    for p99_ms in (1.0, 9.0, 3.0):
        found.add(cell, sample(100, 1.0, p99_ms))
    rig = verdict(found, text)
    assert (rig.measured, rig.reached) == (3.0, None)


def test_without_a_peer_nothing_is_said_of_it() -> None:
    found = verdict(results(cornet=[sample(900)]), "gRPC ModelInfer, mlp, 64: requests/s over Triton's")
    assert found.reached is None


def test_a_run_without_any_figure_judges_nothing() -> None:
    assert {each.reached for each in judge(Results(), Extras())} == {None}


def test_no_failed_request_is_reached_only_where_versions_were_changed() -> None:
    text = "while versions load and swap: failed requests"
    assert verdict(Results(), text, Extras(swap_errors=0)).reached is True
    assert verdict(Results(), text, Extras(swap_errors=1)).reached is False
    assert math.isnan(verdict(Results(), text).measured)


def test_cold_starts_and_memory_are_judged_from_what_was_measured_beside_the_cells() -> None:
    extras = Extras(
        cold_s={"cornet": [1.0, 9.0, 1.2], "triton": [2.0, 2.4]},
        rss_bytes={"cornet-lean": 119_000_000, "cornet": 201_000_000},
    )
    cold = verdict(Results(), "cold start to the first right answer over Triton's", extras)
    assert cold.measured == pytest.approx(1.2 / 2.2)
    assert verdict(Results(), "resident memory with the mlp, without the typed endpoints", extras).reached is True
    assert verdict(Results(), "resident memory with the mlp, with the typed endpoints", extras).reached is False


def test_a_rate_is_compared_per_cpu_second_as_well() -> None:
    """Half the requests for the same CPU time cost twice as much, also where a generator at its end hides it."""
    found = verdict(
        results(cornet=[sample(800)], triton=[sample(200)]), "gRPC ModelInfer, mlp, 64: requests/s over Triton's"
    )
    assert found.by_cpu == pytest.approx(4.0)


def test_two_workers_are_compared_with_one() -> None:
    workers = results(**{"cornet-1": [sample(100)], "cornet-2": [sample(150)]})
    text = "two workers over one, all cores shared with the generator, mlp: requests/s"
    found = next(each for each in judge(Results(), Extras(), workers) if each.text == text)
    assert (found.measured, found.reached) == (1.5, True)
