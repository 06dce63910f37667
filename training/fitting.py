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
"""Called after each epoch with its number from 0 and the best validation loss so far, both over all stages; may raise to end
the training."""


def fit_in_memory(
    pipeline: Pipeline,
    model: "keras.Model",
    training: Examples,
    validation: Examples,
    options: CommonOptions,
    tell: Tell | None = None,
) -> list[float]:
    """Fit all stages as a run does, and leave the weights of the best epoch in the model.

    Returns the validation loss by epoch, over all stages. Raises FailedPrecondition where training diverges.
    """
    import keras

    from training.mixed_precision import computing_in, training_dtype

    losses: list[float] = []
    dtype = training_dtype(options)
    kept: tuple[float, list[Any]] = math.inf, []
    stages = pipeline.stages(options)
    for index, stage in enumerate(stages):
        if index:
            pipeline.begin(model, training, stage.options)
        history: list[dict[str, float]] = []
        watch = _watch(history, losses, tell)
        stopping = keras.callbacks.EarlyStopping(MONITOR, patience=stage.options.patience, restore_best_weights=True)
        moving = schedule_callbacks(stage.options, len(training), history)
        with computing_in(model, dtype):
            pipeline.fit(model, training, validation, stage.options, [watch, stopping, *moving])
        best = min((entry[MONITOR] for entry in history), default=math.inf)
        if len(stages) > 1 and best < kept[0]:
            kept = best, model.get_weights()
    if kept[1]:
        model.set_weights(kept[1])
    return losses


def _watch(history: list[dict[str, float]], losses: list[float], tell: Tell | None) -> Any:
    """A Keras callback that writes down the validation loss, and ends a training that has none.

    `history` is the stage's, `losses` are those of all stages.
    """
    import keras

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            loss = float((logs or {}).get(MONITOR, math.nan))
            if not math.isfinite(loss):
                raise FailedPrecondition(f"Training diverged: validation loss {loss:g} in epoch {epoch + 1}.")
            history.append({MONITOR: loss})
            losses.append(loss)
            if tell is not None:
                tell(len(losses) - 1, min(losses))

    return Watch()
