"""What is measured in which order, and what is kept of it."""

import pytest

from tests.load.bench.cells import (
    LONGER,
    SPREAD,
    Cell,
    Results,
    Sample,
    all_cells,
    judged_cells,
    summary,
    usual_cells,
)
from tests.load.bench.figures import Figures
from tests.load.bench.options import parse
from tests.load.bench.servers import SERVERS


def test_every_cell_is_measured_once() -> None:
    cells = all_cells(["family-regressor"])
    assert len(cells) == len(set(cells))
    assert set(judged_cells(["family-regressor"])) <= set(usual_cells(["family-regressor"])) <= set(cells)


def test_every_server_speaks_what_it_is_measured_by() -> None:
    for cell in all_cells(["family-regressor"]):
        if cell.server in SERVERS:
            assert cell.protocol in SERVERS[cell.server].protocols, cell


def test_what_is_compared_is_measured_one_after_the_other() -> None:
    groups = [(cell.model, cell.concurrency) for cell in judged_cells([])]
    changes = [group for group, before in zip(groups, [None, *groups], strict=False) if group != before]
    assert len(changes) == len(set(groups))


def test_rounds_are_longer_where_latencies_are_judged_and_where_runs_take_long() -> None:
    longer = {cell for cell in judged_cells([]) if cell.seconds(2) > 2}
    assert longer == {*SPREAD, *(cell for cell in judged_cells([]) if cell.model == "vgg16")}
    assert {cell.seconds(2) for cell in longer} == {2 * LONGER}


def test_medians_stand_for_the_rounds_and_errors_add_up() -> None:
    samples = [Sample(Figures(n, 1.0, 1, n / 10, n), 0.1, 0.0, 0.0, n) for n in (100, 300, 200)]
    assert summary(samples)["per_second"] == 200
    assert summary(samples)["p50_ms"] == 20
    assert summary(samples)["errors"] == 3
    assert summary(samples)["rss_bytes"] == 300


def test_a_cell_that_failed_is_in_the_results_with_its_reason() -> None:
    results = Results()
    results.failures[Cell("triton", "oip-grpc", "mlp", "h2load", 64)] = "not installed"
    assert results.rows()[0]["failed"] == "not installed"


def test_a_cell_is_given_up_the_second_time_it_fails() -> None:
    results, cell = Results(), Cell("echo-aio", "echo-grpc", "mlp", "h2load", 64)
    results.fail(cell, "no answer")
    assert not results.failures
    results.fail(cell, "still no answer")
    assert results.failures == {cell: "still no answer"}


def test_only_keeps_the_cells_that_fit_every_key() -> None:
    options = parse(["--only", "server=cornet,triton", "at-once=64", "--server-core", "0", "--client-core", "0"])
    assert options.wants(Cell("triton", "oip-grpc", "mlp", "h2load", 64))
    assert not options.wants(Cell("triton", "oip-grpc", "mlp", "h2load", 8))
    assert not options.wants(Cell("aio", "oip-grpc", "mlp", "h2load", 64))


def test_an_unknown_key_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "servers=cornet"])
    assert "servers" in capsys.readouterr().err
