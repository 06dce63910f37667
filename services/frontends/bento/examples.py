"""Records to try a model with, for the documentation: one of its own held-out rows where there is one."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from services.engine.servable import Servable
from services.errors import DataLoss
from services.manifest import SAMPLES_FILE
from services.parity import read_samples
from services.processing import Processor
from services.processing.image import ImageProcessor
from services.processing.prompt import PromptProcessor
from services.processing.series import SeriesProcessor
from services.processing.tabular import Column, TabularProcessor

_LARGEST_EXAMPLE = 32
_TEXT = "Congratulations! You have won a prize. Reply now to claim it."
_PROMPT = "a bold seven"
_PROMPT_WORDS = 3


def example_records(servable: Servable, processor: Processor) -> list[Any]:
    """One record that the processor takes, as JSON has it. Reads a file: not for the event loop."""
    rows = _held_out(servable)
    if isinstance(processor, TabularProcessor):
        row = rows.get("features", np.zeros((1, len(processor.columns)), np.float32))[0]
        return [{column.name: _cell(column, value) for column, value in zip(processor.columns, row, strict=True)}]
    if isinstance(processor, SeriesProcessor):
        window = rows.get("window", np.zeros((1, processor.window, len(processor.columns)), np.float32))[0]
        steps = [[_short(value) for value in step] for step in window]
        return [[step[0] for step in steps] if len(processor.columns) == 1 else steps]
    if isinstance(processor, ImageProcessor):
        picture = rows.get("image", np.zeros((1, *processor.shape), np.uint8))[0]
        return [base64.b64encode(_png(picture)).decode("ascii")]
    if isinstance(processor, PromptProcessor):
        return [{"prompt": _prompt(processor), "temperature": 0.7, "seed": 1}]
    return [_TEXT]


def with_gaps(records: list[Any]) -> list[Any]:
    """The records without every third of their cells."""
    return [{name: None if i % 3 == 0 else cell for i, (name, cell) in enumerate(record.items())} for record in records]


def placeholder(field: str) -> list[Any]:
    """What a record looks like where no model is served for it."""
    if field == "images":
        return [base64.b64encode(_png(np.full((8, 8, 1), 255, np.uint8))).decode("ascii")]
    if field == "texts":
        return [_TEXT]
    if field == "prompt":
        return [{"prompt": _PROMPT, "temperature": 0.7, "seed": 1}]
    return [[20.1, 19.8, 20.4]] if field == "windows" else [{"age": 31, "city": "Ulm"}]


def _prompt(processor: PromptProcessor) -> str:
    """A prompt of words that the model knows: the usual one, else its most frequent words."""
    known = processor.text.vocabulary
    return _PROMPT if set(_PROMPT.split()) <= set(known) else " ".join(known[:_PROMPT_WORDS])


def _held_out(servable: Servable) -> dict[str, np.ndarray]:
    if not (servable.path / SAMPLES_FILE).is_file():
        return {}
    try:
        inputs, _ = read_samples(servable.path)
    except DataLoss:
        return {}
    return {name: rows for name, rows in inputs.items() if len(rows)}


def _cell(column: Column, value: float) -> Any:
    if np.isnan(value):
        return None
    if column.kind == "categorical":
        return column.categories[int(value)] if 0 <= value < len(column.categories) else "unseen"
    return _short(value)


def _short(value: float) -> float:
    """Six digits are enough to read, and not too many to type."""
    return float(f"{value:.6g}")


def _png(picture: np.ndarray) -> bytes:
    """A small file: a large picture is shrunk, for an example has to be read, and the processor fits it to its size."""
    buffer = io.BytesIO()
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image.thumbnail((_LARGEST_EXAMPLE, _LARGEST_EXAMPLE))
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
