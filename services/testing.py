"""Parts for tests: a clock that a test moves, a scheduler and a backend that a test plays, and toy ONNX models.

Shipped, so that a project that builds on cornet can test its own front ends and policies the same way. The model writers
need the `onnx` package (the `train` extra), imported when they are called.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from services.manifest import ONNX_FILE, Manifest, hash_files
from services.tensors import BY_NAME, DEFAULT_SIGNATURE, Signature, TensorSpec

Shape = tuple[int | None, ...]
"""Axes of a toy model's tensor; `None` is a variable one."""

_OPSET, _IR_VERSION = 17, 9


class FakeClock:
    """Seconds that pass only when told to. Call it where `time.monotonic` is expected."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeTimer:
    """What `PuppetScheduler.call_soon` and `call_later` return."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.cancelled = False
        self._callback = callback
        self._args = args

    def cancel(self) -> None:
        self.cancelled = True

    def fire(self) -> None:
        if not self.cancelled:
            self._callback(*self._args)


class PuppetScheduler:
    """An event loop and its worker threads in one, moved by hand.

    scheduler.turn()             run what was due when the turn began, as one turn of asyncio's loop does
    scheduler.advance(0.005)     move the clock, fire the timers that fell due, and run until nothing is ready
    scheduler.work()             let a worker thread finish its oldest job
    scheduler.run()              all of it until nothing is left to do
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.jobs: deque[Callable[[], object]] = deque()
        self.refuse_jobs = False
        self._ready: deque[FakeTimer] = deque()
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()

    def call_soon(self, callback: Callable[..., object], *args: Any) -> FakeTimer:
        timer = FakeTimer(callback, args)
        self._ready.append(timer)
        return timer

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> FakeTimer:
        timer = FakeTimer(callback, args)
        heapq.heappush(self._timers, (self.clock() + delay, next(self._order), timer))
        return timer

    def submit(self, work: Callable[..., object], *args: Any) -> None:
        """Take a job as an executor does. Raises RuntimeError where `refuse_jobs` plays an executor that is shut down."""
        if self.refuse_jobs:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.jobs.append(lambda: work(*args))

    def turn(self) -> None:
        for _ in range(len(self._ready)):
            self._ready.popleft().fire()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        while self._timers and self._timers[0][0] <= self.clock() + 1e-9:
            self._ready.append(heapq.heappop(self._timers)[2])
        while self._ready:
            self.turn()

    def work(self) -> None:
        self.jobs.popleft()()

    def run(self) -> None:
        while self._ready or self.jobs:
            self.turn()
            if self.jobs:
                self.work()


class PuppetBackend:
    """A backend without a model: adds one to `x` float32 `[-1, 2]` and answers it as `y`, unless told otherwise.

    `calls` holds the inputs of every run, in order. `fail` is raised by the next runs where it is set; `reject` is asked
    per run for an error the values deserve; `seconds` pass on the clock during a run.
    """

    platform = "onnxruntime_onnx"
    advisory_shapes = False
    providers = ("CPUExecutionProvider",)
    threads = None
    healthy = True

    def __init__(
        self, clock: FakeClock | None = None, *, seconds: float = 0.0, shape: tuple[int, ...] = (-1, 2)
    ) -> None:
        float32 = BY_NAME["float32"]
        signature = Signature((TensorSpec("x", float32, shape),), (TensorSpec("y", float32, shape),))
        self.signatures: Mapping[str, Signature] = {DEFAULT_SIGNATURE: signature}
        self.calls: list[dict[str, np.ndarray]] = []
        self.fail: Exception | None = None
        self.reject: Callable[[Mapping[str, np.ndarray]], Exception | None] = lambda _inputs: None
        self.closed = False
        self.seconds = seconds
        self._clock = clock

    def run(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...] = ()
    ) -> dict[str, np.ndarray]:
        self.calls.append(dict(inputs))
        if self._clock is not None:
            self._clock.advance(self.seconds)
        error = self.fail or self.reject(inputs)
        if error is not None:
            raise error
        names = outputs or tuple(spec.name for spec in self.signatures[signature].outputs)
        return dict.fromkeys(names, inputs["x"] + 1)

    def close(self) -> None:
        self.closed = True


def write_half_plus_two(version: Path) -> Path:
    """`y = x / 2 + 2`, float32 `[-1, 1]` to `[-1, 1]`: TensorFlow Serving's own test model. Returns the model file."""
    return write_graph(
        version,
        [("Mul", ["x", "half"], ["h"]), ("Add", ["h", "two"], ["y"])],
        {"x": ("float32", (None, 1))},
        {"y": ("float32", (None, 1))},
        {"half": np.array([0.5], np.float32), "two": np.array([2.0], np.float32)},
    )


