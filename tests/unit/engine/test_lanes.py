"""Requests that come by lanes, as bytes: answered as the others are, and together."""

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from services.engine.batching import Batcher
from services.engine.costs import CostTable
from services.engine.lanes import Lane, LaneTicket, PackedRun, Times, Validity
from services.engine.model_config import BatchingOptions
from services.engine.request import InferenceResponse, Outcome
from services.engine.scheduling import Identity, Pending, Scheduling
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


class Desk:
    """A receiver that keeps what each taker, a name, was told; `together` has the takers of every call of `take`, and
    `times` when they came and how long they waited."""

    def __init__(self) -> None:
        self.told: dict[str, list[Outcome]] = {}
        self.together: list[list[str]] = []
        self.times: list[Times] = []
        self.fail: Exception | None = None

    def take(
        self,
        run: PackedRun,
        takers: Sequence[str],
        tickets: Sequence[LaneTicket],
        firsts: Sequence[int],
        times: Times,
    ) -> None:
        self.together.append(list(takers))
        self.times.append(times)
        for taker, ticket, first in zip(takers, tickets, firsts, strict=True):
            if self.fail is not None:
                raise self.fail
            self.settle(taker, ticket, run.response(ticket, first))

    def settle(self, taker: str, ticket: LaneTicket, outcome: Outcome) -> None:
        self.told.setdefault(taker, []).append(outcome)


class Bench:
    """A batcher with everything around it played by hand."""

    def __init__(self, *, cost_s: float = LOOP_S, **options: Any) -> None:
        self.clock = FakeClock()
        self.scheduler = PuppetScheduler(self.clock)
        self.backend = PuppetBackend(self.clock)
        self.holders = 0
        costs = CostTable()
        costs.observe(1, cost_s)
        costs.observe(2**20, cost_s)
        self.metrics = BatchMetrics()
        self.desk = Desk()
        self.batcher = Batcher(
            lambda inputs, outputs: self.backend.run("serving_default", inputs, outputs),
            Identity("m", 3, "serving_default"),
            BatchingOptions(**options),
            Scheduling(self.scheduler, self.scheduler, self.clock, inline_s=1e-4),
            batchable=True,
            costs=costs,
            lease=self,
            metrics=self.metrics,
        )
        self.lane = self.open_lane()

    def retain(self) -> None:
        self.holders += 1

    def release(self) -> None:
        self.holders -= 1

    def open_lane(self, rows: int = 1, desk: Desk | None = None) -> Lane:
        form = {"x": np.zeros((rows, 2), np.float32)}
        return Lane(self.batcher, (), ("y",), form, desk or self.desk, Validity())

    def send(
        self,
        name: str,
        value: float = 0.0,
        *,
        lane: Lane | None = None,
        deadline: float | None = None,
        arrived: float = float("nan"),
    ) -> Pending:
        lane = lane or self.lane
        rows = np.full((lane.rows, 2), value, np.float32) + np.arange(lane.rows, dtype=np.float32)[:, None]
        return lane.submit(rows.tobytes(), name, deadline, arrived)

    def send_array(self, name: str, value: float = 0.0, rows: int = 1) -> None:
        array = np.full((rows, 2), value, np.float32)
        self.batcher.enqueue({"x": array}, rows, (), ("y",), None, self.desk.told.setdefault(name, []).append)

    def first(self, name: str) -> list[float]:
        (outcome,) = self.desk.told[name]
        assert isinstance(outcome, InferenceResponse), outcome
        return [float(value) for value in outcome.outputs["y"][:, 0]]

    def error(self, name: str) -> CornetError:
        (outcome,) = self.desk.told[name]
        assert isinstance(outcome, CornetError), outcome
        return outcome

    @property
    def batches(self) -> list[int]:
        return [len(call["x"]) for call in self.backend.calls]


@pytest.mark.parametrize("cost_s", [LOOP_S, THREAD_S])
def test_requests_of_one_turn_share_a_run_and_are_answered_together(cost_s: float):
    bench = Bench(cost_s=cost_s)
    for name, value in (("a", 10), ("b", 20), ("c", 30)):
        bench.send(name, value)
    assert bench.desk.told == {}
    bench.scheduler.run()
    assert bench.batches == [3]
    assert bench.desk.together == [["a", "b", "c"]]
    assert [bench.first(name) for name in "abc"] == [[11], [21], [31]]
    assert bench.holders == 0


