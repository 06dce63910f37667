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

    The batches it looks at are its own draw from the training rows, as large as those that are trained on; random numbers,
    moving averages and weights of the run stay what they would have been. The figures are written down after every
    epoch, so that a run which diverges or is interrupted leaves them, and a resumed one continues them.
    """

    def __init__(self, directory: Path, train: Examples, *, batch_size: int, seed: int, first_epoch: int = 0) -> None:
        """`train`: the rows and targets that `fit` learns from."""
        super().__init__()
        self._directory = directory
        self._train = train
        self._batch_size = min(batch_size, len(train))
        self._seed = seed
        self._epochs = resume(directory, first_epoch)
        self._layers: dict[str, None] = {}
        self._activations: dict[Activation, None] = {}
        self._epoch = 0
        self._begin_epoch(0)

    @property
    def diagnosis(self) -> Diagnosis:
        """All epochs so far, and what is wrong with them."""
        steps = f"{SAMPLED_STEPS} steps per epoch, {self._batch_size} training rows each"
        figures = Diagnosis(tuple(self._layers), tuple(self._activations), tuple(self._epochs), sampling=steps)
        return find(figures)

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        self._probe = Probe(self.model)
        self._layers |= dict.fromkeys(self._probe.layers)
        steps = -(-len(self._train) // self._batch_size)
        count = min(SAMPLED_STEPS, steps)
        self._sampled = {int((index + 0.5) * steps / count) for index in range(count)}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        del logs
        self._begin_epoch(epoch)

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
        means = {
            figure: {layer: float(np.mean(values)) for layer, values in layers.items()}
            for figure, layers in self._values.items()
        }
        dead = {layer: float(np.mean(peaks <= 0)) for layer, peaks in self._peaks.items()}
        loss = float((logs or {})["loss"])
        self._epochs.append(EpochFigures(epoch + 1, loss, dead=dead, **means))
        append(self._directory, self._epochs[-1])

    def _begin_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._values: dict[str, dict[str, list[float]]] = {
            name: defaultdict(list) for name in ("gradient_norm", "update_ratio", "saturation")
        }
        self._peaks: dict[str, np.ndarray] = {}

    def _add(self, figure: str, values: Mapping[str, float]) -> None:
        for layer, value in values.items():
            self._values[figure][layer].append(value)
