"""onnxruntime in this process, without a server: what its models can do at most on one thread.

    python inprocess.py <models.json> <model> <rows per run> <seconds>

Times are of single runs; what is counted is rows.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from tests.load.bench.figures import percentile


def measure(description: dict[str, object], batch: int, seconds: float) -> dict[str, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(description["path"]), options, providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0]
    shape = [batch, *(axis if isinstance(axis, int) else 32 for axis in first.shape[1:])]
    feed = {
        first.name: np.ones(shape, {"tensor(float)": "f4", "tensor(int32)": "i4", "tensor(uint8)": "u1"}[first.type])
    }
    times: list[float] = []
    clock = time.perf_counter
    session.run(None, feed)
    cpu_began = time.process_time()
    began = last = clock()
    while last - began < seconds:
        session.run(None, feed)
        now = clock()
        times.append(now - last)
        last = now
    cpu_s = time.process_time() - cpu_began
    times.sort()
    p50, p99 = (1000 * percentile(times, share) for share in (0.5, 0.99))
    spent = {"seconds": last - began, "cpu_s": cpu_s}
    return {"requests": len(times) * batch, **spent, "errors": 0, "p50_ms": p50, "p99_ms": p99}


if __name__ == "__main__":
    models, name, rows, duration = sys.argv[1:5]
    figures = measure(json.loads(Path(models).read_text())[name], int(rows), float(duration))
    sys.stdout.write(f"FIGURES {json.dumps(figures)}\n")
