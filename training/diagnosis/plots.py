"""The plots of a diagnosis: what each layer went through, epoch by epoch, from the input (top) to the output (bottom)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.diagnosis.figures import Diagnosis
from training.evaluation import new_figure
from training.pipeline import Plot

_MOST_NAMES = 40
_MOST_LINES = 12
_LEAST_DECADES = 2.0
"""Of the colours' range, so that layers which hardly differ look alike."""


def plots(diagnosis: Diagnosis) -> list[Plot]:
    """Heat maps of gradients and updates, and lines for activations where the network has any that can saturate or die."""
    if not diagnosis.epochs:
        return []
    drawn = [
        _heat_map(
            diagnosis,
            "gradient_norm",
            "Gradient norm by layer and epoch",
            "Powers of ten; the input's side is on top. A column that darkens upwards is a gradient that vanishes on its way "
            "back; one that turns bright everywhere is one that explodes.",
            "viridis",
        ),
        _heat_map(
            diagnosis,
            "update_ratio",
            "Size of a step over the size of the weights",
            "Powers of ten. About -3 is usual; near 0 a step replaces the weights, below -5 it hardly changes them.",
            "cividis",
        ),
    ]
    hidden = {each.layer for each in diagnosis.activations if not each.output}
    saturation = [{layer: share for layer, share in e.saturation.items() if layer in hidden} for e in diagnosis.epochs]
    if any(saturation):
        caption = "Share of values so near a bound of their activation that hardly any gradient passes; near 0 is good."
        drawn.append(_lines(diagnosis, saturation, "Saturated activations", caption))
    dead = [epoch.dead for epoch in diagnosis.epochs]
    if any(dead):
        caption = "Share of units that were 0 for every sampled row of the epoch: they learn nothing."
        drawn.append(_lines(diagnosis, dead, "Dead ReLU units", caption))
    return drawn


def _heat_map(diagnosis: Diagnosis, figure: str, title: str, caption: str, colours: str) -> Plot:
    layers = diagnosis.layers
    values = np.array([[getattr(e, figure).get(layer, math.nan) for e in diagnosis.epochs] for layer in layers])
    with np.errstate(divide="ignore"):
        logs = np.where(np.isfinite(values) & (values > 0), np.log10(np.maximum(values, 1e-45)), np.nan)
    seen = logs[np.isfinite(logs)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
    wider = max(0.0, _LEAST_DECADES - (high - low)) / 2
    drawing, axes = new_figure(width=7.0, height=1.6 + min(0.24 * len(layers), 8.0))
    first, last = diagnosis.epochs[0].epoch, diagnosis.epochs[-1].epoch
    picture = axes.imshow(
        logs,
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=low - wider,
        vmax=high + wider,
        extent=(first - 0.5, last + 0.5, len(layers) - 0.5, -0.5),
    )
    axes.set_facecolor("#d9dde2")
    _mark_stages(axes, diagnosis, "white")
    every = 1 + (len(layers) - 1) // _MOST_NAMES
    axes.set_yticks(range(0, len(layers), every), [_short(name) for name in layers[::every]], fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    drawing.colorbar(picture, ax=axes, label="power of ten")
    return Plot(title, caption, drawing)


def _lines(diagnosis: Diagnosis, shares: Sequence[Mapping[str, float]], title: str, caption: str) -> Plot:
    """The layers with the largest shares, one line each."""
    layers = list(dict.fromkeys(layer for epoch in shares for layer in epoch))
    most = sorted(layers, key=lambda layer: -max(epoch.get(layer, 0.0) for epoch in shares))[:_MOST_LINES]
    drawing, axes = new_figure(width=7.0, height=4.0)
    epochs = [epoch.epoch for epoch in diagnosis.epochs]
    colours = _colours(len(layers))
    for index, layer in enumerate(layers):
        if layer in most:
            line = [epoch.get(layer, math.nan) for epoch in shares]
            axes.plot(epochs, line, color=colours[index], marker="o" if len(epochs) == 1 else "", label=_short(layer))
    axes.set_ylim(-0.02, 1.02)
    _mark_stages(axes, diagnosis, "black")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("share")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if len(most) < len(layers):
        caption += f" The {len(most)} layers with the largest shares of {len(layers)}."
    return Plot(title, caption, drawing)


def _mark_stages(axes: Any, diagnosis: Diagnosis, colour: str) -> None:
    """A line where each later stage begins, and the names of all above, where there are several."""
    stages = diagnosis.stages
    if len(stages) < 2:
        return
    for index, (name, epochs) in enumerate(stages.items()):
        begin, end = epochs[0].epoch - 0.5, epochs[-1].epoch + 0.5
        if index:
            axes.axvline(begin, color=colour, linewidth=1.5)
        axes.text(
            (begin + end) / 2, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8
        )


def _colours(count: int) -> Any:
    """From dark (the input's side) to bright (the output's)."""
    import matplotlib as mpl

    return mpl.colormaps["viridis"](np.linspace(0.0, 0.92, max(count, 2)))


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"...{name[-31:]}"
