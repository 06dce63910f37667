import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.engine.batching import Batcher
from services.engine.costs import CostTable
from services.engine.model_config import BatchingOptions
from services.engine.request import InferenceResponse, Outcome
from services.engine.scheduling import Identity, Scheduling
from services.errors import (
    Cancelled,
    CornetError,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    QueueFull,
    ShuttingDown,
)
from services.telemetry.metrics import BatchMetrics
from services.testing import FakeClock, PuppetBackend, PuppetScheduler

LOOP_S, THREAD_S = 1e-5, 1.0  # a cost that runs on the loop, and one that goes to a thread


class Holders:
    def __init__(self) -> None:
        self.count = 0

    def retain(self) -> None:
        self.count += 1

    def release(self) -> None:
        self.count -= 1


class Bench:
    """A batcher with everything around it played by hand; `send` records each request's outcomes under its name."""

    def __init__(self, *, batchable: bool = True, cost_s: float = LOOP_S, **options: Any) -> None:
        self.clock = FakeClock()
        self.scheduler = PuppetScheduler(self.clock)
        self.backend = PuppetBackend(self.clock)
        self.holders = Holders()
        self.costs = CostTable()
        self.costs.observe(1, cost_s)
        self.costs.observe(2**20, cost_s)
        self.metrics = BatchMetrics()
        self.outcomes: dict[str, list[Outcome]] = {}
        self.order: list[str] = []
        self.batcher = Batcher(
            lambda inputs, outputs: self.backend.run("serving_default", inputs, outputs),
            Identity("m", 3, "serving_default"),
            BatchingOptions(**options),
            Scheduling(self.scheduler, self.scheduler, self.clock, inline_s=1e-4),
            batchable=batchable,
            costs=self.costs,
            lease=self.holders,
            metrics=self.metrics,
        )

    def send(self, name: str, rows: int = 1, *, value: float = 0.0, key: Any = (), width: int = 2, **more: Any) -> Any:
        self.outcomes[name] = []

        def done(outcome: Outcome) -> None:
            self.outcomes[name].append(outcome)
            self.order.append(name)
            more.get("then", lambda: None)()

        array = np.full((rows, width), value, np.float32) + np.arange(rows, dtype=np.float32)[:, None]
        return self.batcher.enqueue({"x": array}, rows, key, ("y",), more.get("deadline"), done)

    def answer(self, name: str) -> InferenceResponse:
        (outcome,) = self.outcomes[name]
        assert isinstance(outcome, InferenceResponse), outcome
        return outcome

    def error(self, name: str) -> CornetError:
        (outcome,) = self.outcomes[name]
        assert isinstance(outcome, CornetError), outcome
        return outcome

    def first(self, name: str) -> list[float]:
        return [float(v) for v in self.answer(name).outputs["y"][:, 0]]

    @property
    def batches(self) -> list[int]:
        return [len(call["x"]) for call in self.backend.calls]


def test_requests_of_one_turn_share_a_run_and_get_their_own_rows():
    bench = Bench()
    bench.send("a", rows=2, value=10)
    bench.send("b", rows=1, value=20)
    bench.scheduler.run()
    assert bench.batches == [3]
    assert bench.first("a") == [11, 12]
    assert bench.first("b") == [21]


def test_nothing_is_answered_inside_enqueue():
    bench = Bench()
    bench.send("a")
    assert bench.outcomes["a"] == []
    assert bench.backend.calls == []


def test_the_answer_says_who_computed_it_and_how_long_it_took():
    bench = Bench()
    bench.backend.seconds = 0.004
    bench.send("a", rows=3)
    bench.clock.advance(0.002)
    bench.scheduler.run()
    response = bench.answer("a")
    assert (response.model, response.version, response.signature, response.batch_rows) == ("m", 3, "serving_default", 3)
    assert response.queue_us == pytest.approx(2000)
    assert response.compute_us == pytest.approx(4000)


