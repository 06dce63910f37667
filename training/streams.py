"""Rows to Keras batch by batch: nothing is copied as a whole, which pictures in their thousands would not bear."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from training.pipeline import Examples


def row_batches(examples: Examples, batch_size: int, seed: int | None = None, first_epoch: int = 0) -> tf.data.Dataset:
    """Batches of inputs, targets and, where there are any, weights; in order, or shuffled anew for each epoch by `seed`.

    A run that begins at `first_epoch` sees what it would have seen there.
    """
    epochs = itertools.count(first_epoch)

    def epoch() -> Iterator[Any]:
        order = np.arange(len(examples))
        if seed is not None:
            order = np.random.default_rng((seed, next(epochs))).permutation(order)
        for start in range(0, len(order), batch_size):
            yield _rows(examples, order[start : start + batch_size])

    signature = tf.nest.map_structure(
        lambda rows: tf.TensorSpec((None, *rows.shape[1:]), rows.dtype), _rows(examples, np.arange(0))
    )
    dataset = tf.data.Dataset.from_generator(epoch, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(-(-len(examples) // batch_size)))
    return dataset.prefetch(2)


def _rows(examples: Examples, rows: np.ndarray) -> Any:
    inputs = {name: values[rows] for name, values in examples.inputs.items()}
    parts = (inputs, examples.targets[rows])
    return parts if examples.weights is None else (*parts, examples.weights[rows])
