"""The way a GPU is fed, played on the CPU: the same threads, buffers and runs, in ordinary memory."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services import testing
from services.engine import engine as engine_module
from services.engine.backend import BackendOptions, OnnxBackend
from services.engine.device import CUDA, Device, GpuOptions
from services.engine.device_runs import DeviceRunner
from services.engine.engine import Engine, EngineOptions
from services.engine.host_memory import BufferPool, PageableMemory
from services.engine.loader import LoadOptions, load, spread
from services.engine.merging import Piece, run_pieces
from services.engine.model_config import BatchingConfig, ModelConfig
from services.engine.request import InferenceRequest
from services.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from services.tensors import DTYPES

SIGNATURE = "serving_default"
AS_DEVICE = BackendOptions(as_device=True)


def pool_of(backend: OnnxBackend) -> BufferPool:
    assert backend._pool is not None
    return backend._pool


def rows_of_multi(rows: int) -> dict[str, np.ndarray]:
    return {
        "a": np.arange(rows * 6, dtype=np.float32).reshape(rows, 6)[:, ::2],
        "b": np.ones((rows, 3), np.int32),
        "flag": np.ones((rows, 1), bool),
    }


@pytest.fixture
def identity(tmp_path: Path) -> OnnxBackend:
    return OnnxBackend(testing.write_identity(tmp_path / "1", shape=(None, 3)), AS_DEVICE)


def answer_of(backend: OnnxBackend, value: float, rows: int = 2) -> np.ndarray:
    """What the identity answers for a batch of one value."""
    return backend.run(SIGNATURE, {"x": np.full((rows, 3), value, np.float32)})["y"]


class Intercepted:
    """A session whose runs go through `before` first: it may wait, raise, and see the run's options and rows."""

    def __init__(self, session: Any, before: Callable[[Any, int], None]) -> None:
        self._session = session
        self._before = before

    def run_with_ortvaluevector(self, options: Any, names: Any, feeds: Any, *rest: Any) -> None:
        self._before(options, feeds[0].shape()[0])
        self._session.run_with_ortvaluevector(options, names, feeds, *rest)


def intercept(backend: OnnxBackend, before: Callable[[Any, int], None], *, gpu: int | None = None) -> None:
    graph = backend._graphs[SIGNATURE]
    session = Intercepted(graph.session, before)
    graph.runner = DeviceRunner(session, graph.signature, pool_of(backend), gpu)


def test_the_answers_are_those_of_a_plain_run(tmp_path):
    path = testing.write_multi(tmp_path / "1")
    plain, bound = OnnxBackend(path), OnnxBackend(path, AS_DEVICE)
    for rows in (2, 2, 5, 2, 1):
        want = plain.run(SIGNATURE, rows_of_multi(rows))
        got = bound.run(SIGNATURE, rows_of_multi(rows), ("above", "total"))
        assert list(got) == ["above", "total"]
        for name, array in got.items():
            np.testing.assert_array_equal(array, want[name])


def test_no_rows_are_a_batch_too(tmp_path):
    bound = OnnxBackend(testing.write_multi(tmp_path / "1"), AS_DEVICE)
    for _ in range(2):
        assert {name: array.shape for name, array in bound.run(SIGNATURE, rows_of_multi(0)).items()} == {
            "total": (0, 3),
            "count": (0, 1),
            "above": (0, 3),
        }


def test_outputs_of_a_known_shape_are_written_into_buffers_that_are_used_again(identity):
    pool = pool_of(identity)
    for value in (1.0, 2.0):
        answer_of(identity, value)
    grown = pool.allocated_bytes
    answer = answer_of(identity, 3.0)
    assert (pool.leased, pool.allocated_bytes) == (1, grown)
    assert set(answer.ravel()) == {3.0}


def test_an_answer_that_is_still_held_is_not_written_over(identity):
    answer_of(identity, 0.0)
    held = [answer_of(identity, float(value))[:1] for value in range(5)]
    assert [set(array.ravel()) for array in held] == [{0.0}, {1.0}, {2.0}, {3.0}, {4.0}]


