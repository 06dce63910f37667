"""Whatever happens, in whatever order: every request has one outcome, the right one, and nothing is left behind."""

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.engine.batching import Batcher
from services.engine.costs import CostTable
from services.engine.lanes import Lane, LaneTicket, PackedRun, Validity
from services.engine.model_config import BatchingOptions
from services.engine.request import InferenceResponse, Outcome
from services.engine.scheduling import Identity, Scheduling
from services.errors import Cancelled, DeadlineExceeded, InvalidArgument, QueueFull, ShuttingDown
from services.telemetry.metrics import BatchMetrics
from services.testing import FakeClock, PuppetScheduler

POISON = -1.0


class Desk:
    """Receives for the lanes: a taker is the list of a request's outcomes, in a tuple, as a taker must be true."""

    def take(self, run: PackedRun, takers: Any, tickets: Any, firsts: Any, times: Any) -> None:
        for taker, ticket, first in zip(takers, tickets, firsts, strict=True):
            self.settle(taker, ticket, run.response(ticket, first))

    def settle(self, taker: Any, ticket: LaneTicket, outcome: Outcome) -> None:
        taker[0].append(outcome)


class Traffic(RuleBasedStateMachine):
    """Sends, cancels, turns of the loop, ends of runs and passing time, interleaved at random."""

    @initialize(
        inline=st.booleans(),
        max_batch_rows=st.integers(1, 6),
        concurrent_batches=st.integers(1, 3),
        max_queue_delay_us=st.sampled_from([0, 1000]),
        padded=st.booleans(),
        closable=st.booleans(),
    )
    def open(self, inline: bool, padded: bool, closable: bool, **options: Any) -> None:
        self.closable, self.closed = closable, False
        self.lanes: dict[tuple[int, int], Lane] = {}
        self.max_batch_rows = options["max_batch_rows"]
        if padded:
            options["allowed_batch_rows"] = (options["max_batch_rows"],)
        self.clock = FakeClock()
        self.scheduler = PuppetScheduler(self.clock)
        self.held = 0
        self.sent: list[tuple[Any, np.ndarray, list[Outcome]]] = []
        costs = CostTable()
        costs.observe(1, 1e-6 if inline else 1.0)
        self.batcher = Batcher(
            self.run_model,
            Identity("m", 1, "serving_default"),
            BatchingOptions(max_queue_rows=20, **options),
            Scheduling(self.scheduler, self.scheduler, self.clock, inline_s=1e9 if inline else 0.0),
            batchable=True,
            costs=costs,
            lease=self,
            metrics=BatchMetrics(),
        )

    def retain(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held -= 1

    def run_model(self, inputs: Any, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        if (inputs["x"] == POISON).any():
            raise InvalidArgument("poison")
        return {"y": inputs["x"] * 2}

    @rule(rows=st.integers(1, 15), width=st.integers(1, 2), poison=st.booleans(), lives_s=st.sampled_from([None, 0.5]))
    def send(self, rows: int, width: int, poison: bool, lives_s: float | None) -> None:
        self.enqueue(
            rows, width, poison, lives_s, lambda x, *more: self.batcher.enqueue({"x": x}, rows, width, ("y",), *more)
        )

    @rule(data=st.data(), width=st.integers(1, 2), poison=st.booleans(), lives_s=st.sampled_from([None, 0.5]))
    def send_by_lane(self, data: st.DataObject, width: int, poison: bool, lives_s: float | None) -> None:
        rows = data.draw(st.integers(1, self.max_batch_rows))
        lane = self.lanes.get((rows, width))
        if lane is None:
            form = {"x": np.zeros((rows, width), np.float32)}
            lane = self.lanes[rows, width] = Lane(self.batcher, width, ("y",), form, Desk(), Validity())
        self.enqueue(
            rows, width, poison, lives_s, lambda x, deadline, done: lane.submit(x.tobytes(), (done.__self__,), deadline)
        )

    def enqueue(self, rows: int, width: int, poison: bool, lives_s: float | None, submit: Any) -> None:
        x = np.full((rows, width), len(self.sent), np.float32) + np.linspace(0, 0.9, rows, dtype=np.float32)[:, None]
        if poison:
            x[rows // 2] = POISON
        outcomes: list[Outcome] = []
        deadline = None if lives_s is None else self.clock() + lives_s
        try:
            pending = submit(x, deadline, outcomes.append)
        except QueueFull:
            assert self.batcher.queued_rows + rows > 20
            return
        except ShuttingDown:
            assert self.closed
            return
        self.sent.append((pending, x, outcomes))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.sent))[0].cancel()

    @rule()
    def turn(self) -> None:
        self.scheduler.turn()

    @precondition(lambda self: self.scheduler.jobs)
    @rule(data=st.data())
    def finish_a_run(self, data: st.DataObject) -> None:
        self.scheduler.jobs.rotate(data.draw(st.integers(0, len(self.scheduler.jobs) - 1)))
        self.scheduler.work()

    @rule(seconds=st.sampled_from([0.0005, 0.3]))
    def pass_time(self, seconds: float) -> None:
        self.scheduler.advance(seconds)

    @precondition(lambda self: self.closable)
    @rule()
    def close(self) -> None:
        self.closed = True
        self.batcher.close(ShuttingDown("bye"))

    @invariant()
    def outcomes_are_right_and_single(self) -> None:
        for _, x, outcomes in getattr(self, "sent", []):
            assert len(outcomes) <= 1
            for outcome in outcomes:
                if isinstance(outcome, InferenceResponse):
                    np.testing.assert_array_equal(outcome.outputs["y"], x * 2)
                else:
                    assert isinstance(outcome, Cancelled | DeadlineExceeded | InvalidArgument | ShuttingDown)
                if isinstance(outcome, InvalidArgument):
                    assert (x == POISON).any()

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        for _ in range(100):
            self.scheduler.advance(0.01)
            self.scheduler.run()
        self.outcomes_are_right_and_single()
        assert all(len(outcomes) == 1 for _, _, outcomes in self.sent)
        assert self.held == 0
        assert not self.batcher._groups


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
