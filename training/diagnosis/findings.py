"""What is wrong with a network, in words: a pure function from the figures of a run to findings.

The limits are such that healthy networks do not reach them: every family's default run is free of findings.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from training.diagnosis.figures import Diagnosis, EpochFigures, Finding

VANISHED = 1e-3
"""Gradient norm of a layer over the largest of all layers in the epoch. Each layer passes a share of the gradient on; with
sigmoids, whose slope is at most 1/4, the product falls with the depth. Source: Glorot and Bengio 2010, "Understanding the
difficulty of training deep feedforward neural networks", which watches the same norms by layer."""
EXPLODED = 1000.0
"""Largest gradient norm of an epoch over the median of the run's epochs. Source of the phenomenon and of clipping as its
remedy: Pascanu, Mikolov, Bengio 2013, "On the difficulty of training recurrent neural networks"."""
LARGEST_STEP = 0.3
"""Share of a layer's weights that one step changes. About 0.001 is usual: Karpathy's notes of Stanford's course CS231n."""
DEAD = 0.5
"""Share of a ReLU layer's units that no sampled row excites."""
SATURATED = 0.5
"""Share of a hidden sigmoid's or tanh's values near a bound."""
STALLED = 0.01
"""Share of its first value by which the training loss has fallen at least where something is learnt."""
LEAST_EPOCHS = 3
"""With fewer epochs there is no course to judge; a figure that is not finite is told all the same."""


def find(diagnosis: Diagnosis) -> Diagnosis:
    """The same diagnosis with its findings, the gravest first.

    Each stage is judged by itself: it may learn other layers, and by other steps. But a later one that finds nothing left to
    learn has not stalled.
    """
    findings: list[Finding] = []
    for stage, epochs in diagnosis.stages.items():
        part = replace(diagnosis, epochs=epochs)
        found = [*_not_finite(part)]
        if len(epochs) >= LEAST_EPOCHS:
            found += [*_exploding(part), *_vanishing(part), *_large_steps(part), *_dead(part), *_saturated(part)]
        findings += [replace(finding, stage=stage) for finding in found]
    findings.sort(key=lambda finding: _GRAVEST_FIRST.index(finding.kind))
    if len(diagnosis.epochs) >= LEAST_EPOCHS:
        findings += _stalled(diagnosis, findings)
    return replace(diagnosis, findings=tuple(findings))


def _not_finite(diagnosis: Diagnosis) -> Iterator[Finding]:
    for epoch in diagnosis.epochs:
        layers = [layer for layer in diagnosis.layers if not math.isfinite(epoch.gradient_norm.get(layer, 0.0))]
        if layers or not math.isfinite(epoch.loss):
            text = "The loss or its gradient was no finite number"
            text += f", in {_listed(layers)}." if layers else "."
            grown = _growth(diagnosis.epochs, epoch)
            yield Finding("exploding gradient", tuple(layers), (epoch.epoch, epoch.epoch), text + grown, _EXPLODING)
            return