def test_a_request_alone_is_not_copied():
    bench = Bench()
    bench.send("a", rows=4)
    ticket_input = bench.batcher._groups[()].tickets[0].inputs["x"]
    bench.scheduler.run()
    assert bench.backend.calls[0]["x"] is ticket_input


def test_answers_of_a_shared_run_are_views_of_it():
    bench = Bench()
    bench.send("a")
    bench.send("b")
    bench.scheduler.run()
    assert bench.answer("a").outputs["y"].base is bench.answer("b").outputs["y"].base is not None


def test_requests_of_unlike_shape_never_share_a_run():
    bench = Bench()
    bench.send("a", key=(2,), width=2)
    bench.send("b", key=(5,), width=5)
    bench.send("c", key=(2,), width=2)
    bench.scheduler.run()
    assert [call["x"].shape for call in bench.backend.calls] == [(2, 2), (1, 5)]


def test_shapes_take_turns_so_that_none_starves():
    bench = Bench(max_batch_rows=1)
    for name in ("a1", "a2", "a3"):
        bench.send(name, key="a")
    bench.send("b1", key="b", width=3)
    bench.scheduler.run()
    assert bench.order == ["a1", "b1", "a2", "a3"]


def test_requests_of_one_shape_are_answered_in_order():
    bench = Bench(max_batch_rows=2)
    names = [f"r{i}" for i in range(7)]
    for name in names:
        bench.send(name)
    bench.scheduler.run()
    assert bench.order == names
    assert bench.batches == [2, 2, 2, 1]


def test_a_small_request_is_not_cut_to_fill_a_batch():
    bench = Bench(max_batch_rows=4)
    bench.send("a", rows=3)
    bench.send("b", rows=3)
    bench.scheduler.run()
    assert bench.batches == [3, 3]


@pytest.mark.parametrize("cost_s", [LOOP_S, THREAD_S])
def test_a_large_request_is_cut_and_its_answer_put_together(cost_s):
    bench = Bench(max_batch_rows=4, cost_s=cost_s)
    bench.send("a", rows=10, value=100)
    bench.send("b", rows=1, value=7)
    bench.scheduler.run()
    assert bench.batches == [4, 4, 3]
    assert bench.first("a") == [101 + i for i in range(10)]
    assert bench.first("b") == [8]
    assert bench.holders.count == 0


def test_pieces_that_come_back_out_of_order_are_joined_in_order():
    bench = Bench(max_batch_rows=2, cost_s=THREAD_S, concurrent_batches=2)
    bench.send("a", rows=4)
    bench.scheduler.turn()
    bench.scheduler.turn()
    second = bench.scheduler.jobs.pop()
    second()
    bench.scheduler.run()
    assert bench.first("a") == [1, 2, 3, 4]


def test_a_large_request_fails_once_when_one_piece_does():
    bench = Bench(max_batch_rows=2)
    bench.backend.reject = lambda inputs: InvalidArgument("no") if inputs["x"].max() > 2 else None
    bench.send("a", rows=6)
    bench.scheduler.run()
    assert str(bench.error("a")) == "no"
    assert bench.batcher.queued_rows == 0
    assert bench.holders.count == 0


def test_a_short_run_happens_on_the_loop_and_a_long_one_in_a_thread():
    quick, long = Bench(cost_s=LOOP_S), Bench(cost_s=THREAD_S)
    for bench in (quick, long):
        bench.send("a")
        bench.scheduler.turn()
    assert len(quick.outcomes["a"]) == 1
    assert long.outcomes["a"] == []
    assert len(long.scheduler.jobs) == 1


def test_a_model_that_was_never_timed_runs_in_a_thread():
    bench = Bench()
    bench.costs = bench.batcher._costs = CostTable()
    bench.send("a")
    bench.scheduler.turn()
    assert len(bench.scheduler.jobs) == 1


