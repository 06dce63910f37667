"""What a trial is judged by: all the figures that a run of the family has."""

from typing import Any

import pytest

from training.options import parse
from training.pipeline import Source
from training.pipelines import find
from training.tuning.trial import LOSS, run_trial


@pytest.mark.parametrize(
    ("family", "settings", "figures"),
    [
        ("rbm", ["hidden=4", "impute_steps=1"], {"accuracy", "pseudo_likelihood", "impute_error"}),
        ("autoencoder", ["units=4"], {"roc_auc", "restoration_error", "unrestored_error"}),
    ],
)
def test_a_trial_has_the_metrics_of_what_is_equipped_and_of_what_is_examined(
    family: str, settings: list[str], figures: set[str]
) -> None:
    pipeline: Any = find(family)
    options = parse(pipeline.options, ["epochs=1", *settings])
    judged = run_trial(pipeline, options, Source(), pipeline.load(Source(), options).sha256, lambda *_: None)
    assert {*figures, LOSS} <= set(judged.metrics)
    assert judged.epochs == 1
