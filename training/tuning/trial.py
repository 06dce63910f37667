"""One trial: a whole training run but for the test part, the export and the report."""

import gc
import time
from dataclasses import dataclass

from services.errors import FailedPrecondition, InvalidArgument
from training.environment import import_keras
from training.fitting import MONITOR, Tell, fit_in_memory
from training.pipeline import CommonOptions, Pipeline, Source, Trained
from training.runner import judge

LOSS = MONITOR
"""The objective that needs no metric: the best epoch's validation loss."""


@dataclass(frozen=True)
class Judged:
    """What a trial came to: all metrics of the family on validation rows, and `val_loss`."""

    metrics: dict[str, float]
    epochs: int
    seconds: float


def run_trial(pipeline: Pipeline, options: CommonOptions, source: Source, sha256: str, tell: Tell) -> Judged:
    """Train on the training part and judge on the validation part; the test part is cut off and not looked at.

    The data is read again, as options may say how. Raises CornetError for options that do not fit the data, and
    FailedPrecondition where training diverges or the data's SHA-256 is another.
    """
    start = time.monotonic()
    loaded = pipeline.load(source, options)
    if loaded.sha256 != sha256:
        raise FailedPrecondition(f"Expected the data {loaded.name} to stay as it was. Its SHA-256 is another.")
    split = pipeline.split(loaded.data, options)
    processor = pipeline.fit_processor(split.train, options)
    training = pipeline.examples(split.train, processor, options)
    validation = pipeline.examples(split.validation, processor, options)
    import_keras(options.seed, deterministic=options.deterministic)
    import keras

    keras.backend.clear_session()
    try:
        model = pipeline.build(training, processor, options)
        losses = fit_in_memory(pipeline, model, training, validation, options, tell)
        serving = pipeline.serving_model(model, training, validation, processor, options)
        trained = Trained(model, serving, training, validation, processor)
        _, _, metrics = judge(pipeline, trained, validation, options)
    finally:
        gc.collect()
    if not losses:
        raise FailedPrecondition(
            f"Expected a family that trains by epochs. Received: {pipeline.family}, which does not."
        )
    metrics[LOSS] = min(losses)
    return Judged(metrics, len(losses), time.monotonic() - start)


def objective_of(judged: Judged, name: str) -> float:
    """The figure to compare trials by. Raises InvalidArgument for a metric the family does not have on this data."""
    if name not in judged.metrics:
        raise InvalidArgument(
            f"--objective: expected one of {', '.join(judged.metrics)}, the figures of this family on this data. "
            f"Received: {name!r}."
        )
    return judged.metrics[name]