def test_a_model_that_turns_slow_leaves_the_loop():
    bench = Bench()
    bench.backend.seconds = 0.01
    for i in range(20):
        bench.send(f"r{i}")
        bench.scheduler.turn()
    assert len(bench.scheduler.jobs) == 1


def test_the_next_batch_forms_while_one_runs():
    bench = Bench(cost_s=THREAD_S)
    bench.send("a")
    bench.scheduler.turn()
    bench.send("b")
    bench.send("c")
    bench.scheduler.turn()
    assert len(bench.scheduler.jobs) == 1
    bench.scheduler.run()
    assert bench.batches == [1, 2]


def test_as_many_runs_at_a_time_as_the_options_say():
    bench = Bench(cost_s=THREAD_S, concurrent_batches=2, max_batch_rows=1)
    for name in "abc":
        bench.send(name)
    for _ in range(5):
        bench.scheduler.turn()
    assert len(bench.scheduler.jobs) == 2


def test_without_a_delay_a_lone_request_runs_in_the_next_turn():
    bench = Bench()
    bench.send("a")
    bench.scheduler.turn()
    assert len(bench.outcomes["a"]) == 1


def test_a_delay_is_honoured_and_collects_what_comes_meanwhile():
    bench = Bench(max_queue_delay_us=5000)
    bench.send("a")
    bench.scheduler.advance(0.004)
    bench.send("b")
    bench.scheduler.advance(0)
    assert bench.order == []
    bench.scheduler.advance(0.001)
    assert bench.order == ["a", "b"]
    assert bench.batches == [2]


def test_a_full_batch_does_not_wait_for_the_delay():
    bench = Bench(max_queue_delay_us=5000, max_batch_rows=2)
    bench.send("a")
    bench.scheduler.advance(0)
    bench.send("b")
    bench.scheduler.advance(0)
    assert bench.order == ["a", "b"]


def test_what_is_left_after_a_full_batch_waits_its_own_delay():
    bench = Bench(max_queue_delay_us=5000, max_batch_rows=2)
    for name in "abc":
        bench.send(name)
    bench.scheduler.advance(0)
    assert bench.order == ["a", "b"]
    bench.scheduler.advance(0.005)
    assert bench.order == ["a", "b", "c"]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    bench = Bench(max_queue_rows=4, max_batch_rows=2, cost_s=THREAD_S)
    bench.send("a", rows=4)
    with pytest.raises(QueueFull, match=r"at most 4 rows in the queue. Received: 1 with 4 already waiting") as refused:
        bench.send("b")
    assert refused.value.retry_after_s == pytest.approx(2 * THREAD_S)
    assert bench.outcomes["b"] == []
    assert bench.metrics.rejected == 1
    assert bench.batcher.queued_rows == 4


def test_rows_that_run_leave_room_in_the_queue():
    bench = Bench(max_queue_rows=2, cost_s=THREAD_S)
    bench.send("a", rows=2)
    bench.scheduler.turn()
    bench.send("b", rows=2)
    bench.scheduler.run()
    assert bench.order == ["a", "b"]


def test_a_request_larger_than_the_queue_is_let_into_an_empty_one():
    bench = Bench(max_queue_rows=2, max_batch_rows=2)
    bench.send("a", rows=5)
    bench.scheduler.run()
    assert bench.first("a") == [1, 2, 3, 4, 5]


def test_cancelled_before_its_run_a_request_costs_nothing():
    bench = Bench()
    pending = bench.send("a", rows=3)
    bench.send("b")
    pending.cancel()
    assert isinstance(bench.error("a"), Cancelled)
    assert bench.batcher.queued_rows == 1
    bench.scheduler.run()
    assert bench.batches == [1]
    assert bench.first("b") == [1]


def test_the_last_request_of_a_shape_may_be_cancelled():
    bench = Bench()
    bench.send("a").cancel()
    bench.scheduler.run()
    assert bench.backend.calls == []
    bench.send("b")
    bench.scheduler.run()
    assert bench.first("b") == [1]


