"""Tables as the autoencoder's data: cells in standardised units, categories one-hot."""

from typing import Any

import numpy as np

from services.errors import InvalidArgument
from services.processing import Processor
from services.processing.tabular import Column, TabularProcessor
from training.anomaly.options import AutoencoderOptions
from training.anomaly.rows import AnomalyExamples
from training.anomaly.subject import Subject
from training.datasets.tables import Table, bundled, load_table
from training.evaluation import new_figure
from training.pipeline import Loaded, Plot, Source
from training.tabular import dense_stack, tabular

_ROWS_SHOWN = 4
_MOST_NAMES = 40


class Tables(Subject[Table]):
    """Rows of a table: `features` f32 `[B, F]`."""

    tensor = "features"
    bottleneck = 4
    units = "standardised units"

    def load(self, source: Source, options: AutoencoderOptions) -> Loaded[Table]:
        if options.salt_and_pepper or options.network == "convolutional":
            setting = "salt_and_pepper" if options.salt_and_pepper else "network=convolutional"
            raise InvalidArgument(f"Option {setting}: expected pictures for it. Received: a table.")
        if source.path is not None:
            return load_table(source, "optional class", **options.reading)
        from sklearn.datasets import load_breast_cancer

        data = load_breast_cancer()
        target = data.target.astype(np.int64)
        return bundled("scikit-learn breast cancer", data.data, data.feature_names, target, data.target_names)

    def fit_processor(self, train: Table, options: AutoencoderOptions) -> Processor:  # noqa: ARG002  # pictures need them
        return TabularProcessor.fit(train.columns)

    def encode(self, content: Table, processor: Processor) -> np.ndarray:
        return tabular(processor).encode_columns(content.columns)[self.tensor]

    def encoding(self, train: np.ndarray, columns: tuple[Column, ...]) -> Any:
        from training.layers.tabular import TabularEncoding

        return TabularEncoding(columns, train)

    def decoding(self, encoding: Any) -> Any:
        from training.layers.tabular import TabularDecoding

        return TabularDecoding(encoding)

    def corruption(self, encoding: Any, options: AutoencoderOptions, seed: int) -> Any:
        from training.layers.corruption import CellCorruption

        return CellCorruption(encoding, noise=options.noise, masking=options.masking, seed=seed)

    def network(self, encoded: tuple[int, ...], options: AutoencoderOptions) -> tuple[Any, Any]:
        import keras

        row = keras.Input(encoded)
        code = keras.layers.Dense(self.width(options), name="code")(dense_stack(row, options.units, options))
        given = keras.Input((self.width(options),))
        decoded = keras.layers.Dense(encoded[0])(dense_stack(given, options.units[::-1], options))
        return keras.Model(row, code, name="encoder"), keras.Model(given, decoded, name="decoder")

    def received(self, damaged: np.ndarray) -> np.ndarray:
        return damaged.astype(np.float32)

    def errors(self, encoding: Any, restored: np.ndarray, clean: np.ndarray) -> np.ndarray:
        """Over the cells that are there; a wrong category counts as one unit."""
        per_cell = np.zeros(clean.shape, np.float32)
        numeric, categories = encoding.numeric, list(encoding.categories)
        per_cell[:, numeric] = np.square((restored - clean)[:, numeric] / encoding.spread)
        per_cell[:, categories] = restored[:, categories] != clean[:, categories]
        there = ~np.isnan(clean)
        there[:, categories] &= clean[:, categories] >= 0
        means: np.ndarray = np.where(there, per_cell, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        return means.astype(np.float32)

    def restoration_plot(self, encoding: Any, test: AnomalyExamples, noisy: np.ndarray, restored: np.ndarray) -> Plot:
        clean = test.normal_rows
        shown = range(min(_ROWS_SHOWN, len(clean)))
        names = [test.columns[index].name for index in encoding.numeric]
        places = np.arange(len(names))
        figure, grid = new_figure(
            width=7.5, height=1.0 + 1.8 * len(shown), nrows=len(shown), sharex=True, squeeze=False
        )
        for axes, row in zip(grid[:, 0], shown, strict=True):
            for rows, style in (
                (noisy, {"color": "#b9c3cc", "marker": ".", "linestyle": "none", "label": "damaged"}),
                (clean, {"color": "#1d2733", "linewidth": 1.2, "label": "clean"}),
                (restored, {"color": "#c4622d", "linewidth": 1.2, "label": "restored"}),
            ):
                axes.plot(places, (rows[row, encoding.numeric] - encoding.mean) / encoding.spread, **style)
        grid[0, 0].legend(fontsize=8, ncols=3, loc="upper right")
        if len(names) <= _MOST_NAMES:
            grid[-1, 0].set_xticks(places, names, rotation=90, fontsize=7)
        caption = (
            "Numeric cells of normal held-out rows in standardised units, in the order of the columns; a gap in the points "
            "is a cell that was made missing. The model saw the damaged row alone."
        )
        return Plot("Restored rows", caption, figure)


TABLES = Tables()
