"""A restricted Boltzmann machine, and the units that rows of a table become for it and come back from."""

from collections.abc import Sequence

import keras
import numpy as np

from services.processing.tabular import Column
from training.layers.tabular import intervals

_LEAST_SHARE = 0.01
"""A unit that is on in fewer training rows than this, or off, starts as if it were in so many: log(0) is no bias."""


class VisibleEncoding(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Raw features f32 `[B, F]` to visible units f32 `[B, V]` in 0..1; never NaN.

    A numeric column has up to `levels` units: unit t rises from 0 to 1 while the value crosses the t-th interval between
    quantiles of its training values. One level is the usual scaling by minimum and maximum; more of them can hold several
    peaks. A missing cell has the units of the mean. A category has a unit of its own, all of them 0 for one never seen.
    A column that does not vary has no unit.
    """

    def __init__(self, columns: Sequence[Column], features: np.ndarray, *, levels: int = 1) -> None:
        """`features` f32 `[rows, F]` are the training rows that ranges and means come from."""
        super().__init__(trainable=False, name="encoding")
        self.numeric = [i for i, column in enumerate(columns) if column.kind == "numeric"]
        self.categories = {i: len(c.categories) for i, c in enumerate(columns) if c.kind == "categorical"}
        values = features[:, self.numeric].astype(np.float64)
        self._mean = np.nanmean(values, axis=0).astype(np.float32)
        self.lowest = np.nanmin(values, axis=0).astype(np.float32)
        self.place, self._low, self.width = intervals(values, levels)
        kinds = [np.array(self.numeric, np.int32)[self.place]] if self.numeric else []
        kinds += [np.full(count, index, np.int32) for index, count in self.categories.items()]
        self.owner: np.ndarray = np.concatenate(kinds)
        """The column of each unit."""

    @property
    def units(self) -> int:
        return len(self.owner)

    def call(self, features: keras.KerasTensor) -> keras.KerasTensor:
        parts = []
        if len(self.place):
            numeric = keras.ops.take(features, np.array(self.numeric), axis=1)
            filled = keras.ops.where(keras.ops.isnan(numeric), self._mean, numeric)
            parts.append(
                keras.ops.clip((keras.ops.take(filled, self.place, axis=1) - self._low) / self.width, 0.0, 1.0)
            )
        for index, count in self.categories.items():
            codes = np.arange(count, dtype=np.float32)
            parts.append(keras.ops.cast(keras.ops.equal(features[:, index : index + 1], codes), "float32"))
        return keras.ops.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


class VisibleDecoding(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """The way back: units f32 `[B, V]` to raw features f32 `[B, F]`; the strongest of a column's categories is its index."""

    def __init__(self, encoding: VisibleEncoding) -> None:
        super().__init__(trainable=False, name="decoding")
        self._encoding = encoding
        spread = np.zeros((len(encoding.place), len(encoding.numeric)), np.float32)
        spread[np.arange(len(encoding.place)), encoding.place] = encoding.width
        self._spread = spread
        self._places = np.argsort([*encoding.numeric, *encoding.categories]).astype(np.int32)

    def call(self, units: keras.KerasTensor) -> keras.KerasTensor:
        encoding = self._encoding
        start = len(encoding.place)
        parts = []
        if encoding.numeric:
            numeric = keras.ops.matmul(units[:, :start], self._spread) if start else 0.0 * units[:, :1]
            parts.append(numeric + encoding.lowest)
        for count in encoding.categories.values():
            strongest = keras.ops.argmax(units[:, start : start + count], axis=1)
            parts.append(keras.ops.cast(strongest, "float32")[:, None])
            start += count
        return keras.ops.take(keras.ops.concatenate(parts, axis=1), self._places, axis=1)


class BoltzmannMachine(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Bernoulli visible and hidden units, without connections within either layer.

    Called on visible units f32 `[B, V]` in 0..1, it gives each row's negative log pseudo-likelihood, f32 `[B, 1]`: minus the
    sum over all units of the log probability of the unit's value given all others, where a value between 0 and 1 is flipped
    to 1 minus itself, as in scikit-learn's `BernoulliRBM.score_samples`. That flips one unit of each row at random; so does
    this one while training, and adds up all of them otherwise.

    While training, the gradient of that answer is contrastive divergence's: the free energy of the data against that of
    samples, `steps` Gibbs steps away from the data (Hinton 2002, "Training Products of Experts by Minimizing Contrastive
    Divergence") or, with `chains`, from where that many persistent chains stood before (Tieleman 2008, "Training Restricted
    Boltzmann Machines using Approximations to the Likelihood Gradient").
    """

    def __init__(self, hidden: int, mean: np.ndarray, *, steps: int, chains: int, seed: int) -> None:
        """`mean` f32 `[V]` is that of each unit in the training rows, which biases start from; `chains` 0: none persist."""
        super().__init__(name="machine")
        self._mean = np.clip(mean, _LEAST_SHARE, 1 - _LEAST_SHARE)
        self._hidden = hidden
        self._steps = steps
        self._count = chains
        self._seed = seed
        self._random = keras.random.SeedGenerator(seed)

    def build(self, shape: tuple[int | None, ...]) -> None:
        visible = len(self._mean)
        small = keras.initializers.RandomNormal(stddev=0.01, seed=self._seed)
        self.kernel = self.add_weight(shape=(visible, self._hidden), initializer=small, name="kernel")
        biases = np.log(self._mean / (1 - self._mean)).astype(np.float32)
        self.visible_bias = self.add_weight(
            shape=(visible,), initializer=lambda *_, **__: keras.ops.convert_to_tensor(biases), name="visible_bias"
        )
        self.hidden_bias = self.add_weight(shape=(self._hidden,), initializer="zeros", name="hidden_bias")
        if self._count:
            random = np.random.default_rng(self._seed)
            start = (random.random((self._count, visible)) < self._mean).astype(np.float32)
            self.chains = self.add_weight(
                shape=start.shape,
                initializer=lambda *_, **__: keras.ops.convert_to_tensor(start),
                trainable=False,
                name="chains",
            )
        super().build(shape)

    def call(self, visible: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        if not training:
            return self._surprise(visible)
        free = self.free_energy(visible)
        samples = keras.ops.stop_gradient(self._samples(visible))
        gap = free - keras.ops.mean(self.free_energy(samples)) if self._count else free - self.free_energy(samples)
        shown = keras.ops.stop_gradient(self._surprise_of_one(visible, free) - gap)
        return (gap + shown)[:, None]

    def hidden(self, visible: keras.KerasTensor) -> keras.KerasTensor:
        """Probabilities f32 `[B, H]` that the hidden units are on."""
        return keras.ops.sigmoid(keras.ops.matmul(visible, self.kernel) + self.hidden_bias)

    def visible(self, hidden: keras.KerasTensor) -> keras.KerasTensor:
        """Probabilities f32 `[B, V]` that the visible units are on."""
        return keras.ops.sigmoid(keras.ops.matmul(hidden, keras.ops.transpose(self.kernel)) + self.visible_bias)

    def free_energy(self, visible: keras.KerasTensor) -> keras.KerasTensor:
        """Minus the log of a row's unnormalised probability, f32 `[B]`."""
        inputs = keras.ops.matmul(visible, self.kernel) + self.hidden_bias
        return -keras.ops.matmul(visible, self.visible_bias) - keras.ops.sum(keras.ops.softplus(inputs), axis=1)

    def _samples(self, visible: keras.KerasTensor) -> keras.KerasTensor:
        samples = self.chains if self._count else visible
        for _ in range(self._steps):
            hidden = self._drawn(self.hidden(samples))
            samples = self._drawn(self.visible(hidden))
        if self._count:
            self.chains.assign(samples)
        return samples

    def _drawn(self, probabilities: keras.KerasTensor) -> keras.KerasTensor:
        noise = keras.random.uniform(keras.ops.shape(probabilities), seed=self._random)
        return keras.ops.cast(noise < probabilities, "float32")

    def _surprise(self, visible: keras.KerasTensor) -> keras.KerasTensor:
        inputs = keras.ops.matmul(visible, self.kernel) + self.hidden_bias
        flip = 1 - 2 * visible
        flipped = inputs[:, None, :] + flip[:, :, None] * self.kernel
        before = keras.ops.sum(keras.ops.softplus(inputs), axis=1, keepdims=True)
        gained = flip * self.visible_bias + keras.ops.sum(keras.ops.softplus(flipped), axis=2) - before
        return keras.ops.sum(keras.ops.softplus(gained), axis=1, keepdims=True)

    def _surprise_of_one(self, visible: keras.KerasTensor, free: keras.KerasTensor) -> keras.KerasTensor:
        count = len(self._mean)
        unit = keras.random.randint((keras.ops.shape(visible)[0],), 0, count, seed=self._random)
        chosen = keras.ops.one_hot(unit, count)
        flipped = self.free_energy(visible + chosen * (1 - 2 * visible))
        return count * keras.ops.softplus(free - flipped)


class HiddenUnits(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Visible units f32 `[B, V]` to the probabilities of the hidden ones, f32 `[B, H]`."""

    def __init__(self, machine: BoltzmannMachine) -> None:
        super().__init__(name="hidden")
        self.machine = machine

    def call(self, visible: keras.KerasTensor) -> keras.KerasTensor:
        return self.machine.hidden(visible)


class Reconstruction(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Visible units f32 `[B, V]` to what the hidden ones make of them, f32 `[B, V]`."""

    def __init__(self, machine: BoltzmannMachine) -> None:
        super().__init__(name="reconstruction")
        self.machine = machine

    def call(self, visible: keras.KerasTensor) -> keras.KerasTensor:
        return self.machine.visible(self.machine.hidden(visible))


class Completion(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Visible units f32 `[B, V]` and which of them are known, bool `[B, V]`, to all of them, f32 `[B, V]`.

    Mean-field: unknown units begin at their mean over the training rows, and take the probability that the hidden ones give
    them `steps` times; known ones stay as they are.
    """

    def __init__(self, machine: BoltzmannMachine, mean: np.ndarray, steps: int) -> None:
        super().__init__(name="completion")
        self.machine = machine
        self._mean = mean.astype(np.float32)
        self._steps = steps

    def call(self, visible: keras.KerasTensor, known: keras.KerasTensor) -> keras.KerasTensor:
        units = keras.ops.where(known, visible, self._mean)
        for _ in range(self._steps):
            units = keras.ops.where(known, visible, self.machine.visible(self.machine.hidden(units)))
        return units
