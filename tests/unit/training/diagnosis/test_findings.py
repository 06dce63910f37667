"""From figures to words: each fault is told with its layer, its epochs and a remedy, and a healthy run has none."""

import math
from collections.abc import Mapping, Sequence

import pytest

from training.diagnosis.figures import Activation, Diagnosis, EpochFigures, Finding
from training.diagnosis.findings import find

LAYERS = ("first", "second", "third", "last")
ACTIVATIONS = (
    Activation("relu", "relu"),
    Activation("sigmoid", "sigmoid"),
    Activation("softmax", "softmax", output=True),
)
FALLING = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3)


def run(
    *,
    norms: Sequence[Sequence[float]] | Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    ratios: Sequence[float] = (1e-3, 1e-3, 1e-3, 1e-3),
    saturation: Mapping[str, float] | None = None,
    dead: Mapping[str, float] | None = None,
    losses: Sequence[float] = FALLING,
) -> tuple[Finding, ...]:
    """What is found in a run of as many epochs as there are losses; `norms` are the same in all of them, or one row each."""
    rows = [row if isinstance(row, Sequence) else norms for row in norms] if norms else []
    epochs = []
    for index, loss in enumerate(losses):
        row = rows[index] if isinstance(norms[0], Sequence) else norms
        gradient = dict(zip(LAYERS, row, strict=True))
        ratio = dict(zip(LAYERS, ratios, strict=True))
        epochs.append(EpochFigures(index + 1, loss, gradient, ratio, saturation or {}, dead or {}))  # type: ignore[arg-type]  # rows of floats
    return find(Diagnosis(LAYERS, ACTIVATIONS, tuple(epochs))).findings


def test_a_healthy_run_has_no_findings() -> None:
    assert run() == ()


def test_a_gradient_that_fades_is_named_with_its_layers_and_the_activation_to_take() -> None:
    (finding,) = run(norms=(1e-6, 1e-4, 1e-2, 1.0))
    assert finding.kind == "vanishing gradient"
    assert finding.layers == ("first", "second")
    assert finding.epochs == (1, 6)
    assert "in first it is typically 1/1,000,000 as long as in last" in finding.text
    assert "activation=relu" in finding.remedy
    assert "batch_norm" in finding.remedy


def test_a_gradient_that_is_small_everywhere_has_not_vanished() -> None:
    assert run(norms=(1e-7, 1e-7, 1e-7, 1e-7)) == ()


def test_a_gradient_that_fades_in_few_epochs_has_not_vanished() -> None:
    fading, whole = (1e-6, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.0)
    assert run(norms=(fading, fading, whole, whole, whole, whole)) == ()


def test_a_gradient_that_is_no_number_explodes_however_short_the_run_is() -> None:
    (finding,) = run(norms=((1.0, 1.0, 1.0, 1.0), (9.0, 9e9, math.inf, 1.0)), losses=(1.0, math.nan))
    assert finding.kind == "exploding gradient"
    assert (finding.layers, finding.epochs) == (("third",), (2, 2))
    assert "clip_global_norm" in finding.remedy


def test_one_gradient_far_beyond_the_others_explodes() -> None:
    usual = (1.0, 1.0, 1.0, 1.0)
    (finding,) = run(norms=(usual, usual, (1.0, 5000.0, 1.0, 1.0), usual, usual, usual))
    assert (finding.kind, finding.layers, finding.when) == ("exploding gradient", ("second",), "epoch 3")
    assert "5,000 times" in finding.text


def test_steps_that_replace_the_weights_are_too_large() -> None:
    (finding,) = run(ratios=(1e-3, 0.9, 1e-3, 1e-3))
    assert (finding.kind, finding.layers) == ("steps too large", ("second",))
    assert "90 %" in finding.text
    assert "--find-lr" in finding.remedy


@pytest.mark.parametrize(
    ("figures", "kind", "text"),
    [
        ({"dead": {"relu": 0.75}}, "dead ReLU units", "75 % of the ReLU units of relu are 0 for every sampled row"),
        ({"saturation": {"sigmoid": 0.8}}, "saturated activations", "80 % of the values of sigmoid"),
    ],
)
def test_activations_that_pass_no_gradient_are_named(
    figures: dict[str, dict[str, float]], kind: str, text: str
) -> None:
    (finding,) = run(**figures)
    assert finding.kind == kind
    assert text in finding.text


def test_an_output_that_is_certain_is_no_fault() -> None:
    assert run(saturation={"softmax": 1.0}) == ()


def test_a_loss_that_stays_is_told_with_its_likely_cause_and_that_remedy() -> None:
    vanishing, stalled = run(norms=(1e-6, 1e-4, 1e-2, 1.0), losses=(0.7, 0.6999, 0.6998, 0.6999, 0.6999, 0.6998))
    assert stalled.kind == "stalled"
    assert "the training loss has fallen from 0.7 to 0.6998 at best" in stalled.text
    assert "vanishing gradient" in stalled.text
    assert stalled.remedy == vanishing.remedy


def test_too_few_epochs_are_not_judged() -> None:
    assert run(norms=(1e-6, 1e-4, 1e-2, 1.0), losses=(0.7, 0.7)) == ()


def staged(*stages: tuple[str, Sequence[float], Sequence[float]]) -> tuple[Finding, ...]:
    """What is found in stages of a name, gradient norms by layer and losses by epoch."""
    epochs: list[EpochFigures] = []
    for name, norms, losses in stages:
        gradient = dict(zip(LAYERS, norms, strict=True))
        epochs += [EpochFigures(len(epochs) + 1 + i, loss, gradient, {}, stage=name) for i, loss in enumerate(losses)]
    return find(Diagnosis(LAYERS, ACTIVATIONS, tuple(epochs))).findings


def test_a_finding_names_the_stage_it_is_of() -> None:
    (finding,) = staged(("head", (1, 1, 1, 1), FALLING), ("fine-tuning", (1e-6, 1, 1, 1), FALLING))
    assert finding.stage == "fine-tuning"
    assert finding.when == "epochs 7 to 12 (fine-tuning)"


def test_a_stage_is_judged_by_its_own_gradients() -> None:
    """That of a later stage may be far longer: it is that of more layers, or of a loss that starts elsewhere."""
    assert staged(("head", (1e-4, 1e-4, 1e-4, 1e-4), FALLING), ("fine-tuning", (1, 1, 1, 1), FALLING[:3])) == ()


def test_a_stage_that_finds_nothing_left_to_learn_has_not_stalled() -> None:
    assert staged(("head", (1, 1, 1, 1), FALLING), ("fine-tuning", (1, 1, 1, 1), (0.3, 0.3, 0.3, 0.3))) == ()
    (finding,) = staged(("head", (1, 1, 1, 1), (0.7,) * 4), ("fine-tuning", (1, 1, 1, 1), (0.7,) * 4))
    assert (finding.kind, finding.when) == ("stalled", "epochs 1 to 8")


def test_the_gravest_comes_first_whatever_its_stage() -> None:
    found = staged(("head", (1e-6, 1, 1, 1), FALLING), ("fine-tuning", (math.inf, 1, 1, 1), FALLING))
    assert [(finding.kind, finding.stage) for finding in found] == [
        ("exploding gradient", "fine-tuning"),
        ("vanishing gradient", "head"),
    ]
