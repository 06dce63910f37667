"""The generators of load: each sends one request again and again, closed loop, from cores of its own."""

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.load.bench.figures import Figures, read_h2load, read_json, read_perf_analyzer
from tests.load.bench.processes import Slot, run
from tests.load.bench.protocols import OIP_GRPC, TFS_GRPC, Request
from tests.load.bench.servers import PROJECT, Place

_PATIENCE_S = 30.0
_CLIENTS = Path(__file__).parent / "clients"

_WRK_SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nFIGURES {{"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True)
class Target:
    """Where a generator sends what: `address` is host:port, `answer_bytes` the size of a right answer."""

    address: str
    model: str
    request: Request
    answer_bytes: int


@dataclass(frozen=True)
class Load:
    """How much: `concurrency` requests under way at a time, for `seconds`, in the slot.

    `requests` is a number of requests instead of the time, for models that take seconds themselves: a window would cut
    their batches. h2load alone heeds it.
    """

    concurrency: int
    seconds: int
    slot: Slot
    requests: int = 0


@dataclass(frozen=True)
class Generator:
    """`run(target, load, place)` measures once. `missing(place)` says why it cannot run here."""

    name: str
    run: Callable[[Target, Load, Place], Figures]
    missing: Callable[[Place], str | None]
    about: str = ""


def _wrk(target: Target, load: Load, place: Place) -> Figures:
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        body, script = Path(folder) / "body", Path(folder) / "script.lua"
        body.write_bytes(target.request.body)
        headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in target.request.headers.items())
        script.write_text(_WRK_SCRIPT.format(body=body, headers=headers))
        options = ("-t1", f"-c{load.concurrency}", f"-d{load.seconds}s", "--timeout", "20s", "-s", str(script))
        url = f"http://{target.address}{target.request.path}"
        return read_json(run(["wrk", *options, url], load.slot, load.seconds + _PATIENCE_S))


def _h2load(target: Target, load: Load, place: Place) -> Figures:
    """One request at a time on each of `concurrency` connections."""
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(target.request.framed)
        headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
        amount = f"-n{load.requests}" if load.requests else f"-D{load.seconds}"
        how = ("-t1", f"-c{load.concurrency}", "-m1", amount, "-N", "60s", "-T", "60s")
        url = f"http://{target.address}{target.request.path}"
        command = ["h2load", *how, "--log-file", str(log), *headers, "-d", str(body), url]
        output = run(command, load.slot, load.seconds + _PATIENCE_S + 5 * load.requests)
        seconds = None if load.requests else load.seconds
        return read_h2load(output, log.read_text(), target.answer_bytes + 5, seconds)


def _perf_analyzer(target: Target, load: Load, place: Place) -> Figures:
    """Triton's own client, on grpc's C++ library. Three windows share the seconds."""
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        report = Path(folder) / "report.csv"
        kind = {OIP_GRPC: "triton", TFS_GRPC: "tfserving"}[target.request.protocol]
        window_ms = max(500, load.seconds * 1000 // 3)
        options = {
            "--service-kind": kind,
            "--concurrency-range": str(load.concurrency),
            "--measurement-interval": str(window_ms),
            "--stability-percentage": "999",
            "--max-trials": "3",
            "-f": str(report),
        }
        where = ("-m", target.model, "-i", "grpc", "-u", target.address, "--async", "-b", "1")
        flat = [text for pair in options.items() for text in pair]
        libraries = {"LD_LIBRARY_PATH": str(place.peers / "perf" / "lib")}
        binary = str(place.peers / "perf" / "bin" / "perf_analyzer")
        run([binary, *where, *flat], load.slot, load.seconds * 4 + _PATIENCE_S, libraries)
        return read_perf_analyzer(report.read_text(), 3 * window_ms / 1000)


def _client(
    script: str, arguments: Callable[[Target, Place], Sequence[str]]
) -> Callable[[Target, Load, Place], Figures]:
    """A client of our own in another process. It gets the request's message in a file."""

    def measure(target: Target, load: Load, place: Place) -> Figures:
        with tempfile.TemporaryDirectory(dir=place.folder) as folder:
            body = Path(folder) / "body"
            body.write_bytes(target.request.body)
            how = (target.address, target.request.path, str(body), str(load.concurrency), str(load.seconds))
            command = [sys.executable, str(_CLIENTS / script), *how, *(arguments(target, place))]
            environment = {"PYTHONPATH": str(PROJECT)}
            return read_json(run(command, load.slot, load.seconds + _PATIENCE_S, environment))

    return measure


def _needs(program: str) -> Callable[[Place], str | None]:
    return lambda _: None if shutil.which(program) else f"{program} is not installed"


def _needs_perf_analyzer(place: Place) -> str | None:
    binary = place.peers / "perf" / "bin" / "perf_analyzer"
    return None if binary.exists() else "perf_analyzer is not installed: make bench-peers"


WRK, H2LOAD, PERF_ANALYZER, VARIED, OFFICIAL = "wrk", "h2load", "perf_analyzer", "varied", "official"

GENERATORS = {
    generator.name: generator
    for generator in (
        Generator(WRK, _wrk, _needs("wrk"), "HTTP/1.1, C"),
        Generator(H2LOAD, _h2load, _needs("h2load"), "HTTP/2, C; the same header bytes each time"),
        Generator(PERF_ANALYZER, _perf_analyzer, _needs_perf_analyzer, "Triton's client on grpc's C++ library"),
        Generator(
            VARIED,
            _client("varied.py", lambda _, __: ()),
            lambda _: None,
            "HTTP/2; deadline, request id and trace of each call differ",
        ),
        Generator(
            OFFICIAL,
            _client("official.py", lambda target, place: (target.model, str(place.description))),
            lambda _: None,
            "the official Python clients",
        ),
    )
}