def test_cancelled_while_it_runs_a_request_is_told_at_once_and_only_once():
    bench = Bench(cost_s=THREAD_S)
    pending = bench.send("a")
    bench.send("b")
    bench.scheduler.turn()
    pending.cancel()
    assert isinstance(bench.error("a"), Cancelled)
    bench.scheduler.run()
    assert len(bench.outcomes["a"]) == 1
    assert bench.first("b") == [1]


def test_the_model_is_held_while_a_run_of_cancelled_requests_goes_on():
    bench = Bench(cost_s=THREAD_S)
    pending = bench.send("a")
    bench.scheduler.turn()
    pending.cancel()
    assert bench.holders.count == 1
    bench.scheduler.run()
    assert bench.holders.count == 0


def test_cancelling_twice_or_too_late_changes_nothing():
    bench = Bench()
    pending = bench.send("a")
    bench.scheduler.run()
    pending.cancel()
    pending.cancel()
    assert bench.first("a") == [1]
    assert bench.holders.count == 0


def test_a_half_dispatched_request_is_cancelled_with_its_waiting_rows():
    bench = Bench(max_batch_rows=2, cost_s=THREAD_S)
    pending = bench.send("a", rows=6)
    bench.scheduler.turn()
    pending.cancel()
    bench.scheduler.run()
    assert bench.batches == [2]
    assert isinstance(bench.error("a"), Cancelled)
    assert bench.batcher.queued_rows == 0


def test_a_request_that_expired_in_the_queue_is_dropped_before_its_run():
    bench = Bench(cost_s=THREAD_S)
    bench.send("running")
    bench.scheduler.turn()
    bench.send("late", deadline=bench.clock() + 0.5)
    bench.send("in time", deadline=bench.clock() + 5)
    bench.clock.advance(1)
    bench.scheduler.run()
    assert isinstance(bench.error("late"), DeadlineExceeded)
    assert bench.first("in time") == [1]
    assert bench.batches == [1, 1]


def test_a_request_that_arrives_too_late_is_refused_at_once():
    bench = Bench()
    with pytest.raises(DeadlineExceeded):
        bench.send("a", deadline=bench.clock())
    assert bench.batcher.queued_rows == 0
    assert bench.holders.count == 0


def test_values_the_model_refuses_cost_no_neighbour_its_answer():
    bench = Bench()
    bench.backend.reject = lambda inputs: InvalidArgument("id 99") if (inputs["x"] == 99).any() else None
    bench.send("good", value=1)
    bench.send("bad", value=99)
    bench.send("fine", value=3)
    bench.scheduler.run()
    assert str(bench.error("bad")) == "id 99"
    assert bench.first("good") == [2]
    assert bench.first("fine") == [4]


@pytest.mark.parametrize("cost_s", [LOOP_S, THREAD_S])
def test_a_crash_of_the_backend_reaches_every_request_as_internal(cost_s, caplog):
    bench = Bench(cost_s=cost_s)
    bench.backend.fail = RuntimeError("secret path /srv/models")
    bench.send("a")
    bench.send("b")
    with caplog.at_level(logging.ERROR):
        bench.scheduler.run()
    for name in "ab":
        assert isinstance(bench.error(name), Internal)
        assert "/srv" not in str(bench.error(name))
    assert "secret path" in caplog.text
    assert bench.holders.count == 0


def test_a_faulty_callback_harms_neither_its_neighbours_nor_the_batcher(caplog):
    bench = Bench()

    def explode() -> None:
        raise ValueError("a bug in a front end")

    bench.send("a", then=explode)
    bench.send("b")
    bench.scheduler.run()
    assert bench.first("b") == [1]
    assert "a bug in a front end" in caplog.text
    assert bench.holders.count == 0


def test_a_callback_may_send_the_next_request():
    bench = Bench()
    bench.send("a", then=lambda: bench.send("b"))
    bench.scheduler.run()
    assert bench.order == ["a", "b"]