def test_two_batches_in_flight_share_no_buffer(identity):
    def work(value: int) -> bool:
        return all(bool((answer_of(identity, value, rows=1 + turn % 3) == value).all()) for turn in range(60))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))
    assert pool_of(identity).leased == 0


def test_a_second_run_enters_while_the_first_is_under_way(identity):
    both = threading.Barrier(2)
    intercept(identity, lambda _options, _rows: both.wait(30) and None)
    assert identity.threads is not None
    runs = [identity.threads.submit(answer_of, identity, float(value)) for value in (1, 2)]
    assert [set(run.result(30).ravel()) for run in runs] == [{1.0}, {2.0}]


def test_buffers_grow_with_the_batch(identity):
    small, large = answer_of(identity, 1.0, rows=1), answer_of(identity, 2.0, rows=5000)
    assert (small.shape, large.shape) == ((1, 3), (5000, 3))
    assert set(large.ravel()) == {2.0}


def test_beyond_the_bound_of_pinned_memory_ordinary_arrays_do(tmp_path):
    backend = OnnxBackend(testing.write_identity(tmp_path / "1", shape=(None, 3)), AS_DEVICE)
    backend._pool = BufferPool(PageableMemory(), limit_bytes=0)
    intercept(backend, lambda _options, _rows: None)
    assert [set(answer_of(backend, value).ravel()) for value in (1.0, 2.0)] == [{1.0}, {2.0}]


def test_strings_are_run_without_buffers(tmp_path):
    backend = OnnxBackend(testing.write_string_join(tmp_path / "1"), AS_DEVICE)
    inputs = {"left": np.array([b"a"], object), "right": np.array([b"b"], object)}
    assert backend.run(SIGNATURE, inputs)["joined"].tolist() == [b"ab"]
    assert backend.threads is not None  # on a GPU it has its own threads all the same
    backend.close()


def test_a_run_that_fails_gives_its_buffers_up(tmp_path):
    backend = OnnxBackend(testing.write_lookup(tmp_path / "1"), AS_DEVICE)
    good, bad = np.array([3]), np.array([99])
    for _ in range(2):
        backend.run(SIGNATURE, {"id": good})
    with pytest.raises(InvalidArgument, match="idx=99 must be within"):
        backend.run(SIGNATURE, {"id": bad})
    assert (pool_of(backend).leased, pool_of(backend).allocated_bytes) == (0, 0)
    backend.run(SIGNATURE, {"id": good})


def test_a_shape_that_depends_on_the_values_is_not_guessed_twice(tmp_path):
    path = testing.write_graph(
        tmp_path / "1", [("NonZero", ["x"], ["y"])], {"x": ("float32", (None,))}, {"y": ("int64", (1, None))}, {}
    )
    backend = OnnxBackend(path, AS_DEVICE)
    for values, want in (([1, 0, 1], [0, 2]), ([1, 1, 1], [0, 1, 2]), ([0, 0, 1], [2]), ([0, 0, 0], [])):
        answer = backend.run(SIGNATURE, {"x": np.array(values, np.float32)})["y"]
        assert answer.tolist() == [want]
    assert pool_of(backend).leased == 0


def test_a_shape_with_two_free_axes_is_never_guessed(tmp_path):
    """A wrong guess of the same size would go unnoticed: two by three for three by two."""
    path = testing.write_graph(
        tmp_path / "1",
        [("Reshape", ["x", "shape"], ["y"])],
        {"x": ("float32", (None,)), "shape": ("int64", (2,))},
        {"y": ("float32", (None, None))},
        {},
    )
    backend = OnnxBackend(path, AS_DEVICE)
    x = np.arange(6, dtype=np.float32)
    shapes = [backend.run(SIGNATURE, {"x": x, "shape": np.array(shape)})["y"].shape for shape in ((2, 3), (3, 2))]
    assert shapes == [(2, 3), (3, 2)]


