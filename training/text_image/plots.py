"""What a report shows of a drawing model: samples by prompt, where the pixels look, and what sets samples apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from training.evaluation import new_figure
from training.pipeline import Plot
from training.text_image.drawings import BREADTH, LEVELS, SIDE, WEIGHT, ink
from training.text_image.exercises import Exercises
from training.text_image.judge import nearest, nearest_rows
from training.text_image.wording import TRAIT_WORDS, TRAITS, Wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = ("taught", *TRAITS, "new wording", "new combination")
_MOST_CLASSES = 12
_PER_CELL = 2
_MOST_PAIRS = 10


def sample_plot(levels: np.ndarray, test: Exercises) -> Plot:
    """Samples by class and by what the prompt says, beside real pictures."""
    classes = range(min(len(test.labels), _MOST_CLASSES))
    columns = ["real", *_COLUMNS]
    figure, grid = new_figure(
        width=1.05 * len(columns) + 0.5, height=0.62 * len(classes) + 0.7, nrows=len(classes), ncols=len(columns)
    )
    for target, line in zip(classes, np.reshape(grid, (-1, len(columns))), strict=True):
        for column, axes in zip(columns, line, strict=True):
            axes.set_axis_off()
            _show(axes, _side_by_side(_cell(levels, test, target, column)))
            if target == 0:
                axes.set_title(column, fontsize=8)
        line[0].text(-0.15, 0.5, test.labels[target], transform=line[0].transAxes, ha="right", va="center")
    caption = (
        "A row per class, two samples per cell. New wordings are sentences the model never saw. Of every class one trait was "
        "never named in training: its cell is empty, and the new combination shows it."
    )
    return Plot("Samples by class and wording", caption, figure)


def attention_plot(shown: Sequence[int], attention: np.ndarray, levels: np.ndarray, test: Exercises) -> Plot:
    """For some requests the picture, and for each word how much each pixel looked at it.

    `attention` f32 `[shown, 64, 1 + L]` is of the anchor, then of the words.
    """
    words = [("(none)", *test.requests[row].words) for row in shown]
    wide = 1 + max(map(len, words))
    figure, grid = new_figure(
        width=min(1.05 * wide + 0.5, 14.0), height=1.2 * len(shown) + 0.4, nrows=len(shown), ncols=wide, squeeze=False
    )
    for line, row, said, looks in zip(grid, shown, words, attention, strict=True):
        for axes in line:
            axes.set_axis_off()
        _show(line[0], levels[row])
        for axes, word, map_ in zip(line[1:], said, looks.T, strict=False):
            axes.imshow(map_.reshape(SIDE, SIDE), cmap="viridis", vmin=0.0, vmax=float(looks.max()))
            axes.set_title(f"{word} {map_.mean():.0%}", fontsize=8)
    caption = (
        "Left the picture; then, word by word, how much each pixel looked at it while it was drawn (bright: much), over all "
        "heads and blocks, and the word's share. (none) is a place beside the words, for what needs none of them."
    )
    return Plot("Attention to the prompt", caption, figure)


def attention_share_plot(shown: Sequence[int], attention: np.ndarray, test: Exercises) -> Plot:
    """How the attention is shared between kinds of words, over many requests."""
    wording = Wording(test.labels)
    shares: dict[str, list[float]] = {"class": [], "trait": [], "other words": [], "(none)": []}
    for row, looks in zip(shown, attention, strict=True):
        request, by_word = test.requests[row], looks.mean(axis=0)
        named = {word for name in wording.names(request.target) for word in name.split()}
        kinds = ["(none)", *(_kind(word, named) for word in request.words)]
        for kind, values in shares.items():
            where = [index for index, found in enumerate(kinds) if found == kind]
            if where:
                values.append(float(by_word[where].mean()))
    figure, axes = new_figure(width=5.6, height=3.2)
    found = {kind: np.mean(values) for kind, values in shares.items() if values}
    axes.barh(list(found)[::-1], list(found.values())[::-1])
    axes.set_xlabel("share of the attention per word")
    caption = f"Mean over {len(shown)} requests: the words that decide the picture should be looked at most."
    return Plot("Attention by kind of word", caption, figure)


def variety_plot(levels: np.ndarray, test: Exercises) -> Plot:
    """Samples beside their nearest training picture, and how near samples and real held-out pictures are to training."""
    asked, real = test.asked, test.drawings
    figure, axes = new_figure(width=6.4, height=3.4)
    distances = {
        "samples": nearest(levels, asked, real),
        "held-out pictures": nearest(real.levels, real.targets, real),
    }
    edges = np.linspace(0.0, max(float(values.max()) for values in distances.values()), 31)
    for name, values in distances.items():
        axes.hist(values, bins=edges, weights=np.full(len(values), 1 / len(values)), alpha=0.6, label=name)
    axes.set_xlabel("distance to the nearest training picture of the class (grey levels)")
    axes.set_ylabel("share")
    axes.legend()
    caption = (
        "Samples that were learnt by heart would lie at 0; samples should be as far from training as real pictures are."
    )
    return Plot("Distance to training pictures", caption, figure)


def pairs_plot(levels: np.ndarray, test: Exercises) -> Plot:
    """One sample per class over the training picture nearest to it."""
    asked = test.asked
    shown = [int(np.flatnonzero(asked == target)[0]) for target in np.unique(asked)[:_MOST_PAIRS]]
    rows = nearest_rows(levels[shown], asked[shown], test.drawings)
    figure, grid = new_figure(width=0.8 * len(shown) + 0.4, height=2.0, nrows=2, ncols=len(shown), squeeze=False)
    for upper, lower, sample, row in zip(*grid, shown, rows, strict=True):
        upper.set_axis_off()
        lower.set_axis_off()
        _show(upper, levels[sample])
        _show(lower, test.drawings.learnt_from().levels[row])
    caption = "Above a sample of each class, below the training picture nearest to it: alike, and not the same."
    return Plot("Nearest training pictures", caption, figure)


def ink_plot(levels: np.ndarray, test: Exercises) -> Plot:
    """How much ink pictures have that were asked to be thin, bold, or neither."""
    named = {trait: test.naming(trait) for trait in WEIGHT}
    groups = {**named, "neither": ~np.logical_or.reduce(list(named.values()))}
    figure, axes = new_figure(width=5.6, height=3.4)
    values = {name: ink(levels[rows]) for name, rows in groups.items() if rows.any()}
    edges = np.linspace(0.0, max(float(found.max()) for found in values.values()), 31)
    for name, found in values.items():
        label = f"{name}: mean {found.mean():.3f}"
        axes.hist(
            found, bins=edges, weights=np.full(len(found), 1 / len(found)), histtype="step", linewidth=2, label=label
        )
    axes.set_xlabel("ink (mean level, 0 to 1)")
    axes.set_ylabel("share of the samples")
    axes.legend()
    return Plot("Ink by wording", "What the words bold and thin do.", figure)


def _cell(levels: np.ndarray, test: Exercises, target: int, column: str) -> np.ndarray:
    if column == "real":
        real: np.ndarray = test.drawings.levels[test.drawings.targets == target][:_PER_CELL]
        return real
    if column in (*WEIGHT, *BREADTH):
        rows = test.naming(column) & ~test.of_kind("new combination")
    else:
        rows = np.array(
            [request.kind == column and (column != "taught" or not request.traits) for request in test.requests]
        )
    fitting: np.ndarray = levels[np.flatnonzero(rows & (test.asked == target))[:_PER_CELL]]
    return fitting


def _kind(word: str, named: set[str]) -> str:
    if word in named:
        return "class"
    return "trait" if word in TRAIT_WORDS else "other words"


def _side_by_side(pictures: np.ndarray) -> np.ndarray:
    """Up to `_PER_CELL` pictures with a gap between them; no picture leaves its place empty."""
    line = np.full((SIDE, _PER_CELL * (SIDE + 1) - 1), np.nan)
    for index, picture in enumerate(pictures):
        line[:, index * (SIDE + 1) : index * (SIDE + 1) + SIDE] = picture
    return line


def _show(axes: "Axes", picture: np.ndarray) -> None:
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=LEVELS - 1)
