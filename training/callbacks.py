"""Keras callbacks of every run: checkpoint with early stopping, and the progress bar."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from services.errors import DataError, FailedPrecondition
from services.files import replacing, writing
from training.formats import layers_of

_MONITOR = "val_loss"
_LINE_EVERY_S = 60.0


class Checkpoint(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Stops a stage when the validation loss no longer falls, keeps its best weights, and saves it all after every epoch.

    One file, replaced atomically, holds the model's and optimizer's variables, each stage's history and best weights so far,
    which say how much patience is left: what was interrupted at any moment continues from its last full epoch. What is
    frozen is not in it, as nothing changes it.

        checkpoint = Checkpoint(path, patience=10)
        checkpoint.read()                            # only where a run is resumed; `stage` is the one to go on with
        first = checkpoint.enter(model, stage=0)     # 0 where the stage begins here
        model.fit(..., initial_epoch=first, callbacks=[checkpoint])
        checkpoint.use(model, stage=0)               # its best weights
    """

    def __init__(self, path: Path, patience: int) -> None:
        super().__init__()
        self._path = path
        self._patience = patience
        self._whole: keras.Model | None = None
        self._spent = 0.0
        self._began: float | None = None
        self._best: list[dict[int, np.ndarray]] = []
        self.dtype = ""
        """What layers compute in while they learn; '' until the run knows."""
        self.histories: list[list[dict[str, float]]] = []
        """For each stage that was entered one entry per epoch: the losses and metrics Keras logs, and the learning rate."""

    @property
    def history(self) -> list[dict[str, float]]:
        """The epochs of all stages, in order."""
        return [entry for history in self.histories for entry in history]

    @property
    def stage(self) -> int:
        """Index of the stage that was entered last; -1 before the first."""
        return len(self.histories) - 1

    @property
    def best_stage(self) -> int:
        """The stage with the epoch of least validation loss; the first where no stage had an epoch."""
        best = [min((entry[_MONITOR] for entry in history), default=math.inf) for history in self.histories]
        return int(np.argmin(best))

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out: the stage's best epoch is `patience` epochs ago."""
        epochs = len(self.histories[self.stage])
        return epochs > 0 and epochs - 1 - self.best_epoch(self.stage) >= self._patience

    def best_epoch(self, stage: int) -> int:
        """The epoch of a stage whose weights are kept, counted from the stage's first; -1 before that."""
        losses = [entry[_MONITOR] for entry in self.histories[stage]]
        return int(np.argmin(losses)) if losses else -1

    @property
    def seconds(self) -> float:
        """Of fitting so far: since the first `enter`, and of interrupted processes before up to their last full epoch."""
        return self._spent + (0.0 if self._began is None else time.monotonic() - self._began)

    def read(self) -> None:
        """Take up what the file holds, where there is one; `enter` then puts the model into that state. Raises DataError."""
        if not self._path.exists():
            return
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                self.histories = json.loads(saved["histories"].item())
                self._spent = float(saved["seconds"])
                self.dtype = saved["dtype"].item()
                self._best = [{} for _ in self.histories]
                for key in saved.files:
                    kind, *numbers = key.split("_")
                    if kind == "best":
                        stage, index = map(int, numbers)
                        self._best[stage][index] = saved[key]
        except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
            raise DataError(
                f"{self._path}: expected the checkpoint of a run. Received: {error}. Leave --resume out to start afresh."
            ) from error

    def enter(self, model: keras.Model, stage: int) -> int:
        """Begin a stage, or go on in the one that `read` found; returns how many epochs of it the model has had.

        `model` is built and compiled for the stage. What is fitted may be a part of it, with the same optimizer.
        """
        self._whole = model
        if self._began is None:
            self._began = time.monotonic()
        if stage == self.stage:
            self._restore(model)
            return len(self.histories[stage])
        # What is frozen until here was in the stages before as it is now: their best weights are these as well.
        current = _changing(model)
        for earlier in self._best:
            earlier |= {index: np.array(weight.numpy()) for index, weight in current.items() if index not in earlier}
        self.histories.append([])
        self._best.append({})
        return 0

    def use(self, model: keras.Model, stage: int) -> None:
        """Give the model the best weights of a stage; nothing changes where the stage had no epoch."""
        weights = model.weights
        for index, value in self._best[stage].items():
            weights[index].assign(value)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        entry = {key: float(value) for key, value in (logs or {}).items()}
        if not all(math.isfinite(entry[key]) for key in ("loss", _MONITOR)):
            raise FailedPrecondition(
                f"Training diverged: expected finite losses. Received: loss={entry['loss']:g}, "
                f"{_MONITOR}={entry[_MONITOR]:g} in epoch {epoch + 1}. A lower learning_rate usually helps."
            )
        history = self.histories[self.stage]
        history.append({**entry, "learning_rate": float(self.model.optimizer.learning_rate)})
        if self.best_epoch(self.stage) == len(history) - 1:
            best = {index: np.array(weight.numpy()) for index, weight in _changing(self._entered).items()}
            self._best[self.stage] = best
        self._save()
        if self.exhausted:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        del logs
        self.use(self._entered, self.stage)

    @property
    def _entered(self) -> keras.Model:
        if self._whole is None:
            raise RuntimeError("a stage is entered before it is fitted")
        return self._whole

    def _save(self) -> None:
        told = {"histories": json.dumps(self.histories), "dtype": self.dtype, "seconds": self.seconds}
        arrays: dict[str, Any] = {name: np.array(value) for name, value in told.items()}
        arrays |= {f"state_{index}": variable.numpy() for index, variable in enumerate(_state(self._entered))}
        for stage, best in enumerate(self._best):
            arrays |= {f"best_{stage}_{index}": weight for index, weight in best.items()}
        with writing(f"the checkpoint {self._path}"), replacing(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    def _restore(self, model: keras.Model) -> None:
        model.optimizer.build(model.trainable_variables)
        with np.load(self._path, allow_pickle=False) as saved:
            for index, variable in enumerate(_state(model)):
                variable.assign(saved[f"state_{index}"])


class EpochProgress(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """A bar over the epochs with loss, validation loss and time left; silent where the console is no terminal.

    Early stopping usually ends before the bar is full, so the time left is an upper bound.
    What is computed once before the first epoch has a bar of its own.
    """

    def __init__(self, console: Console, epochs: int, completed: int = 0) -> None:
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[unit]} {task.completed:,}/{task.total:,}"),
            TextColumn("{task.fields[losses]}"),
            TextColumn("{task.fields[bound]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._progress.add_task(
            "training", total=epochs, completed=completed, unit="epoch", losses="", bound="at most"
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        del epoch
        entry = logs or {}
        losses = f"loss {entry.get('loss', math.nan):.4g}  validation {entry.get(_MONITOR, math.nan):.4g}"
        self._progress.update(self._task, advance=1, losses=losses)

    @contextmanager
    def preparing(self, what: str, rows: int) -> Iterator[Callable[[int], None]]:
        """Show how far rows are made ready to be learnt from: what this gives is called with how many more of them are.

        A bar on a terminal; elsewhere a line at the beginning and one a minute, so that a log does not stand still.
        """
        console, done, told = self._progress.console, 0, time.monotonic()
        if not console.is_terminal:
            console.print(f"{what}: {rows:,} rows")
        task = self._progress.add_task(what, total=rows, unit="row", losses="", bound="")

        def advance(more: int) -> None:
            nonlocal done, told
            done += more
            self._progress.update(task, completed=done)
            if not console.is_terminal and time.monotonic() - told >= _LINE_EVERY_S:
                told = time.monotonic()
                console.print(f"  {done:,} of {rows:,}")

        yield advance
        self._progress.remove_task(task)


def preparing(callbacks: Sequence[Any], what: str, rows: int) -> AbstractContextManager[Callable[[int], None]]:
    """`EpochProgress.preparing` of the one among a run's callbacks; where there is none, nothing is shown."""
    shown = next((callback for callback in callbacks if isinstance(callback, EpochProgress)), None)
    return nullcontext(lambda _: None) if shown is None else shown.preparing(what, rows)


def _changing(model: keras.Model) -> dict[int, Any]:
    """The weights that training may change, those of layers that are not frozen, by their place in `model.weights`."""
    frozen = {id(weight) for layer in layers_of(model) if not layer.trainable for weight in layer.weights}
    return {index: weight for index, weight in enumerate(model.weights) if id(weight) not in frozen}


def _state(model: keras.Model) -> list[Any]:
    """Every variable that the next epoch depends on and changes: weights, random seeds, optimizer."""
    own = {id(variable) for variable in (*model.weights, *model.optimizer.variables)}
    others = [variable for variable in model.variables if id(variable) not in own]
    return [*_changing(model).values(), *others, *model.optimizer.variables]