def test_an_output_that_is_a_weight_or_an_input_is_answered_right_every_time(tmp_path):
    """ONNX Runtime need not write such an output anywhere: it is there already."""
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = testing.write_graph(
        tmp_path / "1",
        [("Identity", ["w"], ["constant"]), ("Identity", ["x"], ["same"]), ("Neg", ["x"], ["negative"])],
        {"x": ("float32", (None, 2))},
        {
            "constant": ("float32", (2, 3)),
            "same": ("float32", (None, 2)),
            "x": ("float32", (None, 2)),
            "negative": ("float32", (None, 2)),
        },
        {"w": weight},
    )
    backend = OnnxBackend(path, AS_DEVICE)
    answers = {value: backend.run(SIGNATURE, {"x": np.full((1, 2), value, np.float32)}) for value in (1.0, 2.0, 3.0)}
    for value, answer in answers.items():
        assert {name: array.tolist() for name, array in answer.items()} == {
            "constant": weight.tolist(),
            "same": [[value, value]],
            "x": [[value, value]],
            "negative": [[-value, -value]],
        }


def test_a_model_may_be_closed_while_it_runs(identity):
    entered, gate = threading.Event(), threading.Event()

    def wait(_options: Any, _rows: int) -> None:
        entered.set()
        gate.wait(30)

    intercept(identity, wait)
    pool, threads = pool_of(identity), identity.threads
    assert threads is not None
    running = threads.submit(answer_of, identity, 5.0)
    assert entered.wait(30)
    identity.close()
    with pytest.raises(FailedPrecondition, match="unloaded"):
        answer_of(identity, 6.0)
    gate.set()
    assert set(running.result(30).ravel()) == {5.0}
    del running
    assert (pool.leased, pool.allocated_bytes) == (0, 0)


FULL = "Failed to allocate memory for requested buffer of size 1"
LOST = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"


def failing(message: str, *, above: int = 0) -> Callable[[Any, int], None]:
    def check(_options: Any, rows: int) -> None:
        if rows > above:
            raise RuntimeError(f"[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Status Message: {message}")

    return check


def test_a_batch_too_large_for_the_device_is_refused_and_smaller_ones_run(identity):
    intercept(identity, failing(FULL, above=2))
    with pytest.raises(ResourceExhausted, match="Received: 3 rows"):
        answer_of(identity, 1.0, rows=3)
    assert answer_of(identity, 1.0, rows=2).shape == (2, 3)


def test_requests_of_a_merged_batch_that_was_too_large_run_one_by_one(identity):
    intercept(identity, failing(FULL, above=2))
    pieces = [Piece(None, {"x": np.full((rows, 3), rows, np.float32)}, 0, rows, rows) for rows in (2, 1, 3)]
    results = run_pieces(partial(identity.run, SIGNATURE), pieces, ("y",))
    assert [type(result) for result in results] == [dict, dict, ResourceExhausted]


def test_after_a_run_without_memory_the_next_one_gives_back_what_is_spare(identity):
    asked: list[str] = []
    failures = [FULL]

    def before(options: Any, _rows: int) -> None:
        if failures:
            raise RuntimeError(failures.pop())
        try:
            asked.append(options.get_run_config_entry("memory.enable_memory_arena_shrinkage"))
        except RuntimeError:
            asked.append("")
        raise ValueError("enough")  # the CPU has no such arena

    intercept(identity, before, gpu=1)
    with pytest.raises(ResourceExhausted):
        answer_of(identity, 1.0)
    with pytest.raises(Exception, match="runtime failed"):
        answer_of(identity, 1.0)
    assert asked == ["gpu:1"]


def test_a_lost_device_is_unavailable_from_then_on_without_being_asked(identity):
    asked: list[int] = []

    def lose(_options: Any, rows: int) -> None:
        asked.append(rows)
        failing(LOST)(_options, rows)

    identity._device = Device("cuda")
    intercept(identity, lose)
    assert identity.healthy
    for _ in range(3):
        with pytest.raises(Unavailable, match="lost its GPU"):
            answer_of(identity, 1.0)
    assert not identity.healthy
    assert asked == [2]


