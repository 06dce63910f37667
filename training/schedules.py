"""How the step size moves beyond what Keras's own schedules do: a linear rise before them, and falls on a plateau."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import keras
from keras import ops

SMALLEST_RATE = 1e-6
"""A plateau lets the step size fall no lower."""
LEAST_GAIN = 1e-4
"""A validation loss that is not lower by this much counts as no better."""


@keras.saving.register_keras_serializable(package="cornet")
class Warmup(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # keras ships no types
    """Rises to `rate` in `steps` equal parts, the first step at one part; then `after`, a number or a schedule from 0 on."""

    def __init__(self, rate: float, steps: int, after: Any) -> None:
        super().__init__()
        self.rate = rate
        self.steps = steps
        self.after = after

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        later = self.after(ops.maximum(step - self.steps, 0.0)) if callable(self.after) else self.after
        return ops.where(step < self.steps, self.rate * (step + 1.0) / self.steps, later)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "steps": self.steps, "after": self.after}


class Plateau(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Multiplies the step size by `factor` at each start of an epoch before which the validation loss stayed.

    Whether it stayed is read from `history`, which a resumed run has from its checkpoint; the step size itself is the
    optimizer's and restored with it. So a resumed run takes the very steps of one that was never interrupted. In the first
    `warmup_steps` the step size rises to `rate` instead, and losses of epochs within them do not count.
    """

    def __init__(
        self,
        history: Sequence[Mapping[str, float]],
        *,
        factor: float,
        patience: int,
        rate: float,
        warmup_steps: int,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self._history = history
        self._factor = factor
        self._patience = patience
        self._rate = rate
        self._warmup_steps = warmup_steps
        self._steps_per_epoch = steps_per_epoch
        self._step = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        del logs
        self._step = epoch * self._steps_per_epoch
        warm = math.ceil(self._warmup_steps / self._steps_per_epoch)
        optimizer = self.model.optimizer
        rate = float(optimizer.learning_rate)
        if stays([entry["val_loss"] for entry in self._history[warm:]], self._patience) and rate > SMALLEST_RATE:
            optimizer.learning_rate = max(rate * self._factor, SMALLEST_RATE)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        if self._step < self._warmup_steps:
            self.model.optimizer.learning_rate = self._rate * (self._step + 1) / self._warmup_steps
        self._step += 1


def stays(losses: Sequence[float], patience: int) -> bool:
    """Whether the last of `losses` is the `patience`-th in a row without a gain; then the count begins anew."""
    best, waited, stayed = math.inf, 0, False
    for loss in losses:
        gained = loss < best - LEAST_GAIN
        best = loss if gained else best
        waited = 0 if gained else waited + 1
        stayed = waited >= patience
        waited = 0 if stayed else waited
    return stayed


class RisingRate(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Trains each step with the next of `rates` and notes the loss before it, until they end or the mean loss explodes.

    with rising.until_done():
        model.fit(..., callbacks=[rising])
    rising.rates, rising.losses        # as far as the sweep went
    """

    def __init__(self, rates: Sequence[float], smoothing: float, diverged: float) -> None:
        super().__init__()
        self._planned = rates
        self._smoothing = smoothing
        self._diverged = diverged
        self._mean = 0.0
        self._least = math.inf
        self.rates: list[float] = []
        self.losses: list[float] = []

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Ends what is within where the sweep ends, in whatever epoch or stage of training that is."""
        with suppress(_SweepDone):
            yield

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        self.model.reset_metrics()  # so that the loss Keras tells is this step's, and no mean
        self.model.optimizer.learning_rate = self._planned[len(self.rates)]

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        del batch
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise _SweepDone
        self.rates.append(float(self._planned[len(self.rates)]))
        self.losses.append(loss)
        self._mean = self._smoothing * self._mean + (1 - self._smoothing) * loss
        mean = self._mean / (1 - self._smoothing ** len(self.rates))
        self._least = min(self._least, mean)
        if len(self.rates) == len(self._planned) or mean > self._diverged * self._least:
            raise _SweepDone


class _SweepDone(Exception):
    """The way out of `fit` for a sweep that has seen enough."""