def write_offset(version: Path, offset: float, *, width: int = 1) -> Path:
    """`y = x + offset`, float32 `[-1, width]`: two versions with different offsets can be told apart by their answers."""
    return write_graph(
        version,
        [("Add", ["x", "offset"], ["y"])],
        {"x": ("float32", (None, width))},
        {"y": ("float32", (None, width))},
        {"offset": np.array([offset], np.float32)},
    )


def write_identity(version: Path, dtype: str = "float32", shape: Shape = (None, None)) -> Path:
    """`y = x` for any element type of the table (`string` included) and any shape."""
    return write_graph(version, [("Identity", ["x"], ["y"])], {"x": (dtype, shape)}, {"y": (dtype, shape)}, {})


def write_string_join(version: Path) -> Path:
    """`joined = left + right`, string `[-1]` each."""
    return write_graph(
        version,
        [("StringConcat", ["left", "right"], ["joined"])],
        {"left": ("string", (None,)), "right": ("string", (None,))},
        {"joined": ("string", (None,))},
        {},
        opset=20,
    )


def write_multi(version: Path) -> Path:
    """Several inputs and outputs of several types.

    `a` float32 `[-1, 3]`, `b` int32 `[-1, 3]`, `flag` bool `[-1, 1]` to `total` float32 `[-1, 3]` (`a + b`), `count` int64
    `[-1, 1]` (sum of `b` along the row) and `above` bool `[-1, 3]` (`a > b`, and `flag`).
    """
    return write_graph(
        version,
        [
            ("Cast", ["b"], ["bf"], {"to": 1}),
            ("Cast", ["b"], ["bl"], {"to": 7}),
            ("Add", ["a", "bf"], ["total"]),
            ("ReduceSum", ["bl", "axis"], ["count"], {"keepdims": 1}),
            ("Greater", ["a", "bf"], ["greater"]),
            ("And", ["greater", "flag"], ["above"]),
        ],
        {"a": ("float32", (None, 3)), "b": ("int32", (None, 3)), "flag": ("bool", (None, 1))},
        {"total": ("float32", (None, 3)), "count": ("int64", (None, 1)), "above": ("bool", (None, 3))},
        {"axis": np.array([1], np.int64)},
    )


def write_row_lengths(version: Path) -> Path:
    """A variable axis: `tokens` int32 `[-1, -1]` to `sum` int32 `[-1]`, the sum along the row."""
    return write_graph(
        version,
        [("ReduceSum", ["tokens", "axis"], ["sum"], {"keepdims": 0})],
        {"tokens": ("int32", (None, None))},
        {"sum": ("int32", (None,))},
        {"axis": np.array([1], np.int64)},
    )


def write_lookup(version: Path, *, entries: int = 10) -> Path:
    """`value = 10 * id` out of a table, int64 `[-1]` to float32 `[-1]`; an id past the table is refused by the runtime."""
    return write_graph(
        version,
        [("Gather", ["table", "id"], ["value"])],
        {"id": ("int64", (None,))},
        {"value": ("float32", (None,))},
        {"table": np.arange(entries, dtype=np.float32) * 10},
    )


def write_not_batchable(version: Path) -> Path:
    """A fixed first axis and a scalar: `x` float32 `[2, 2]` times `scale` float32 `[]` is `y` float32 `[2, 2]`."""
    return write_graph(
        version,
        [("Mul", ["x", "scale"], ["y"])],
        {"x": ("float32", (2, 2)), "scale": ("float32", ())},
        {"y": ("float32", (2, 2))},
        {},
    )


