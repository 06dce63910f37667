"""How well damaged rows are restored: the same damaged held-out rows for the model, a plain twin and the baseline."""

from collections.abc import Callable
from typing import Any

import numpy as np

from training.anomaly.options import AutoencoderOptions
from training.anomaly.subject import BATCH_ROWS, Subject
from training.pipeline import ServingModel

Restore = Callable[[np.ndarray], np.ndarray]
"""From raw rows, as a client sends them, to raw rows."""


def damaged(subject: Subject[Any], encoding: Any, rows: np.ndarray, options: AutoencoderOptions) -> np.ndarray:
    """Raw rows damaged as training rows are, as a client would send them; the same for the same seed."""
    corruption = subject.corruption(encoding, options, seed=options.seed)
    return subject.received(in_batches(lambda batch: corruption(batch, training=True), rows))


def restorer(serving: ServingModel) -> Restore:
    """What the served model makes of rows."""

    def restore(rows: np.ndarray) -> np.ndarray:
        (name,) = (spec.name for spec in serving.signature.inputs)
        return in_batches(lambda batch: serving.model({name: batch}, training=False)["reconstruction"], rows)

    return restore


def restoration_error(
    subject: Subject[Any], encoding: Any, restore: Restore, clean: np.ndarray, noisy: np.ndarray
) -> float:
    """Mean squared error of the restored rows, in the subject's units."""
    return float(subject.errors(encoding, restore(noisy), clean).mean())


def in_batches(run: Callable[[np.ndarray], Any], rows: np.ndarray) -> np.ndarray:
    """The results of a Keras call on all rows, some at a time."""
    return np.concatenate(
        [np.asarray(run(rows[start : start + BATCH_ROWS])) for start in range(0, len(rows), BATCH_ROWS)]
    )