def _exploding(diagnosis: Diagnosis) -> Iterator[Finding]:
    largest = {e.epoch: _largest(e) for e in diagnosis.epochs if all(map(math.isfinite, e.gradient_norm.values()))}
    usual = sorted(norm for _, norm in largest.values())[len(largest) // 2] if largest else 0.0
    worst = max(largest, key=lambda epoch: largest[epoch][1], default=0)
    if usual and largest[worst][1] > EXPLODED * usual:
        layer, norm = largest[worst]
        text = f"The gradient of {layer} was {norm:.3g} long, {norm / usual:,.0f} times the run's usual {usual:.3g}."
        yield Finding("exploding gradient", (layer,), (worst, worst), text, _EXPLODING)


def _vanishing(diagnosis: Diagnosis) -> Iterator[Finding]:
    """A gradient that fades for a few epochs in a row: an adaptive optimizer may climb out of it, and has lost them."""
    shares = [_shares(epoch) for epoch in diagnosis.epochs]
    stretches = {layer: _longest([s.get(layer, 1.0) < VANISHED for s in shares]) for layer in diagnosis.layers}
    layers = [layer for layer, (first, end) in stretches.items() if end - first >= LEAST_EPOCHS]
    if not layers:
        return
    weakest = min(layers, key=lambda layer: _median(each[layer] for each in shares[slice(*stretches[layer])]))
    first, end = stretches[weakest]
    epochs = diagnosis.epochs[first:end]
    share = _median(each[weakest] for each in shares[first:end])
    text = (
        f"The gradient fades on its way from the output to the input: in {weakest} it is typically "
        f"{_fraction(share)} as long as in {_largest(epochs[0])[0]}"
        + (f", and below 1/{1 / VANISHED:,.0f} in {_listed(layers)}" if len(layers) > 1 else "")
        + f". Meanwhile the training loss went from {epochs[0].loss:.4g} to {epochs[-1].loss:.4g}."
    )
    kinds = {each.kind for each in diagnosis.activations if not each.output}
    when = (epochs[0].epoch, epochs[-1].epoch)
    yield Finding("vanishing gradient", tuple(layers), when, text, _vanishing_remedy(kinds))


def _large_steps(diagnosis: Diagnosis) -> Iterator[Finding]:
    layers, epochs = _over(diagnosis.epochs, diagnosis.layers, "update_ratio", LARGEST_STEP)
    if layers:
        worst, value = _worst(diagnosis.epochs, layers, "update_ratio")
        text = f"One step changes {worst} by {_percent(value)} of its weights' size (about 0.1 % is usual)" + (
            f"; so do the steps of {_listed(layers)}." if len(layers) > 1 else "."
        )
        remedy = (
            "Lower learning_rate (--find-lr suggests one), let it rise first (warmup_epochs), or clip the gradient."
        )
        yield Finding("steps too large", layers, epochs, text, remedy)


def _dead(diagnosis: Diagnosis) -> Iterator[Finding]:
    names = [each.layer for each in diagnosis.activations if each.kind == "relu"]
    layers, epochs = _over(diagnosis.epochs, names, "dead", DEAD)
    if layers:
        worst, value = _worst(diagnosis.epochs, layers, "dead")
        text = f"{_percent(value)} of the ReLU units of {worst} are 0 for every sampled row: they learn nothing"
        text += f"; more than {_percent(DEAD)} are in {_listed(layers)}." if len(layers) > 1 else "."
        remedy = "Lower learning_rate, add batch_norm=true, or take an activation without a flat side: leaky_relu, elu, gelu."
        yield Finding("dead ReLU units", layers, epochs, text, remedy)


def _saturated(diagnosis: Diagnosis) -> Iterator[Finding]:
    names = [a.layer for a in diagnosis.activations if a.kind in ("sigmoid", "tanh") and not a.output]
    layers, epochs = _over(diagnosis.epochs, names, "saturation", SATURATED)
    if layers:
        worst, value = _worst(diagnosis.epochs, layers, "saturation")
        text = f"{_percent(value)} of the values of {worst} lie so near a bound that hardly any gradient passes"
        text += f"; more than {_percent(SATURATED)} do in {_listed(layers)}." if len(layers) > 1 else "."
        remedy = (
            "Lower learning_rate, add batch normalisation before the activation, standardise the inputs, or take relu."
        )
        yield Finding("saturated activations", layers, epochs, text, remedy)


def _stalled(diagnosis: Diagnosis, causes: Sequence[Finding]) -> Iterator[Finding]:
    losses = [epoch.loss for epoch in diagnosis.epochs]
    lowest = min(losses)
    if not math.isfinite(losses[0]) or losses[0] - lowest >= STALLED * abs(losses[0]):
        return
    named = f" The likely cause is named above: {causes[0].kind}." if causes else ""
    text = (
        f"Nothing is learnt: in {len(losses)} epochs the training loss has fallen from {losses[0]:.4g} "
        f"to {lowest:.4g} at best.{named}"
    )
    remedy = "Raise learning_rate (--find-lr suggests one), and see that inputs and targets belong together."
    epochs = (diagnosis.epochs[0].epoch, diagnosis.epochs[-1].epoch)
    yield Finding("stalled", (), epochs, text, causes[0].remedy if causes else remedy)


_GRAVEST_FIRST = (
    "exploding gradient",
    "vanishing gradient",
    "steps too large",
    "dead ReLU units",
    "saturated activations",
)
_EXPLODING = (
    "Lower learning_rate (--find-lr suggests one), clip the gradient (clip_global_norm=1), or normalise the layers."
)


def _vanishing_remedy(kinds: Collection[str]) -> str:
    if "sigmoid" in kinds or "tanh" in kinds:
        return "Take activation=relu (He initialisation comes with it) and batch_norm=true, or fewer layers."
    return "Add batch_norm=true or shortcuts between layers, or take fewer layers."


def _shares(epoch: EpochFigures) -> Mapping[str, float]:
    """Each layer's gradient norm over the largest of the epoch."""
    finite = {layer: norm for layer, norm in epoch.gradient_norm.items() if math.isfinite(norm)}
    largest = max(finite.values(), default=0.0)
    return {layer: norm / largest for layer, norm in finite.items()} if largest else {}


def _largest(epoch: EpochFigures) -> tuple[str, float]:
    return max(epoch.gradient_norm.items(), key=lambda item: item[1], default=("", 0.0))


def _growth(epochs: Sequence[EpochFigures], epoch: EpochFigures) -> str:
    """How the gradient grew before it was no number any more; '' where there is nothing to tell."""
    before = [_largest(each) for each in epochs if each.epoch < epoch.epoch]
    before = [(layer, norm) for layer, norm in before if math.isfinite(norm)]
    if not before:
        return ""
    layer, norm = before[-1]
    return f" In the epoch before, the longest was {norm:.3g}, in {layer}; in the first it was {before[0][1]:.3g}."


def _over(
    epochs: Sequence[EpochFigures], layers: Iterable[str], figure: str, limit: float
) -> tuple[tuple[str, ...], tuple[int, int]]:
    """The layers whose figure is above the limit in half of the epochs or more, and the first and last of those epochs."""
    found = tuple(
        layer for layer in layers if _persists([getattr(epoch, figure).get(layer, 0.0) > limit for epoch in epochs])
    )
    over = [e.epoch for e in epochs if any(getattr(e, figure).get(layer, 0.0) > limit for layer in found)]
    return found, (over[0], over[-1]) if over else (0, 0)


def _worst(epochs: Sequence[EpochFigures], layers: Iterable[str], figure: str) -> tuple[str, float]:
    """The layer with the largest median of a figure over the epochs, and that median."""
    medians = {layer: _median(getattr(epoch, figure).get(layer, 0.0) for epoch in epochs) for layer in layers}
    return max(medians.items(), key=lambda item: item[1])


def _persists(shown: Sequence[bool]) -> bool:
    return 2 * sum(shown) >= len(shown)


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


def _longest(shown: Sequence[bool]) -> tuple[int, int]:
    """Where the longest stretch of true values begins, and the index after it; (0, 0) where there is none."""
    best, begin = (0, 0), 0
    for index, each in enumerate(shown):
        if not each:
            begin = index + 1
        elif index + 1 - begin > best[1] - best[0]:
            best = begin, index + 1
    return best


def _listed(layers: Sequence[str]) -> str:
    """Up to four names; of more, the first and the last and how many they are."""
    if len(layers) <= 4:
        return ", ".join(layers)
    return f"{layers[0]} to {layers[-1]} ({len(layers)} layers)"


def _fraction(share: float) -> str:
    return f"1/{1 / share:,.0f}" if share else "0 times"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
