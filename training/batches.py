"""Batches of token rows of like length, so that little is computed for padding."""

import itertools
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from services.processing.text import PADDING_ID
from training.pipeline import Examples

_POOL_BATCHES = 16
_LENGTH_STEP = 8

Batch = tuple[dict[str, np.ndarray], np.ndarray]


def training_batches(examples: Examples, batch_size: int, seed: int, first_epoch: int = 0) -> tf.data.Dataset:
    """Shuffled batches, dealt anew for each epoch by the seed and the epoch's number.

    A batch is `tokens` i32 `[b, L]` and targets `[b]`, L as long as its longest row, rounded up to 8. A run that begins at
    `first_epoch` sees what it would have seen there.
    """
    lengths = _lengths(examples)
    epochs = itertools.count(first_epoch)

    def epoch() -> Iterator[Batch]:
        random = np.random.default_rng((seed, next(epochs)))
        for rows in deal(lengths, batch_size, random):
            yield _batch(examples, lengths, rows)

    return _dataset(epoch, -(-len(lengths) // batch_size))


def validation_batches(examples: Examples, batch_size: int) -> tf.data.Dataset:
    """The same batches every time, from the shortest rows to the longest."""
    lengths = _lengths(examples)
    order = np.argsort(lengths, kind="stable")
    batches = _chunks(order, batch_size)
    return _dataset(lambda: (_batch(examples, lengths, rows) for rows in batches), len(batches))


def deal(lengths: np.ndarray, batch_size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Row indices by batch: drawn in pools of sixteen batches, sorted by length within a pool, the batches shuffled."""
    pools = _chunks(random.permutation(len(lengths)), _POOL_BATCHES * batch_size)
    ordered = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = _chunks(ordered, batch_size)
    return [batches[index] for index in random.permutation(len(batches))]


def _lengths(examples: Examples) -> np.ndarray:
    lengths: np.ndarray = (examples.inputs["tokens"] != PADDING_ID).sum(axis=1)
    return lengths


def _chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _batch(examples: Examples, lengths: np.ndarray, rows: np.ndarray) -> Batch:
    length = -(-int(lengths[rows].max()) // _LENGTH_STEP) * _LENGTH_STEP
    return {"tokens": examples.inputs["tokens"][rows, :length]}, examples.targets[rows]


def _dataset(generator: object, batches: int) -> tf.data.Dataset:
    signature = ({"tokens": tf.TensorSpec((None, None), tf.int32)}, tf.TensorSpec((None,), tf.int64))
    dataset = tf.data.Dataset.from_generator(generator, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(batches))
