"""What a diagnosis holds: a few figures per layer and epoch, and their files in the run's folder.

runs/<name>/<start>/
  diagnosis.csv     one line per epoch (with its stage), layer and figure, written after every epoch
  diagnosis.json    the same and the findings, written when training ends
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from services.files import write_whole, writing

JSON_FILE = "diagnosis.json"
CSV_FILE = "diagnosis.csv"

ActivationKind = Literal["relu", "sigmoid", "tanh", "softmax"]


@dataclass(frozen=True)
class Activation:
    """One activation of the network. `output`: it is what the network answers, where certainty is no fault."""

    layer: str
    kind: ActivationKind
    output: bool = False


@dataclass(frozen=True)
class EpochFigures:
    """The figures of one epoch, by layer; means over its sampled steps.

    `gradient_norm` is the Euclidean norm of the loss's gradient in all weights of the layer; infinite where an element was
    not finite. `update_ratio` is the norm of what one step changed over the norm of what it changed. `saturation` is the
    share of values near a bound of their activation (sigmoid, tanh), or of rows with one probability near 1 (softmax).
    `dead` is the share of a ReLU's units that were 0 for every sampled row. Epochs are counted over all stages; `stage` is
    '' where there is one.
    """

    epoch: int
    loss: float
    gradient_norm: Mapping[str, float]
    update_ratio: Mapping[str, float]
    saturation: Mapping[str, float] = field(default_factory=dict)
    dead: Mapping[str, float] = field(default_factory=dict)
    stage: str = ""


_COLUMNS = ("epoch", "stage", "layer", "figure", "value")
FIGURES = ("gradient_norm", "update_ratio", "saturation", "dead")


@dataclass(frozen=True)
class Finding:
    """Something wrong: what was seen, where and when, and what usually helps.

    `epochs` are counted from 1 over all stages, ends included; `stage` is '' for what was seen in a run of one, or in all.
    """

    kind: str
    layers: tuple[str, ...]
    epochs: tuple[int, int]
    text: str
    remedy: str
    stage: str = ""

    @property
    def when(self) -> str:
        first, last = self.epochs
        epochs = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        return f"{epochs} ({self.stage})" if self.stage else epochs


@dataclass(frozen=True)
class Diagnosis:
    """A whole run. `layers` have weights and stand in the order of the network, from the input on."""

    layers: tuple[str, ...]
    activations: tuple[Activation, ...]
    epochs: tuple[EpochFigures, ...]
    findings: tuple[Finding, ...] = ()
    sampling: str = ""
    """On what the figures were taken, in words."""

    @property
    def stages(self) -> dict[str, tuple[EpochFigures, ...]]:
        """The epochs of each stage, in order."""
        names = dict.fromkeys(epoch.stage for epoch in self.epochs)
        return {name: tuple(epoch for epoch in self.epochs if epoch.stage == name) for name in names}


def append(directory: Path, epoch: EpochFigures) -> None:
    """Add an epoch to the CSV file, with its loss under no layer."""
    path = directory / CSV_FILE
    begin = not path.exists()
    with writing(str(path)), path.open("a", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        if begin:
            lines.writerow(_COLUMNS)
        lines.writerows(_rows(epoch))


def resume(directory: Path, epochs: int) -> list[EpochFigures]:
    """The first `epochs` epochs of the CSV file that an interrupted run has left; what is beyond them is taken away."""
    path = directory / CSV_FILE
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(_COLUMNS)][1:]
    by_epoch: dict[tuple[int, str], dict[str, dict[str, float]]] = {}
    for number, stage, layer, figure, value in rows:
        if int(number) <= epochs:
            values = by_epoch.setdefault((int(number), stage), {name: {} for name in ("loss", *FIGURES)})
            values[figure][layer] = float(value)
    kept = [
        EpochFigures(number, values.pop("loss")[""], stage=stage, **values)
        for (number, stage), values in by_epoch.items()
    ]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_COLUMNS)
    for epoch in kept:
        lines.writerows(_rows(epoch))
    write_whole(path, text.getvalue())
    return kept


def write(directory: Path, diagnosis: Diagnosis) -> None:
    """The JSON file. JSON has no infinity: it is null."""
    text = json.dumps(_plain(asdict(diagnosis)), indent=1, ensure_ascii=False)
    write_whole(directory / JSON_FILE, text + "\n")


def _rows(epoch: EpochFigures) -> Iterator[tuple[int, str, str, str, float]]:
    yield epoch.epoch, epoch.stage, "", "loss", epoch.loss
    for figure in FIGURES:
        for layer, value in getattr(epoch, figure).items():
            yield epoch.epoch, epoch.stage, layer, figure, value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
