"""What a GPU gives: VGG16 from JPEG to features beside the card's own fp16 matrix rate, small models against the CPU.

    python tests/load/gpu_throughput.py --repository exported_models

The models are those in the repository: `vgg16` and its variants (`vgg16-fp16`), and the small ones. Where there is no GPU
that ONNX Runtime can use, it says so and measures nothing. The tables are Markdown, ready for the README.

The matrix rate is what ONNX Runtime reaches with cuBLAS on square fp16 matrices that stay on the card. VGG16's share of it
counts the operations of its convolutions; a share of the data sheet's rate would be smaller. `in process` is cornet's backend
without a server, `one` with one batch at a time, `two` with the next batch on its way. `end to end` is a client's view
of a server on the same machine, which also decodes the pictures, and shares the CPUs with the client.
"""

import argparse
import http.client
import io
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from services.engine.backend import BackendOptions, OnnxBackend
from services.engine.device import CPU, CUDA
from services.engine.loader import spread
from services.launch import ServerProcess
from services.telemetry.gpu import Gpus
from services.tensors import DEFAULT_SIGNATURE, DYNAMIC, TensorSpec
from services.testing import write_graph, write_identity

BATCHES = (1, 8, 64)
SMALL = ("regressor", "cnn", "lstm", "transformer")
PRODUCTS = 16
"""Matrix products in a run of the rate's model."""

_VARIABLE = 32  # length given to variable axes behind the batch
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@dataclass(frozen=True)
class Speed:
    """A model in process: milliseconds of a batch alone, rows a second with one and with two batches in flight."""

    batch_ms: float
    one_per_s: float
    two_per_s: float


@dataclass(frozen=True)
class Served:
    """A model behind a server: rows a second, and what requests took."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


def vgg16_operations(height: int = 224, width: int = 224, channels: int = 3) -> int:
    """Multiplications and additions of VGG16's convolutions for one picture (3x3, stride 1, halved after every block)."""
    total = 0
    for block in _VGG16:
        for filters in block:
            total += 2 * height * width * 9 * channels * filters
            channels = filters
        height, width = height // 2, width // 2
    return total


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of the others does not exceed; not a number where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float) -> str:
    """Three figures that count, or all of a large number; a dash for none."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def fill(spec: TensorSpec, rows: int, seed: int = 0) -> np.ndarray:
    """A batch of plausible values: small whole numbers, or numbers from 0 to 1."""
    shape = [rows, *(_VARIABLE if axis == DYNAMIC else axis for axis in (spec.shape or (rows,))[1:])]
    random = np.random.default_rng(seed)
    if spec.dtype.numpy.kind in "iu":
        return random.integers(1, 100, shape).astype(spec.dtype.numpy)
    return random.random(shape).astype(spec.dtype.numpy)


def variants(repository: Path, name: str) -> dict[str, Path]:
    """`name` and its variants `name-...` in a repository: the folder of the newest version of each."""
    found = {}
    for folder in sorted(repository.glob(f"{name}*")):
        versions = [
            version for version in folder.glob("*") if version.name.isdigit() and (version / "model.onnx").is_file()
        ]
        if versions and (folder.name == name or folder.name.startswith(f"{name}-")):
            found[folder.name] = max(versions, key=lambda version: int(version.name))
    return found


def before_cpu(provider: str) -> tuple[str, ...]:
    """The provider, and the CPU for what it cannot do."""
    return tuple(dict.fromkeys((provider, CPU)))


def absence(provider: str, folder: Path) -> str | None:
    """Why ONNX Runtime cannot run a model by this provider; None where it can."""
    if provider not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime ({onnxruntime.__version__}) has no {provider}"
    backend = OnnxBackend(
        write_identity(folder / "probe"), BackendOptions(providers=before_cpu(provider), allow_cpu_fallback=True)
    )
    found = backend.providers[0]
    backend.close()
    return None if found == provider else f"{provider} is installed and cannot be used: no GPU, or no driver for it"


def matrix_rate(provider: str, size: int, seconds: float, folder: Path) -> float:
    """fp16 operations a second in products of square matrices that stay where they are computed."""
    weight = (np.random.default_rng(0).standard_normal((size, size)) / np.sqrt(size)).astype(np.float16)
    names = ["scaled", *(f"product{i}" for i in range(PRODUCTS))]
    nodes: list[tuple[Any, ...]] = [("Mul", ["w", "x"], ["scaled"])]
    nodes += [("MatMul", [before, "w"], [after]) for before, after in itertools.pairwise(names)]
    nodes.append(("ReduceMax", [names[-1]], ["y"], {"keepdims": 1}))
    path = write_graph(folder / "matrix", nodes, {"x": ("float16", (1, 1))}, {"y": ("float16", (1, 1))}, {"w": weight})
    session = onnxruntime.InferenceSession(str(path), providers=before_cpu(provider))
    feed = {"x": np.ones((1, 1), np.float16)}
    times = timed(lambda: session.run(None, feed), seconds)
    return PRODUCTS * 2 * size**3 / statistics.median(times)


def timed(run: Callable[[], object], seconds: float, *, warm_up: int = 1) -> list[float]:
    """Seconds of each call, for so many seconds and at least two calls, after some that are not counted."""
    for _ in range(warm_up):
        run()
    clock = time.perf_counter
    times: list[float] = []
    began = last = clock()
    while last - began < seconds or len(times) < 2:
        run()
        now = clock()
        times.append(now - last)
        last = now
    return times


def in_process(path: Path, provider: str, rows: int, seconds: float) -> Speed:
    """A model in cornet's backend, with the sessions that the server would make for it."""
    options = BackendOptions(providers=before_cpu(provider), as_device=True)
    backend = OnnxBackend(path / "model.onnx", options)
    if backend.convolves:
        backend.specialise(spread(max(BATCHES)))
    threads = backend.threads
    assert threads is not None
    inputs = {spec.name: fill(spec, rows) for spec in backend.signatures[DEFAULT_SIGNATURE].inputs}

    def run() -> object:
        return backend.run(DEFAULT_SIGNATURE, inputs)

    threads.on_each(run)
    alone = threads.submit(timed, run, seconds).result()
    began = time.perf_counter()
    both = threads.on_each(lambda: len(timed(run, seconds, warm_up=0)))
    elapsed = time.perf_counter() - began
    backend.close()
    return Speed(1000 * statistics.median(alone), rows * len(alone) / sum(alone), rows * sum(both) / elapsed)