def write_mlp(version: Path, widths: tuple[int, ...] = (8, 64, 64, 1), *, seed: int = 0) -> Path:
    """A Dense ReLU stack with random weights: `features` float32 `[-1, widths[0]]` to `prediction` `[-1, widths[-1]]`."""
    rng = np.random.default_rng(seed)
    nodes: list[tuple[Any, ...]] = []
    weights: dict[str, np.ndarray] = {}
    current = "features"
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        weights[f"w{i}"] = (rng.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)
        weights[f"b{i}"] = np.zeros(columns, np.float32)
        after = "prediction" if last else f"dense{i}"
        nodes.append(("Gemm", [current, f"w{i}", f"b{i}"], [after]))
        if not last:
            nodes.append(("Relu", [after], [f"relu{i}"]))
        current = f"relu{i}"
    inputs = {"features": ("float32", (None, widths[0]))}
    return write_graph(version, nodes, inputs, {"prediction": ("float32", (None, widths[-1]))}, weights)


def write_slow(version: Path, *, width: int = 1024, depth: int = 8) -> Path:
    """A model that takes milliseconds per batch: `depth` square matrix products, float32 `[-1, width]` to the same."""
    weight = np.full((width, width), 1.0 / width, np.float32)
    names = ["x", *(f"h{i}" for i in range(depth - 1)), "y"]
    nodes = [("MatMul", [before, "w"], [after]) for before, after in itertools.pairwise(names)]
    return write_graph(
        version, nodes, {"x": ("float32", (None, width))}, {"y": ("float32", (None, width))}, {"w": weight}
    )


def write_signatures(version: Path) -> Path:
    """Several signatures and the manifest that names them, over `x` float32 `[-1, 2]`. Returns the version.

    `serving_default` and `halved`: `y = x / 2 + 2`. `doubled`: `y = 2 x`, with the same tensors as before. `filled`: `values`
    and `mask` bool `[-1, 2]` to `rows`, in which an element that is not known is 9.
    """
    x, y = ({name: ("float32", (None, 2))} for name in ("x", "y"))
    write_graph(
        version,
        [("Mul", ["x", "factor"], ["scaled"]), ("Add", ["scaled", "two"], ["y"])],
        x,
        y,
        {"factor": np.array(0.5, np.float32), "two": np.array(2, np.float32)},
    )
    twice = {"factor": np.array(2, np.float32)}
    write_graph(version, [("Mul", ["x", "factor"], ["y"])], x, y, twice, file="model-doubled.onnx")
    write_graph(
        version,
        [("Where", ["mask", "values", "nine"], ["rows"])],
        {"values": ("float32", (None, 2)), "mask": ("bool", (None, 2))},
        {"rows": ("float32", (None, 2))},
        {"nine": np.array(9, np.float32)},
        file="model-filled.onnx",
    )
    spec, mask = TensorSpec("x", BY_NAME["float32"], (-1, 2)), TensorSpec("mask", BY_NAME["bool"], (-1, 2))
    plain = Signature((spec,), (replace(spec, name="y"),))
    filled = Signature((replace(spec, name="values"), mask), (replace(spec, name="rows"),))
    Manifest(
        name=version.parent.name,
        family="toy",
        task="",
        created="2026-01-02T03:04:05+00:00",
        signatures={DEFAULT_SIGNATURE: plain, "halved": plain, "doubled": plain, "filled": filled},
        onnx_files={"doubled": "model-doubled.onnx", "filled": "model-filled.onnx"},
        files=hash_files(version),
    ).write(version)
    return version


def write_graph(
    version: Path,
    nodes: list[tuple[Any, ...]],
    inputs: Mapping[str, tuple[str, Shape]],
    outputs: Mapping[str, tuple[str, Shape]],
    weights: Mapping[str, np.ndarray],
    *,
    opset: int = _OPSET,
    file: str = ONNX_FILE,
) -> Path:
    """Any graph: nodes as `(operator, inputs, outputs[, attributes])`, tensors as `(dtype, shape)`. Returns the file."""
    from onnx import helper, numpy_helper, save  # a dev dependency: serving never imports it

    def values(tensors: Mapping[str, tuple[str, Shape]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(BY_NAME[dtype].numpy),
                [f"axis{i}" if axis is None else axis for i, axis in enumerate(shape)],
            )
            for name, (dtype, shape) in tensors.items()
        ]

    graph = helper.make_graph(
        [helper.make_node(op, sources, targets, **dict(*attributes)) for op, sources, targets, *attributes in nodes],
        "toy",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    version.mkdir(parents=True, exist_ok=True)
    path = version / file
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR_VERSION), path)
    return path
