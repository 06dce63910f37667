"""What a trial is judged by: all the figures that a run of the family has."""

import pytest

from training.options import parse
from training.pipeline import Source
from training.pipelines.rbm import PIPELINE
from training.tuning.trial import LOSS, run_trial

# Keras reads the learning rate in a way that numpy warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_a_trial_has_the_metrics_of_what_is_equipped_and_of_the_model_itself() -> None:
    options = parse(PIPELINE.options, ["epochs=1", "hidden=4", "impute_steps=1"])
    judged = run_trial(PIPELINE, options, Source(), PIPELINE.load(Source(), options).sha256, lambda *_: None)
    assert set(judged.metrics) == {"accuracy", "pseudo_likelihood", "impute_error", LOSS}
    assert judged.epochs == 1
