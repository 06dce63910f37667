"""`cornet loadtest`: offer a server a load and measure it; `cornet loadtest compare`: two results as ratios."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from services.errors import InvalidArgument
from services.files import check_writable
from services.loadtest import result as results
from services.loadtest.comparison import compare
from services.loadtest.options import default_address, default_metrics_url, parse_loads, parse_shapes
from services.loadtest.plan import Bounds, Target
from services.loadtest.requests import Model
from services.loadtest.screen import print_comparison, print_result, progress
from services.loadtest.thresholds import Thresholds
from services.tensors import DEFAULT_SIGNATURE

loadtest_app = typer.Typer(
    name="loadtest",
    help="Measure a running server under load, or compare two measurements.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

BROKEN = 3
"""The exit status where a threshold was broken, no answer was good, or a search found no load. 1 is an error, 2 a wrong
command line, and 130 that somebody ended the test with Ctrl-C."""
INTERRUPTED = 130


@loadtest_app.callback(invoke_without_command=True)
def loadtest(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="The model to ask.")] = None,
    protocol: Annotated[
        str, typer.Option(help="tfs-grpc, tfs-rest, oip-grpc, oip-rest, oip-rest-binary or typed.")
    ] = "tfs-grpc",
    address: Annotated[
        str | None, typer.Option(help="host:port. Default: 127.0.0.1:8500 for gRPC, 127.0.0.1:8501 for HTTP.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Default: the latest.")] = None,
    signature: Annotated[str, typer.Option(help="Which of the model's; not for typed.")] = DEFAULT_SIGNATURE,
    concurrency: Annotated[
        str | None, typer.Option(help="Closed loop: callers, one step each, as 1,8,64. Default: 1.")
    ] = None,
    rate: Annotated[str | None, typer.Option(help="Open loop: requests per second, one step each, as 100,200.")] = None,
    arrivals: Annotated[str, typer.Option(help="Of an open loop: poisson or constant.")] = "poisson",
    duration: Annotated[float, typer.Option(help="Measured seconds per step, up to 3600.")] = 10.0,
    warm_up: Annotated[float, typer.Option(help="Unmeasured seconds before each step.")] = 1.0,
    rows: Annotated[int, typer.Option(min=1, help="Rows per request.")] = 1,
    variable_axis: Annotated[int, typer.Option(min=1, help="Length of the other axes the model leaves open.")] = 16,
    shape: Annotated[
        list[str] | None, typer.Option(help="An input's whole shape, as tokens=4,64; may be repeated.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="An NPZ of tensors, a JSON body, or a request log, to send instead."
        ),
    ] = None,
    distinct: Annotated[
        int, typer.Option(min=1, max=10_000, help="Different requests made, or taken from a log.")
    ] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of inputs and arrivals.")] = 0,
    find_max: Annotated[
        bool, typer.Option("--find-max", help="Search the highest load within the thresholds, from the load given.")
    ] = False,
    tolerance: Annotated[float, typer.Option(min=0.001, max=1.0, help="Of --find-max, as a share of the load.")] = 0.05,
    p99_ms: Annotated[
        float | None, typer.Option("--max-p99-ms", "--p99-ms", min=0, help="Threshold on the 99th percentile.")
    ] = None,
    max_error_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Threshold on errors / requests. Of --find-max by default 0.")
    ] = None,
    min_rps: Annotated[float | None, typer.Option(min=0, help="Threshold on good answers per second.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until an answer counts as TIMEOUT.")] = 10.0,
    connections: Annotated[
        int, typer.Option(min=0, max=10_000, help="0: what the load needs over HTTP, 4 over gRPC.")
    ] = 0,
    max_requests: Annotated[int, typer.Option(min=1, help="Bound on the requests of a step.")] = 1_000_000,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Bound on unanswered requests of an open loop.")] = 1024,
    metrics_url: Annotated[
        str | None, typer.Option(help="The server's /metrics, '' for none. Default: beside an HTTP target's address.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots here.")] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow an address that is not this machine's. Load what is yours.")
    ] = False,
) -> None:
    """Measure a running server under load. Ctrl-C ends it with what was measured so far.

    The exit status is 3 where a threshold was broken or no answer was good.
    """
    if context.invoked_subcommand is not None:
        return
    if model is None:
        raise InvalidArgument("Expected --model, the name of a model that the server has. Received: none.")
    address = address or default_address(protocol)
    target = Target(
        protocol=protocol,
        address=address,
        model=Model(model, version, signature),
        metrics_url=default_metrics_url(protocol, address) if metrics_url is None else metrics_url,
        rows=rows,
        distinct=distinct,
        seed=seed,
        variable_axis=variable_axis,
        shapes=parse_shapes(shape or []),
        file=file,
        allow_remote=allow_remote,
    )
    bounds = Bounds(duration, warm_up, timeout, connections, max_requests, max_in_flight)
    loads = parse_loads(concurrency, rate, arrivals)
    for path, what in ((json_, f"the result {json_}"), (html, f"the report {html}")):
        if path is not None:
            check_writable(path, what, make_folder=True)
    from services.loadtest.session import run_search, run_steps

    if find_max:
        if len(loads) > 1 or (p99_ms is None and min_rps is None and max_error_rate is None):
            raise InvalidArgument("Expected one load to start from, and a threshold such as --p99-ms, for --find-max.")
        limits = Thresholds(p99_ms, max_error_rate or 0.0, min_rps)
        outcome = run_search(target, bounds, loads[0], limits, tolerance=tolerance, progress=progress)
    else:
        limits = Thresholds(p99_ms, max_error_rate, min_rps)
        outcome = run_steps(target, bounds, loads, limits, progress=progress)
    _deliver(outcome, json_, html)
    if outcome["interrupted"]:
        raise typer.Exit(INTERRUPTED)
    if not outcome["passed"]:
        raise typer.Exit(BROKEN)


@loadtest_app.command("compare")
def compare_results(
    first: Annotated[Path, typer.Argument(help="A result that --json wrote: the base of the ratios.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare two results, load by load: the second's figures over the first's."""
    comparison = compare(results.read(first), results.read(second))
    if json_:
        sys.stdout.write(json.dumps(comparison, indent=2) + "\n")
    else:
        print_comparison(comparison)


@loadtest_app.command("report")
def report_result(
    result: Annotated[Path, typer.Argument(help="A result that --json wrote.")],
    html: Annotated[Path, typer.Argument(help="Where to write the report.")],
) -> None:
    """Write the HTML report of a result."""
    from services.loadtest.report import write_report

    measured = results.read(result)
    check_writable(html, f"the report {html}", make_folder=True)
    write_report(measured, html)


def _deliver(outcome: dict[str, Any], json_: Path | None, html: Path | None) -> None:
    print_result(outcome)
    if json_ is not None:
        results.write(outcome, json_)
    if html is not None:
        from services.loadtest.report import write_report

        write_report(outcome, html)