def test_a_model_on_a_device_has_two_runs_at_a_time_unless_the_user_says_otherwise(tmp_path):
    testing.write_identity(tmp_path / "m" / "1")
    for asked, got in ((None, 2), (1, 1), (3, 3)):
        config = ModelConfig("m", tmp_path / "m", batching=BatchingConfig(concurrent_batches=asked))
        servable = load(config, 1, tmp_path / "m" / "1", LoadOptions(AS_DEVICE))
        assert servable.batching.concurrent_batches == got
        servable.close()


def test_on_the_cpu_there_is_one_run_at_a_time(tmp_path):
    testing.write_identity(tmp_path / "1")
    servable = load(ModelConfig("m", tmp_path), 1, tmp_path / "1", LoadOptions())
    assert (servable.batching.concurrent_batches, servable.batching.allowed_batch_rows) == (1, ())


def test_sizes_are_spread_by_four():
    assert [spread(most) for most in (1, 2, 4, 64, 100)] == [(1,), (1, 2), (1, 4), (1, 4, 16, 64), (1, 4, 16, 64, 100)]


@pytest.fixture
def cpu_as_gpu(monkeypatch):
    """The CPU's provider taken for a GPU's, all through the backend."""
    monkeypatch.setattr("services.engine.backend.DEVICE_PROVIDERS", ("CPUExecutionProvider",))


def write_convolution(version: Path) -> Path:
    """The sum of a picture's 3 x 3 surroundings, float32 `[-1, 1, 4, 4]` to `[-1, 1, 2, 2]`."""
    return testing.write_graph(
        version,
        [("Conv", ["x", "w"], ["y"])],
        {"x": ("float32", (None, 1, 4, 4))},
        {"y": ("float32", (None, 1, 2, 2))},
        {"w": np.ones((1, 1, 3, 3), np.float32)},
    )


@pytest.mark.usefixtures("cpu_as_gpu")
def test_a_model_that_convolves_on_a_gpu_has_a_session_for_each_size(tmp_path):
    backend = OnnxBackend(write_convolution(tmp_path / "1"))
    assert backend.convolves
    backend.specialise((1, 4, 16))
    graph = backend._graphs[SIGNATURE]
    sessions = {id(runner._session) for runner in (*graph.runners.values(), graph.runner) if runner is not None}
    assert (sorted(graph.runners), len(sessions)) == ([1, 4], 3)
    for rows in (1, 4, 16, 5, 4):
        answer = backend.run(SIGNATURE, {"x": np.full((rows, 1, 4, 4), 2, np.float32)})["y"]
        assert (answer.shape, set(answer.ravel())) == ((rows, 1, 2, 2), {18.0})
    backend.close()


@pytest.mark.usefixtures("cpu_as_gpu")
def test_a_model_that_convolves_on_a_gpu_is_run_in_few_sizes(tmp_path):
    write_convolution(tmp_path / "1")
    for asked, got in (((), (1, 4, 16)), ((8, 16), (8, 16))):
        batching = BatchingConfig(max_batch_rows=16, allowed_batch_rows=asked)
        servable = load(ModelConfig("m", tmp_path, batching=batching), 1, tmp_path / "1", LoadOptions())
        assert servable.batching.allowed_batch_rows == got
        servable.close()


@pytest.mark.usefixtures("cpu_as_gpu")
def test_a_model_that_does_not_convolve_is_run_in_any_size(tmp_path):
    backend = OnnxBackend(testing.write_multi(tmp_path / "1"))
    assert backend.threads is not None
    assert not backend.convolves
    servable = load(ModelConfig("m", tmp_path), 1, tmp_path / "1", LoadOptions())
    assert servable.batching.allowed_batch_rows == ()


def test_a_convolution_on_the_cpu_needs_no_sessions_by_size(tmp_path):
    assert not OnnxBackend(write_convolution(tmp_path / "1")).convolves


