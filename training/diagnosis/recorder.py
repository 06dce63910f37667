"""The Keras callback that takes a diagnosis while a model is trained, without changing what is learnt."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.diagnosis.figures import Activation, Diagnosis, EpochFigures, append, resume
from training.diagnosis.findings import find
from training.diagnosis.probe import Probe
from training.pipeline import Examples

SAMPLED_STEPS = 3
"""Steps per epoch that are looked at, evenly spread; each costs about one more step and two copies of the weights."""


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # keras ships no types
    """Looks into the network before a few steps of each epoch, and at what those steps change.

    The batches it looks at are its own draw from the rows that are learnt from, as large as those that are trained on; random
    numbers, moving averages and weights of the run stay what they would have been. The figures are written down after every
    epoch, so that a run which diverges or is interrupted leaves them, and a resumed one continues them.

        recorder = Recorder(folder, batch_size=32, seed=0)
        recorder.enter("head")                       # before each stage, with '' where there is one
        pipeline.fit(model, ..., [recorder])         # which tells it the rows: see `training.pipeline.Watcher`
        recorder.diagnosis
    """

    def __init__(self, directory: Path, *, batch_size: int, seed: int, first_epoch: int = 0) -> None:
        """`first_epoch`: how many epochs the run has behind it, over all stages."""
        super().__init__()
        self._directory = directory
        self._most_rows = batch_size
        self._seed = seed
        self._epochs = resume(directory, first_epoch)
        self._layers = dict.fromkeys(layer for epoch in self._epochs for layer in epoch.gradient_norm)
        self._activations: dict[Activation, None] = {}
        self._stage = ""
        self._epoch = first_epoch
        self._clear()

    @property
    def diagnosis(self) -> Diagnosis:
        """All epochs so far, and what is wrong with them."""
        steps = f"{SAMPLED_STEPS} steps per epoch, up to {self._most_rows} training rows each"
        figures = Diagnosis(tuple(self._layers), tuple(self._activations), tuple(self._epochs), sampling=steps)
        return find(figures)

    def enter(self, stage: str) -> None:
        """What is fitted next is the stage of that name."""
        self._stage = stage

    def watch(self, train: Examples) -> None:
        """The rows and targets that are learnt from next, as the model that is fitted takes them."""
        self._train = train
        self._batch_size = min(self._most_rows, len(train))

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        self._probe = Probe(self.model)
        # A later stage may learn more layers, from the input's side on.
        self._layers = dict.fromkeys(self._probe.layers) | self._layers
        steps = -(-len(self._train) // self._batch_size)
        count = min(SAMPLED_STEPS, steps)
        self._sampled = {int((index + 0.5) * steps / count) for index in range(count)}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        del epoch, logs
        self._clear()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        del logs
        if batch not in self._sampled:
            return
        rows = np.random.default_rng((self._seed, self._epoch, batch)).choice(
            len(self._train), self._batch_size, replace=False
        )
        inputs = {name: values[rows] for name, values in self._train.inputs.items()}
        weights = None if self._train.weights is None else self._train.weights[rows]
        look = self._probe.look(inputs, self._train.targets[rows], weights)
        self._activations |= dict.fromkeys(self._probe.activations)
        for figure, values in (("gradient_norm", look.gradient_norm), ("saturation", look.saturation)):
            self._add(figure, values)
        for layer, peaks in look.peaks.items():
            self._peaks[layer] = np.maximum(self._peaks.get(layer, peaks), peaks)
        self._before = self._probe.weights()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del logs
        if batch in self._sampled:
            self._add("update_ratio", self._probe.update_ratio(self._before, self._probe.weights()))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        del epoch  # counted within a stage
        means = {
            figure: {layer: float(np.mean(values)) for layer, values in layers.items()}
            for figure, layers in self._values.items()
        }
        dead = {layer: float(np.mean(peaks <= 0)) for layer, peaks in self._peaks.items()}
        loss = float((logs or {})["loss"])
        self._epoch += 1
        self._epochs.append(EpochFigures(self._epoch, loss, dead=dead, stage=self._stage, **means))
        append(self._directory, self._epochs[-1])

    def _clear(self) -> None:
        self._values: dict[str, dict[str, list[float]]] = {
            name: defaultdict(list) for name in ("gradient_norm", "update_ratio", "saturation")
        }
        self._peaks: dict[str, np.ndarray] = {}

    def _add(self, figure: str, values: Mapping[str, float]) -> None:
        for layer, value in values.items():
            self._values[figure][layer].append(value)