def jpeg(width: int = 500, height: int = 375, seed: int = 0) -> bytes:
    """A picture of smooth shapes with some noise, which takes about as long to decode as a photograph."""
    random = np.random.default_rng(seed)
    shapes = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
    noisy = np.asarray(shapes) + random.normal(0, 6, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def typed_request(model: str) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of a typed call with one JPEG."""
    return f"/extract_features?model={model}", jpeg(), {"Content-Type": "image/jpeg"}


def binary_request(model: str, rows: int) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers of an Open Inference Protocol request with decoded pictures, binary both ways."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 224, 224, 3), np.uint8)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "datatype": "UINT8",
                    "shape": list(pixels.shape),
                    "parameters": {"binary_data_size": pixels.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return f"/v2/models/{model}/infer", head + pixels.tobytes(), headers


def drive(
    address: str, request: tuple[str, bytes, dict[str, str]], connections: int, seconds: float
) -> tuple[list[float], float]:
    """Seconds of each request over so many connections, negative where it failed, and until the last one was answered.

    Runs in a process of its own.
    """
    path, body, headers = request
    start = time.perf_counter()
    until = start + seconds

    def one(_index: int) -> list[float]:
        connection = http.client.HTTPConnection(address, timeout=60)
        times = []
        while time.perf_counter() < until:
            began = time.perf_counter()
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            took = time.perf_counter() - began
            times.append(took if answer.status == 200 else -took)
        connection.close()
        return times

    with ThreadPoolExecutor(connections) as threads:
        times = [took for times in threads.map(one, range(connections)) for took in times]
    return times, time.perf_counter() - start


def summarise(clients: Sequence[tuple[Sequence[float], float]], rows: int) -> Served:
    """What the clients saw together: each is what `drive` gave, each request had so many rows."""
    good = [1000 * took for times, _ in clients for took in times if took >= 0]
    errors = sum(took < 0 for times, _ in clients for took in times)
    per_s = sum(rows * sum(took >= 0 for took in times) / seconds for times, seconds in clients)
    return Served(per_s, percentile(good, 0.5), percentile(good, 0.99), errors)


@contextmanager
def served(models: Mapping[str, Path], provider: str, folder: Path) -> Iterator[str]:
    """A server of these models; its HTTP address."""
    repository = folder / "served"
    for name, version in models.items():
        (repository / name).mkdir(parents=True, exist_ok=True)
        (repository / name / version.name).symlink_to(version.resolve())
    with ServerProcess(repository, environment={"CORNET_PROVIDERS": provider}, timeout_s=900) as server:
        yield server.http_url.removeprefix("http://")


def end_to_end(models: Mapping[str, Path], options: argparse.Namespace, folder: Path) -> dict[tuple[str, str], Served]:
    """Every model by both ways in."""
    found = {}
    with (
        served(models, options.provider, folder) as address,
        ProcessPoolExecutor(options.clients, multiprocessing.get_context("spawn")) as clients,
    ):
        for name in models:
            for way, request, rows in (
                ("JPEG, typed endpoint", typed_request(name), 1),
                ("pixels, OIP binary, 8 a request", binary_request(name, 8), 8),
            ):
                each = max(1, options.at_once // options.clients)
                for seconds in (min(2.0, options.seconds), options.seconds):  # the first is the warm-up
                    running = [clients.submit(drive, address, request, each, seconds) for _ in range(options.clients)]
                    seen = [future.result() for future in running]
                found[name, way] = summarise(seen, rows)
    return found


def report(options: argparse.Namespace, folder: Path) -> None:
    """Measure and print."""
    say = sys.stdout.write
    provider = options.provider
    pictures = variants(options.repository, "vgg16")
    rate = matrix_rate(provider, options.matrix, options.seconds, folder)
    share = vgg16_operations() / rate
    say(f"{card()}, onnxruntime {onnxruntime.__version__}, {os.cpu_count()} CPUs; {provider}\n")
    say(f"fp16 matrix rate ({options.matrix} x {options.matrix}): {rate / 1e12:.1f} Tflop/s\n\n")
    rows = []
    for name, path in pictures.items():
        for batch in BATCHES:
            speed = in_process(path, provider, batch, options.seconds)
            figures = (speed.batch_ms, speed.one_per_s, speed.two_per_s)
            rows.append((f"{name}, batch {batch}", *map(number, figures), f"{speed.two_per_s * share:.1%}"))
    head = ("in process", "ms per batch", "images/s, one", "images/s, two", "share of the matrix rate")
    say(table(head, rows) + "\n")
    rows = []
    for (name, way), seen in end_to_end(pictures, options, folder).items() if pictures else ():
        figures = (seen.rows_per_s, seen.p50_ms, seen.p99_ms, seen.errors)
        rows.append((f"{name}: {way}", *map(number, figures), f"{seen.rows_per_s * share:.1%}"))
    head = (
        f"end to end, {options.at_once} at once",
        "images/s",
        "p50 ms",
        "p99 ms",
        "errors",
        "share of the matrix rate",
    )
    say(table(head, rows) + "\n")
    rows = []
    for family in SMALL:
        for name, path in variants(options.repository, family).items():
            for batch in (1, 64):
                gpu, cpu = (in_process(path, one, batch, options.seconds) for one in (provider, CPU))
                ratio = gpu.two_per_s / cpu.two_per_s
                rows.append((f"{name}, batch {batch}", *map(number, (gpu.two_per_s, cpu.two_per_s, ratio))))
    say(table(("small models, two in flight", f"rows/s, {provider}", "rows/s, CPU", "ratio"), rows))


def card() -> str:
    """The GPUs' memory, as far as the driver tells."""
    gpus = [f"GPU {gpu.index} with {(gpu.memory_total_bytes or 0) / 2**30:.0f} GiB" for gpu in Gpus.find().read()]
    return ", ".join(gpus) or "no GPU"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repository", type=Path, default=Path("exported_models"))
    parser.add_argument("--provider", default=CUDA, help="another one tries the script itself")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    parser.add_argument("--matrix", type=int, default=8192, help="rows and columns of the matrices")
    parser.add_argument("--at-once", type=int, default=64, help="requests at a time")
    parser.add_argument("--clients", type=int, default=4, help="processes that send them")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        why = absence(options.provider, Path(folder))
        if why is not None:
            sys.stdout.write(f"not measured: {why}\n")
            return 0
        report(options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
