"""Keras callbacks of every run: checkpoint with early stopping, and the progress bar."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from services.errors import FailedPrecondition

_MONITOR = "val_loss"


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Stops when the validation loss no longer falls, keeps the best weights, and saves it all after every epoch.

    One file, replaced atomically, holds the model's and optimizer's variables, the best weights so far, the history and
    the early-stopping counter: what was interrupted at any moment continues from its last full epoch.

        checkpoint = Checkpoint(path, patience=10)
        first = checkpoint.restore(model)            # 0 where there is no file
        model.fit(..., initial_epoch=first, callbacks=[checkpoint])
    """

    def __init__(self, path: Path, patience: int) -> None:
        super().__init__()
        self._path = path
        self._patience = patience
        self._best_weights: list[np.ndarray] = []
        self.history: list[dict[str, float]] = []
        """One entry per epoch: the losses and metrics Keras logs, and the learning rate."""

    @property
    def best_epoch(self) -> int:
        """Index of the epoch whose weights are kept; -1 before the first."""
        losses = [entry[_MONITOR] for entry in self.history]
        return int(np.argmin(losses)) if losses else -1

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out: the best epoch is `patience` epochs ago."""
        return bool(self.history) and len(self.history) - 1 - self.best_epoch >= self._patience

    def restore(self, model: keras.Model) -> int:
        """Put a built and compiled model into the saved state; returns how many epochs it has had."""
        if not self._path.exists():
            return 0
        model.optimizer.build(model.trainable_variables)
        with np.load(self._path, allow_pickle=False) as saved:
            for index, variable in enumerate(_state(model)):
                variable.assign(saved[f"state_{index}"])
            self._best_weights = [saved[f"best_{index}"] for index in range(len(model.weights))]
            self.history = json.loads(saved["history"].item())
        return len(self.history)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        entry = {key: float(value) for key, value in (logs or {}).items()}
        if not all(math.isfinite(entry[key]) for key in ("loss", _MONITOR)):
            raise FailedPrecondition(
                f"Training diverged: expected finite losses. Received: loss={entry['loss']:g}, "
                f"{_MONITOR}={entry[_MONITOR]:g} in epoch {epoch + 1}. A lower learning_rate usually helps."
            )
        self.history.append({**entry, "learning_rate": float(self.model.optimizer.learning_rate)})
        if self.best_epoch == len(self.history) - 1:
            self._best_weights = [np.array(weight) for weight in self.model.get_weights()]
        self._save()
        if self.exhausted:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        del logs
        if self._best_weights:
            self.model.set_weights(self._best_weights)

    def _save(self) -> None:
        arrays = {f"state_{index}": variable.numpy() for index, variable in enumerate(_state(self.model))}
        arrays |= {f"best_{index}": weight for index, weight in enumerate(self._best_weights)}
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, history=np.array(json.dumps(self.history)), **arrays)
        os.replace(temporary, self._path)  # noqa: PTH105  # atomic, as the name says


class EpochProgress(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """A bar over the epochs with loss, validation loss and time left; silent where the console is no terminal.

    Early stopping usually ends before the bar is full, so the time left is an upper bound.
    """

    def __init__(self, console: Console, epochs: int, completed: int = 0) -> None:
        super().__init__()
        self._epochs = epochs
        self._completed = completed
        self._started = time.monotonic()
        self.seconds = 0.0
        """How long fitting took in this process."""
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("epoch {task.completed}/{task.total}"),
            TextColumn("{task.fields[losses]}"),
            TextColumn("at most"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("training", total=epochs, completed=completed, losses="")

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._progress.stop()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        entry = logs or {}
        losses = f"loss {entry.get('loss', math.nan):.4g}  validation {entry.get(_MONITOR, math.nan):.4g}"
        self._progress.update(self._task, completed=epoch + 1, losses=losses)


def _state(model: keras.Model) -> list[Any]:
    """Every variable that the next epoch depends on: weights, random seeds, optimizer."""
    own = {id(variable) for variable in model.optimizer.variables}
    return [v for v in model.variables if id(v) not in own] + list(model.optimizer.variables)