def test_a_callback_of_an_expired_request_may_send_one_of_the_same_shape():
    bench = Bench(cost_s=THREAD_S)
    bench.send("running")
    bench.scheduler.turn()
    bench.send("late", deadline=bench.clock() + 0.5, then=lambda: bench.send("again"))
    bench.clock.advance(1)
    bench.scheduler.run()
    assert isinstance(bench.error("late"), DeadlineExceeded)
    assert bench.first("again") == [1]
    assert bench.batcher.queued_rows == 0


def test_closing_completes_the_queued_and_lets_the_running_finish():
    bench = Bench(cost_s=THREAD_S)
    bench.send("running")
    bench.scheduler.turn()
    bench.send("queued", rows=2)
    bench.send("other shape", key=(9,), width=9)
    bench.batcher.close(ShuttingDown("bye"))
    assert str(bench.error("queued")) == str(bench.error("other shape")) == "bye"
    with pytest.raises(ShuttingDown):
        bench.send("new")
    bench.scheduler.run()
    assert bench.first("running") == [1]
    assert bench.holders.count == 0


def test_closing_stops_the_delay_timer():
    bench = Bench(max_queue_delay_us=5000)
    bench.send("a")
    bench.scheduler.advance(0)
    bench.batcher.close(ShuttingDown("bye"))
    bench.scheduler.advance(1)
    assert bench.backend.calls == []
    assert len(bench.outcomes["a"]) == 1


def test_a_pool_that_is_shut_down_completes_its_requests():
    bench = Bench(cost_s=THREAD_S)
    bench.scheduler.refuse_jobs = True
    bench.send("a")
    bench.send("b")
    bench.scheduler.run()
    assert isinstance(bench.error("a"), ShuttingDown)
    assert isinstance(bench.error("b"), ShuttingDown)
    assert bench.holders.count == 0


def test_a_batch_is_filled_up_to_an_allowed_size_and_the_filling_is_not_answered():
    bench = Bench(max_batch_rows=8, allowed_batch_rows=(4, 8))
    bench.send("a", rows=1, value=10)
    bench.send("b", rows=2, value=20)
    bench.scheduler.run()
    assert bench.batches == [4]
    assert [float(v) for v in bench.backend.calls[0]["x"][:, 0]] == [10, 20, 21, 21]
    assert bench.first("a") == [11]
    assert bench.first("b") == [21, 22]
    assert bench.answer("a").batch_rows == 3


def test_what_cannot_be_batched_runs_one_request_at_a_time():
    bench = Bench(batchable=False)
    for name in "abc":
        bench.send(name)
    bench.scheduler.run()
    assert bench.batches == [1, 1, 1]
    assert bench.order == ["a", "b", "c"]


def test_outputs_without_the_batch_s_rows_are_asked_for_again_one_by_one():
    bench = Bench()
    run: Callable[..., Any] = bench.backend.run
    bench.batcher._run = lambda inputs, outputs: {"y": run("serving_default", inputs, outputs)["y"].sum(axis=0)[None]}
    bench.send("a", value=1)
    bench.send("b", value=5)
    bench.scheduler.run()
    assert bench.first("a") == [2]
    assert bench.first("b") == [6]


def test_what_was_done_is_counted():
    bench = Bench(max_batch_rows=2)
    for name in "abc":
        bench.send(name)
    assert bench.metrics.depth() == 3
    bench.scheduler.run()
    assert bench.metrics.depth() == 0
    assert (bench.metrics.runs.rows.count, bench.metrics.runs.rows.total) == (2, 3)
    assert bench.metrics.queue_seconds.count == 3
    assert bench.metrics.runs.seconds.count == 2


def test_a_closed_batcher_is_not_kept_alive_by_its_metrics():
    bench = Bench()
    batcher = weakref.ref(bench.batcher)
    bench.batcher.close(ShuttingDown("bye"))
    del bench.batcher
    gc.collect()
    assert batcher() is None
    assert bench.metrics.depth() == 0