def test_a_model_on_a_device_never_runs_on_the_event_loop(tmp_path, monkeypatch):
    testing.write_half_plus_two(tmp_path / "half" / "1")
    monkeypatch.setattr(engine_module, "BackendOptions", partial(BackendOptions, as_device=True))
    ran: set[str] = set()
    run = OnnxBackend.run

    def traced(self: OnnxBackend, *args: Any) -> dict[str, np.ndarray]:
        ran.add(threading.current_thread().name)
        return run(self, *args)

    monkeypatch.setattr(OnnxBackend, "run", traced)

    async def scenario() -> None:
        engine = Engine(EngineOptions(repository=tmp_path, poll_interval_s=0, inline_us=1e9))
        await engine.start()
        request = InferenceRequest("half", {"x": np.zeros((1, 1), np.float32)})
        answers = await asyncio.gather(*(engine.infer(request) for _ in range(20)))
        assert {float(answer.outputs["y"][0, 0]) for answer in answers} == {2.0}
        await engine.stop()

    asyncio.run(scenario())
    assert ran
    assert all(name.startswith("cornet-device") for name in ran)


def test_a_server_that_lost_its_gpu_is_not_ready_and_says_unavailable(tmp_path, monkeypatch):
    testing.write_half_plus_two(tmp_path / "half" / "1")
    monkeypatch.setattr(engine_module, "BackendOptions", partial(BackendOptions, as_device=True))
    gpu = Device("cuda")
    monkeypatch.setattr("services.engine.backend.device_of", lambda _provider, _index: gpu)

    async def scenario() -> None:
        engine = Engine(EngineOptions(repository=tmp_path, poll_interval_s=0))
        await engine.start()
        assert engine.ready
        assert engine.is_ready("half")
        gpu.judge(LOST, 1)
        assert not engine.healthy
        assert not engine.ready
        assert not engine.is_ready("half")
        with pytest.raises(Unavailable, match="restarted"):
            await engine.infer(InferenceRequest("half", {"x": np.zeros((1, 1), np.float32)}))
        await engine.stop()

    asyncio.run(scenario())


def test_a_model_for_which_there_is_no_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def session(*_args: Any, **_more: Any) -> None:
        raise RuntimeError("Status Message: CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr("onnxruntime.InferenceSession", session)
    with pytest.raises(ResourceExhausted, match=r"Expected memory for model\.onnx. Received: CUDA failure 2"):
        OnnxBackend(testing.write_identity(tmp_path / "1"))


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if not dtype.is_string], ids=lambda dtype: dtype.name)
def test_every_element_type_passes_through_the_buffers(tmp_path, dtype):
    """float16 among them, which the variants of a model have."""
    backend = OnnxBackend(testing.write_identity(tmp_path / "1", dtype.name, (None, 3)), AS_DEVICE)
    array = np.array([[0, 1, 100]]).astype(dtype.numpy)
    array.flags.writeable = False
    for _ in range(2):
        answer = backend.run(SIGNATURE, {"x": array})["y"]
        assert (answer.dtype, answer.tolist()) == (dtype.numpy, array.tolist())
    assert pool_of(backend).leased == 1


def test_the_gpu_s_options_reach_onnx_runtime(tmp_path, monkeypatch):
    told: list[Any] = []

    class Stop(RuntimeError):
        pass

    def session(_path: str, _settings: Any, *, providers: Any) -> None:
        told.extend(providers)
        raise Stop

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.preload_dlls", lambda: None)
    monkeypatch.setattr("onnxruntime.InferenceSession", session)
    path = testing.write_identity(tmp_path / "1")
    with pytest.raises(Exception, match="no model ONNX Runtime can load"):
        OnnxBackend(path, BackendOptions(gpu=GpuOptions(index=1, tf32=True)))
    assert told[0] == (CUDA, GpuOptions(index=1, tf32=True).of_provider(CUDA))
    assert told[1] == ("CPUExecutionProvider", {})