def test_requests_of_unlike_sizes_share_a_run():
    bench = Bench()
    three = bench.open_lane(rows=3)
    bench.send("a", 10)
    bench.send("b", 20, lane=three)
    bench.send("c", 30)
    bench.scheduler.run()
    assert bench.batches == [5]
    assert [bench.first(name) for name in "abc"] == [[11], [21, 22, 23], [31]]
    assert sorted(bench.desk.together) == [["a", "c"], ["b"]]


def test_each_receiver_answers_its_own():
    bench, other = Bench(), Desk()
    bench.send("a")
    bench.send("b", lane=bench.open_lane(desk=other))
    bench.scheduler.run()
    assert bench.batches == [2]
    assert (bench.desk.together, other.together) == ([["a"]], [["b"]])


def test_a_request_with_arrays_shares_the_run_of_those_by_lane():
    bench = Bench()
    bench.send("a", 10)
    bench.send_array("b", 20)
    bench.send("c", 30)
    bench.scheduler.run()
    assert bench.batches == [3]
    assert [bench.first(name) for name in "abc"] == [[11], [21], [31]]
    assert bench.desk.together == []


def test_a_lane_shares_a_run_with_arrays_that_wait_already():
    bench = Bench()
    bench.send_array("a", 10)
    bench.send("b", 20)
    bench.scheduler.run()
    assert bench.batches == [2]
    assert bench.first("b") == [21]


def test_a_run_takes_no_more_than_a_batch_and_the_rest_takes_the_next():
    bench = Bench(max_batch_rows=4)
    names = [f"r{i}" for i in range(10)]
    for i, name in enumerate(names):
        bench.send(name, i)
    bench.scheduler.run()
    assert bench.batches == [4, 4, 2]
    assert [bench.first(name) for name in names] == [[i + 1] for i in range(10)]
    assert bench.batcher.queued_rows == 0


def test_a_request_is_not_cut_to_fill_a_batch():
    bench = Bench(max_batch_rows=4)
    three = bench.open_lane(rows=3)
    bench.send("a", lane=three)
    bench.send("b", lane=three)
    bench.scheduler.run()
    assert bench.batches == [3, 3]


def test_a_batch_is_filled_up_to_an_allowed_size_with_its_last_row():
    bench = Bench(max_batch_rows=8, allowed_batch_rows=(4, 8))
    bench.send("a", 10)
    bench.send("b", 20)
    bench.scheduler.run()
    assert [float(value) for value in bench.backend.calls[0]["x"][:, 0]] == [10, 20, 20, 20]
    assert [bench.first(name) for name in "ab"] == [[11], [21]]


def test_values_within_a_larger_message_are_taken_wherever_they_begin():
    bench = Bench()
    for offset in range(5):
        message = bytes(offset) + np.array([offset, 0], np.float32).tobytes() + b"behind"
        bench.lane.submit(memoryview(message)[offset : offset + 8], f"r{offset}")
        bench.scheduler.run()
        assert bench.first(f"r{offset}") == [offset + 1]
        assert bench.backend.calls[-1]["x"].flags.aligned


def test_cancelled_before_its_run_a_request_costs_nothing():
    bench = Bench()
    bench.send("a").cancel()
    assert isinstance(bench.error("a"), Cancelled)
    bench.send("b").cancel()
    bench.send("c")
    bench.scheduler.run()
    assert bench.batches == [1]
    assert bench.metrics.cancelled == 2
    assert bench.holders == 0


def test_cancelled_while_it_runs_a_request_is_told_at_once_and_only_once():
    bench = Bench(cost_s=THREAD_S)
    bench.send("a", 10)
    pending = bench.send("b", 20)
    bench.send("c", 30)
    bench.scheduler.turn()
    pending.cancel()
    assert isinstance(bench.error("b"), Cancelled)
    bench.scheduler.run()
    assert bench.desk.together == [["a", "c"]]
    assert [bench.first(name) for name in "ac"] == [[11], [31]]
    assert len(bench.desk.told["b"]) == 1
    assert bench.holders == 0


