"""The data of the autoencoder: a table's rows or pictures, and which of them are out of the ordinary."""

from dataclasses import dataclass

import numpy as np

from services.errors import DataError
from training.anomaly.options import AutoencoderOptions
from training.anomaly.thresholds import check_labelled
from training.datasets.images import Images
from training.datasets.tables import Table
from training.pipeline import Split
from training.splits import random_split, stratified_split
from training.tabular import TabularExamples

KINDS = ("normal", "anomalous")
"""Labels of the two kinds of rows, by index."""


@dataclass(frozen=True)
class Rows:
    """Rows to learn from or to judge. `anomalous` is bool `[rows]`, or `None` where nobody has said.

    `aside` are anomalous rows of the training part, which a model that learns from normal rows does not see.
    """

    content: Table | Images
    anomalous: np.ndarray | None = None
    aside: "Rows | None" = None

    def __len__(self) -> int:
        return len(self.content)

    def take(self, rows: np.ndarray) -> "Rows":
        """The rows at the given indices, in that order."""
        return Rows(self.content.take(rows), None if self.anomalous is None else self.anomalous[rows])

    @property
    def classes(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Class indices and their labels, where the data has classes."""
        content = self.content
        targets = content.target if isinstance(content, Table) else content.targets
        return None if targets is None or not content.labels else (targets, content.labels)


@dataclass(frozen=True)
class AnomalyExamples(TabularExamples):
    """Examples whose targets are 0 for normal and 1 for anomalous rows; `labels` is empty where nobody has said which.

    `classes` are the data's own, by index into `class_labels`. `aside` holds the inputs of `Rows.aside`.
    """

    classes: np.ndarray | None = None
    class_labels: tuple[str, ...] = ()
    aside: np.ndarray | None = None

    @property
    def rows(self) -> np.ndarray:
        """The one input."""
        (rows,) = self.inputs.values()
        return rows

    @property
    def normal_rows(self) -> np.ndarray:
        """The rows that are not anomalous; all where nobody has said, or where there are no others."""
        normal = self.targets == 0
        return self.rows[normal] if normal.any() else self.rows

    @property
    def anomalous(self) -> np.ndarray | None:
        """Bool `[rows]`, or `None` where nobody has said."""
        return self.targets == 1 if self.labels else None


def anomaly_examples(examples: object) -> AnomalyExamples:
    """The examples as those that the autoencoder's pipeline made."""
    if not isinstance(examples, AnomalyExamples):
        raise TypeError(f"expected AnomalyExamples, received {type(examples).__name__}")
    return examples


def mark(name: str, content: Table | Images, options: AutoencoderOptions) -> Rows:
    """Say which rows are anomalous: those of no normal class. Raises DataError for a normal class that is none.

    Without `normal` the most frequent class of a table is normal; pictures are not told apart, for their classes (digits,
    kinds of animals) are seldom about what is in order.
    """
    rows = Rows(content)
    found = rows.classes
    unknown = [label for label in options.normal if found is None or label not in found[1]]
    if unknown:
        known = "no classes" if found is None else ", ".join(found[1])
        raise DataError(f"{name}: expected normal to be classes of the data: {known}. Received: {', '.join(unknown)}.")
    if found is None or (not options.normal and isinstance(content, Images)):
        return rows
    targets, labels = found
    normal = [labels.index(label) for label in options.normal] or [int(np.argmax(np.bincount(targets)))]
    anomalous = ~np.isin(targets, normal)
    if not anomalous.any():
        raise DataError(f"{name}: expected a class that is not normal. Received: normal={','.join(options.normal)}.")
    return Rows(content, anomalous)


def split_rows(data: Rows, options: AutoencoderOptions) -> Split[Rows]:
    """Three parts of the same mix; of the training part the anomalous rows are put aside, unless all are to be learnt.

    Raises DataError where a part has no normal row, or the threshold's rule needs anomalous ones for validation.
    """
    if data.anomalous is None:
        if options.threshold == "labelled":
            check_labelled(None)
        parts = random_split(len(data), options)
        return Split(*(data.take(rows) for rows in (parts.train, parts.validation, parts.test)))
    anomalous = data.anomalous
    parts = stratified_split(anomalous.astype(np.int64), options)
    learnt = parts.train if options.learn == "all" else parts.train[~anomalous[parts.train]]
    if not len(learnt) or anomalous[parts.validation].all():
        raise DataError(f"Expected normal rows for training and validation. Found {int((~anomalous).sum())} in all.")
    train, validation, test = (data.take(rows) for rows in (learnt, parts.validation, parts.test))
    if options.threshold == "labelled":
        check_labelled(validation.anomalous)
    odd = parts.train[anomalous[parts.train]]
    if options.learn == "normal" and len(odd):
        train = Rows(train.content, train.anomalous, data.take(odd))
    return Split(train, validation, test)
