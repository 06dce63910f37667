"""A batch job of pictures beside onnxruntime alone on the same batches: rows a second, CPU time, how busy the decoders are.

    python tests/load/batch_throughput.py vgg16 --rows 128 --rounds 3
    python tests/load/batch_throughput.py cnn --rows 20000 --size 28x28 --format png

Three ways alternate in every round, on the same pictures, batches, threads and number of decoding processes:

    alone     onnxruntime on arrays that were decoded before: nothing else runs
    beside    the same, while processes of no job decode the same files and throw the arrays away, until both are done:
              what this machine has to give for this work, whoever does it
    job       `services.batch.run`, from its first batch to its last (`whole`: with its start and its end)

job/alone is what a user asks for; on a machine without a spare CPU decoding takes from the model, so that it cannot reach 1.
job/beside is what the job itself costs. CPU alone/job compares seconds of CPU time, those of starting the decoders
included: it holds on a machine that others use as well. Ratios are made within a round; figures are medians over the rounds.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from services.batch import Summary, run
from services.batch.local_engine import decoding_workers
from services.batch.model import open_backend, read_card, resolve
from services.engine.backend import Backend, available_cpus
from services.processing import Processor, load_processor
from services.tensors import DEFAULT_SIGNATURE

DIFFERENT = 32
"""Pictures that are made; the others are the same files under other names."""


@dataclass(frozen=True)
class Round:
    """Rows a second and CPU seconds of each way; `model_rows_per_s` are the rows over the time the job's model ran.

    Of the time between the job's first batch and its last: `decoders_cpu` is the share in which a decoder had a CPU,
    `decoders_awake` that in which it had one or waited for one, the rest it waited for work (both of /proc/PID/schedstat);
    `decoders_busy` is the job's own account of it, which spreads the time of the first batches over all; `model_busy` the
    share in which the model ran.
    """

    alone_rows_per_s: float
    alone_cpu_s: float
    beside_rows_per_s: float
    job_rows_per_s: float
    whole_rows_per_s: float
    model_rows_per_s: float
    own_cpu_s: float
    decode_cpu_s: float
    decoders_busy: float
    decoders_awake: float
    decoders_cpu: float
    model_busy: float


class Bench:
    """Pictures on disk and decoded, a model, and decoding processes for the way without a job."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._model = resolve(options.repository, options.model)
        card = read_card(self._model.path)
        if card.manifest is None or card.manifest.processor is None or card.manifest.processor.kind != "image":
            sys.exit(f"Expected a model of pictures. Received: {options.model}.")
        self.batch_rows = options.batch_rows or card.batch_rows
        self.workers = decoding_workers("image", options.rows, options.workers)
        self._processor = load_processor(self._model.path, card.manifest.processor)
        self._files = make_pictures(folder / "pictures", options)
        self._batches = [self._processor.encode(files) for files in self._portions()]
        self._pool = ProcessPoolExecutor(max(self.workers, 1), multiprocessing.get_context("spawn"))
        self._discard(self._files[: self.workers])  # starts the processes

    def _portions(self) -> list[list[Path]]:
        return [self._files[start : start + self.batch_rows] for start in range(0, len(self._files), self.batch_rows)]

    def round(self) -> Round:
        rows = len(self._files)
        alone_s, alone_cpu_s = self._model_runs(decoding=False)
        beside_s, _ = self._model_runs(decoding=True)
        return Round(rows / alone_s, alone_cpu_s, rows / beside_s, *self._job())

    def close(self) -> None:
        self._pool.shutdown()

    def _model_runs(self, *, decoding: bool) -> tuple[float, float]:
        """Seconds, and CPU seconds of this process, for all batches on a model as the job opens it, warm."""
        backend: Backend = open_backend(self._model, ())
        backend.run(DEFAULT_SIGNATURE, self._batches[0], ())
        began, cpu = time.perf_counter(), time.process_time()
        running = [self._pool.submit(decode_away, self._processor, files) for files in self._portions() if decoding]
        for batch in self._batches:
            backend.run(DEFAULT_SIGNATURE, batch, ())
        for future in running:
            future.result()
        spent = time.perf_counter() - began, time.process_time() - cpu
        backend.close()
        return spent

    def _discard(self, files: Sequence[Path]) -> None:
        for future in [self._pool.submit(decode_away, self._processor, [file]) for file in files]:
            future.result()

    def _job(self) -> tuple[float, ...]:
        """A Round's fields from `job_rows_per_s` on."""
        idle = decoder_pids()
        seen: list[
            tuple[float, int, float, float]
        ] = []  # of the first and last batch: time, rows done, decoders' seconds

        def progress(done: int, _errors: int, total: int) -> None:
            if done and (not seen or done == total):
                seen.append((time.perf_counter(), done, *scheduled_seconds(decoder_pids() - idle)))

        own, children = time.process_time(), os.times().children_user + os.times().children_system
        with tempfile.TemporaryDirectory(dir=self._folder) as output:
            summary = run(
                self._options.model,
                self._folder / "pictures",
                output,
                repository=self._options.repository,
                batch_rows=self.batch_rows,
                workers=self.workers,
                progress=progress,
            )
        if summary.errors or len(seen) < 2:  # the first and the last
            sys.exit(f"Expected more than one batch and no bad picture. Received: {summary}")
        (first, begun, cpu, queued), (last, done, cpu_at_end, queued_at_end) = seen
        seconds, decoders, part = last - first, max(self.workers, 1), (done - begun) / done
        busy = busy_seconds(summary)
        return (
            (done - begun) / seconds,
            summary.rows_per_s,
            done / busy["compute"],
            time.process_time() - own,
            os.times().children_user + os.times().children_system - children,
            (busy["read"] + busy["decode"]) * part / (seconds * decoders),
            (cpu_at_end + queued_at_end - cpu - queued) / (seconds * decoders),
            (cpu_at_end - cpu) / (seconds * decoders),
            busy["compute"] * part / seconds,
        )