def test_where_all_of_a_run_are_cancelled_nobody_is_handed_an_answer():
    bench = Bench(cost_s=THREAD_S)
    pendings = [bench.send("a"), bench.send("b")]
    bench.scheduler.turn()
    for pending in pendings:
        pending.cancel()
    bench.scheduler.run()
    assert bench.desk.together == []
    assert [len(told) for told in bench.desk.told.values()] == [1, 1]
    assert bench.holders == 0


def test_cancelling_twice_or_too_late_changes_nothing():
    bench = Bench()
    pending = bench.send("a")
    bench.scheduler.run()
    pending.cancel()
    pending.cancel()
    assert bench.first("a") == [1]
    assert bench.metrics.cancelled == 0


def test_what_expired_in_the_queue_is_dropped_before_its_run_and_the_rest_still_runs_together():
    bench = Bench(cost_s=THREAD_S)
    bench.send("running")
    bench.scheduler.turn()
    bench.send("late", deadline=bench.clock() + 0.5)
    bench.send("in time", deadline=bench.clock() + 5)
    bench.send("any time")
    bench.clock.advance(1)
    bench.scheduler.run()
    assert isinstance(bench.error("late"), DeadlineExceeded)
    assert bench.desk.together == [["running"], ["in time", "any time"]]
    assert bench.metrics.expired == 1


def test_a_request_that_arrives_too_late_is_refused_at_once():
    bench = Bench()
    with pytest.raises(DeadlineExceeded):
        bench.send("a", deadline=bench.clock())
    assert bench.batcher.queued_rows == bench.holders == 0


def test_a_full_queue_refuses_at_once():
    bench = Bench(max_queue_rows=2)
    bench.send("a")
    bench.send("b")
    with pytest.raises(QueueFull, match=r"at most 2 rows in the queue. Received: 1 with 2 already waiting"):
        bench.send("c")
    assert bench.metrics.rejected == 1


def test_values_the_model_refuses_cost_no_neighbour_its_answer():
    bench = Bench()
    bench.backend.reject = lambda inputs: InvalidArgument("id 99") if (inputs["x"] == 99).any() else None
    bench.send("good", 1)
    bench.send("bad", 99)
    bench.send("fine", 3)
    bench.scheduler.run()
    assert str(bench.error("bad")) == "id 99"
    assert [bench.first(name) for name in ("good", "fine")] == [[2], [4]]


def test_a_crash_of_the_backend_reaches_every_request_as_internal(caplog: pytest.LogCaptureFixture):
    bench = Bench()
    bench.backend.fail = RuntimeError("secret path /srv/models")
    bench.send("a")
    bench.send("b")
    bench.scheduler.run()
    for name in "ab":
        assert isinstance(bench.error(name), Internal)
        assert "/srv" not in str(bench.error(name))
    assert "secret path" in caplog.text
    assert bench.holders == 0


def test_a_receiver_that_fails_leaves_nobody_without_an_answer(caplog: pytest.LogCaptureFixture):
    bench = Bench()
    bench.desk.fail = ValueError("a bug in a front end")
    bench.send("a")
    bench.send("b")
    bench.scheduler.run()
    assert isinstance(bench.error("a"), Internal)
    assert isinstance(bench.error("b"), Internal)
    assert "a bug in a front end" in caplog.text
    bench.desk.fail = None
    bench.send("c", 5)
    bench.scheduler.run()
    assert bench.first("c") == [6]


def test_closing_completes_the_queued_and_lets_the_running_finish():
    bench = Bench(cost_s=THREAD_S)
    bench.send("running")
    bench.scheduler.turn()
    bench.send("queued")
    bench.batcher.close(ShuttingDown("bye"))
    assert str(bench.error("queued")) == "bye"
    with pytest.raises(ShuttingDown):
        bench.send("new")
    bench.scheduler.run()
    assert bench.first("running") == [1]
    assert bench.holders == 0


def test_a_pool_that_is_shut_down_completes_its_requests():
    bench = Bench(cost_s=THREAD_S)
    bench.scheduler.refuse_jobs = True
    bench.send("a")
    bench.send("b")
    bench.scheduler.run()
    assert isinstance(bench.error("a"), ShuttingDown)
    assert isinstance(bench.error("b"), ShuttingDown)
    assert bench.holders == 0


