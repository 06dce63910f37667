"""Prompts to the tensors that a drawing model takes: token ids, noise and temperature."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing.base import Processor, Values
from services.processing.text import PADDING_ID, UNKNOWN_ID, TextProcessor
from services.processing.values import is_missing, number, shown

HOTTEST = 100.0
"""Beyond it every level is equally probable, to the third digit."""
MAX_SEED = 2**63 - 1
DRAWN_SEEDS = 2**31
"""Seeds that are drawn stay below it: short enough to be typed."""
_MEMBERS = ("prompt", "temperature", "seed")


@dataclass(frozen=True)
class Prompt:
    """What to draw, how freely (0: the most probable picture), and the seed of the noise."""

    text: str
    temperature: float
    seed: int


class PromptProcessor(Processor):
    """Encodes prompts as `tokens` i32 `[B, max_length]`, `noise` f32 `[B, noise]` in 0..1 and `temperature` f32 `[B]`.

    Every row is padded to the same length, so that a server runs prompts of any length in one batch.

    A record is a text, or an object of `prompt` and optionally `temperature` and `seed`. Equal seeds give equal noise,
    everywhere; without one the noise is another each time. A prompt needs a word that the model knows.

        processor = PromptProcessor.fit(prompts, noise=64, temperature=1.0, max_length=16)
        processor.encode(["a bold seven", {"prompt": "a 7", "temperature": 0.5, "seed": 1}])
    """

    kind: ClassVar[str] = "prompt"
    pads: ClassVar[bool] = True

    def __init__(self, text: TextProcessor, noise: int, temperature: float) -> None:
        """Use `fit` or `load`."""
        self._text = text
        self._noise = noise
        self._temperature = temperature
        self._words = {word: index + UNKNOWN_ID + 1 for index, word in enumerate(text.vocabulary) if word.isalnum()}

    @classmethod
    def fit(cls, prompts: Iterable[str], *, noise: int, temperature: float = 1.0, max_length: int = 16) -> Self:
        """Learn the words of the prompts; a picture takes `noise` numbers. Raises DataError without a word."""
        return cls(TextProcessor.fit(prompts, max_length=max_length, pieces=False), noise, temperature)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns it reads; a table may lack all but the first."""
        return _MEMBERS

    @property
    def text(self) -> TextProcessor:
        """What reads the words."""
        return self._text

    def read(self, record: Any, where: str = "") -> Prompt:
        """A record with everything it leaves out filled in; the seed too. Raises DataError naming the member."""
        members = record if isinstance(record, Mapping) else {"prompt": record}
        unknown = [name for name in members if name not in _MEMBERS]
        if unknown:
            raise DataError(f"{where}expected only {', '.join(_MEMBERS)}. Received: {shown(unknown[0])}.")
        text, temperature, seed = (members.get(name) for name in _MEMBERS)
        return Prompt(
            self._checked(where, text),
            self._temperature if is_missing(temperature) else _temperature(where, temperature),
            secrets.randbelow(DRAWN_SEEDS) if is_missing(seed) else _seed(where, seed),
        )

    def encode(self, records: Values) -> dict[str, np.ndarray]:
        """Raises DataError naming the record and the member."""
        return self.tensors([self.read(record, f"record {index}: ") for index, record in enumerate(records)])

    def tensors(self, prompts: list[Prompt]) -> dict[str, np.ndarray]:
        """The tensors of prompts that were read."""
        noise = [np.random.default_rng(prompt.seed).random(self._noise, np.float32) for prompt in prompts]
        return {
            "tokens": self.tokens([prompt.text for prompt in prompts]),
            "noise": np.array(noise, np.float32).reshape(-1, self._noise),
            "temperature": np.array([prompt.temperature for prompt in prompts], np.float32),
        }

    def tokens(self, texts: list[str]) -> np.ndarray:
        """Token ids i32 `[B, max_length]`."""
        tokens = self._text.encode(texts)["tokens"]
        padding = self._text.max_length - tokens.shape[1]
        return np.pad(tokens, ((0, 0), (0, padding)), constant_values=PADDING_ID)

    def save(self, directory: Path) -> ProcessorSpec:
        spec = self._text.save(directory)
        own = {"noise": self._noise, "temperature": self._temperature}
        return replace(spec, kind=self.kind, options={**spec.options, **own})

    @classmethod
    def load(cls, directory: Path, spec: ProcessorSpec) -> Self:
        options = dict(spec.options)
        noise, temperature = options.pop("noise", None), options.pop("temperature", None)
        if type(noise) is not int or noise < 1 or not isinstance(temperature, int | float) or not temperature >= 0:
            raise ManifestError(
                "manifest.processor.options: expected noise of at least 1 and a temperature of at least 0. "
                f"Received: {shown(dict(spec.options))}."
            )
        text = TextProcessor.load(directory, replace(spec, kind=TextProcessor.kind, options=options))
        return cls(text, noise, float(temperature))

    def _checked(self, where: str, text: Any) -> str:
        if not isinstance(text, str):
            raise DataError(f"{where}prompt: expected a text. Received: {shown(text)}.")
        try:
            (ids,) = self._text.encode([text])["tokens"]
        except DataError as error:
            raise DataError(f"{where}prompt: {str(error).removeprefix('record 0: ')}") from None
        if not np.isin(ids, list(self._words.values())).any():
            known = ", ".join(sorted(self._words))
            raise DataError(f"{where}prompt: expected a known word, out of {known:.600}. Received: {shown(text)}.")
        return text


def _temperature(where: str, value: Any) -> float:
    try:
        temperature = -1.0 if isinstance(value, bool) else number(value)
    except ValueError:
        temperature = -1.0
    if not 0.0 <= temperature <= HOTTEST:
        raise DataError(f"{where}temperature: expected a number from 0 to {HOTTEST:g}. Received: {shown(value)}.")
    return temperature


def _seed(where: str, value: Any) -> int:
    text = value.strip() if isinstance(value, str) else ""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        seed = int(value)
    elif text.isascii() and text.isdigit() and len(text) < 20:
        seed = int(text)
    elif isinstance(value, float) and value.is_integer():  # pandas and Parquet: integers beside missing cells
        seed = int(value)
    else:
        seed = -1
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"{where}seed: expected a whole number from 0 to {MAX_SEED}. Received: {shown(value)}.")
    return seed