def decode_away(processor: Processor, files: list[Path]) -> None:
    """What a decoder of the job does, without handing on what comes out."""
    processor.encode([file.read_bytes() for file in files])


def make_pictures(folder: Path, options: argparse.Namespace) -> list[Path]:
    """Files of smooth shapes with some noise, which compress about as photographs do."""
    folder.mkdir()
    width, height = map(int, options.size.split("x"))
    random = np.random.default_rng(0)
    files = []
    for index in range(options.rows):
        file = folder / f"{index:07}.{options.format}"
        if index < DIFFERENT:
            shapes = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
            noise = random.normal(0, 6, (height, width, 3))
            Image.fromarray(np.clip(np.asarray(shapes) + noise, 0, 255).astype(np.uint8)).save(file)
        else:
            file.hardlink_to(files[index % DIFFERENT])
        files.append(file)
    return files


def busy_seconds(summary: Summary) -> dict[str, float]:
    """Seconds of each stage, summed over processes."""
    total = summary.model_busy * summary.seconds / summary.stages["compute"]
    return {name: share * total for name, share in summary.stages.items()}


def decoder_pids() -> frozenset[int]:
    return frozenset(process.pid for process in multiprocessing.active_children() if process.pid is not None)


def scheduled_seconds(pids: frozenset[int]) -> tuple[float, float]:
    """On a CPU and waiting for one, of the processes' main threads so far; zeros where a thread of this one decodes."""
    fields = [Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split() for pid in pids]
    return sum(int(on) for on, _, _ in fields) / 1e9, sum(int(queued) for _, queued, _ in fields) / 1e9


def report(bench: Bench, rounds: Sequence[Round]) -> dict[str, float]:
    """Medians of every field, and of the ratios within a round; all of a ratio's rounds are shown."""
    ratios: dict[str, list[float]] = {
        "job/alone": [one.job_rows_per_s / one.alone_rows_per_s for one in rounds],
        "job/beside": [one.job_rows_per_s / one.beside_rows_per_s for one in rounds],
        "beside/alone": [one.beside_rows_per_s / one.alone_rows_per_s for one in rounds],
        "whole/alone": [one.whole_rows_per_s / one.alone_rows_per_s for one in rounds],
        "model/alone": [one.model_rows_per_s / one.alone_rows_per_s for one in rounds],
        "CPU alone/job": [one.alone_cpu_s / (one.own_cpu_s + one.decode_cpu_s) for one in rounds],
    }
    rows = [asdict(one) for one in rounds]
    figures = {name: statistics.median(values) for name, values in ratios.items()}
    figures |= {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    for name, value in figures.items():
        each = f"   ({', '.join(f'{one:.3f}' for one in sorted(ratios[name]))})" if name in ratios else ""
        sys.stdout.write(f"{name:18} {value:.4g}{each}\n")
    sys.stdout.write(
        f"{len(rounds)} rounds, batches of {bench.batch_rows}, {bench.workers} decoders, {available_cpus()} CPUs, "
        f"load {os.getloadavg()[0]:.1f}\n"
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="a model of pictures: NAME or NAME/VERSION")
    parser.add_argument("--repository", type=Path, default=Path("exported_models"))
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-rows", type=int, default=0, help="0: as the model's manifest says")
    parser.add_argument("--workers", type=int, help="decoding processes; default: as a job chooses")
    parser.add_argument("--size", default="500x375", help="width x height of the pictures")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        figures = report(bench, [bench.round() for _ in range(options.rounds)])
        bench.close()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