def test_outputs_without_the_batch_s_rows_are_asked_for_again_one_by_one():
    bench = Bench()
    run = bench.backend.run
    bench.batcher._run = lambda inputs, outputs: {"y": run("serving_default", inputs, outputs)["y"].sum(axis=0)[None]}
    bench.send("a", 1)
    bench.send("b", 5)
    bench.scheduler.run()
    assert [bench.first(name) for name in "ab"] == [[2], [6]]


def test_what_was_done_is_counted():
    bench = Bench(max_batch_rows=2)
    for name in "abc":
        bench.send(name)
    assert bench.metrics.depth() == bench.metrics.waiting() == 3
    bench.scheduler.run()
    assert bench.metrics.depth() == 0
    assert (bench.metrics.runs.rows.count, bench.metrics.runs.rows.total) == (2, 3)
    assert bench.metrics.queue_seconds.count == 3


def test_those_that_arrived_together_are_queued_with_the_first_and_counted_at_once():
    bench = Bench()
    for name in "abc":
        bench.send(name, arrived=7.0)
        bench.clock.advance(0.25)
    bench.scheduler.run()
    assert bench.desk.times == [([7.0], [0.75])]
    assert (bench.metrics.queue_seconds.count, bench.metrics.queue_seconds.total) == (3, 2.25)


def test_those_of_several_arrivals_keep_their_own_times():
    bench = Bench()
    for name, arrived in (("a", 7.0), ("b", 7.0), ("c", 8.0)):
        bench.send(name, arrived=arrived)
        bench.clock.advance(0.25)
    bench.scheduler.run()
    assert bench.desk.times == [([7.0, 7.0, 8.0], [0.75, 0.75, 0.25])]
    assert (bench.metrics.queue_seconds.count, bench.metrics.queue_seconds.total) == (3, 1.75)


def test_each_lane_of_a_run_has_its_own_times():
    bench = Bench()
    other = bench.open_lane()
    for name, lane in (("a", bench.lane), ("b", other), ("c", bench.lane)):
        bench.send(name, lane=lane, arrived=7.0)
        bench.clock.advance(0.25)
    bench.scheduler.run()
    assert (bench.metrics.queue_seconds.count, bench.metrics.queue_seconds.total) == (3, 2 * 0.75 + 0.5)


def test_one_that_expires_is_not_counted_with_those_it_arrived_with():
    bench = Bench()
    bench.send("late", deadline=bench.clock() + 0.1, arrived=7.0)
    for name in "ab":
        bench.send(name, arrived=7.0)
    bench.clock.advance(0.25)
    bench.scheduler.run()
    assert isinstance(bench.error("late"), DeadlineExceeded)
    assert (bench.metrics.queue_seconds.count, bench.metrics.queue_seconds.total) == (2, 0.5)


def test_the_answer_says_who_computed_it_and_how_long_it_took():
    bench = Bench()
    bench.backend.seconds = 0.004
    bench.send("a")
    bench.clock.advance(0.002)
    bench.scheduler.run()
    (response,) = bench.desk.told["a"]
    assert isinstance(response, InferenceResponse)
    assert (response.model, response.version, response.signature, response.batch_rows) == ("m", 3, "serving_default", 1)
    assert (response.queue_us, response.compute_us) == pytest.approx((2000, 4000))


@pytest.mark.parametrize("max_batch_rows", [8, 2])
@pytest.mark.parametrize("cost_s", [LOOP_S, THREAD_S])
def test_what_a_request_brought_is_let_go_with_its_answer(cost_s: float, max_batch_rows: int):
    """Not when the garbage collector comes by: until then hundreds of requests' values would wait for it."""
    bench = Bench(cost_s=cost_s, max_batch_rows=max_batch_rows)
    kept = []
    gc.collect()
    gc.disable()
    try:
        for name in "abc":
            values = np.full((1, 2), 10, np.float32)
            kept.append(weakref.ref(values))
            bench.lane.submit(memoryview(values).cast("B"), name)
            del values
        bench.scheduler.run()
        bench.backend.calls.clear()
        assert [bench.first(name) for name in "abc"] == [[11]] * 3
        assert [ref() for ref in kept] == [None] * 3
    finally:
        gc.enable()
