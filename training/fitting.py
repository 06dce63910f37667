"""Fitting without a run around it: no checkpoint, no logs, the best weights kept in memory. For trials and comparisons."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from services.errors import FailedPrecondition
from training.optimization import schedule_callbacks
from training.pipeline import CommonOptions, Examples, Pipeline

if TYPE_CHECKING:
    import keras

MONITOR = "val_loss"

Tell = Callable[[int, float], None]
"""Called after each epoch with its number from 0 and the best validation loss so far; may raise to end the training."""


def fit_in_memory(
    pipeline: Pipeline,
    model: "keras.Model",
    training: Examples,
    validation: Examples,
    options: CommonOptions,
    tell: Tell | None = None,
) -> list[float]:
    """Fit as a run does, and leave the weights of the best epoch in the model; returns the validation loss by epoch.

    Raises FailedPrecondition where training diverges.
    """
    import keras

    history: list[dict[str, float]] = []
    watch = _watch(history, tell)
    stopping = keras.callbacks.EarlyStopping(MONITOR, patience=options.patience, restore_best_weights=True)
    moving = schedule_callbacks(options, len(training), history)
    pipeline.fit(model, training, validation, options, [watch, stopping, *moving])
    return [entry[MONITOR] for entry in history]


def _watch(history: list[dict[str, float]], tell: Tell | None) -> Any:
    """A Keras callback that writes down the validation loss, and ends a training that has none."""
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            loss = float((logs or {}).get(MONITOR, math.nan))
            if not math.isfinite(loss):
                raise FailedPrecondition(f"Training diverged: validation loss {loss:g} in epoch {epoch + 1}.")
            history.append({MONITOR: loss})
            if tell is not None:
                tell(epoch, min(entry[MONITOR] for entry in history))

    return Watch()
