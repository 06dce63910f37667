"""A part of the data as the family needs it: rows to train on, and requests whose pictures are judged."""

from dataclasses import dataclass, field

import numpy as np

from services.processing.prompt import DRAWN_SEEDS, Prompt, PromptProcessor
from training.pipeline import Examples
from training.text_image.drawings import LEVELS, PIXELS, Drawings, traits
from training.text_image.wording import KINDS, Kind, Wording

MOST_REQUESTS = 3000
"""Requests per part: enough to tell accuracies half a percent apart."""


@dataclass(frozen=True)
class Request:
    """One request that is judged: the prompt, its words as the model reads them, and what was asked for."""

    prompt: Prompt
    words: tuple[str, ...]
    target: int
    traits: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class Exercises(Examples):
    """Training rows `tokens` i32 `[rows, length]` and `levels` u8 `[rows, 64]`, whose targets are the levels themselves.

    `requests[i]` is what row `i` of the served tensors asks for: as many of each kind, over all classes.
    """

    drawings: Drawings = field(kw_only=True)
    requests: tuple[Request, ...] = field(kw_only=True)

    @property
    def asked(self) -> np.ndarray:
        """The class each request asks for, int64 `[requests]`."""
        return np.array([request.target for request in self.requests])

    def of_kind(self, kind: Kind) -> np.ndarray:
        """Which requests are of that kind, bool `[requests]`."""
        return np.array([request.kind == kind for request in self.requests])

    def naming(self, trait: str) -> np.ndarray:
        """Which requests name that trait, bool `[requests]`."""
        return np.array([trait in request.traits for request in self.requests])


def make_exercises(
    data: Drawings, processor: PromptProcessor, *, wordings: int, temperature: float, seed: int
) -> Exercises:
    """Each drawing under `wordings` prompts that are true of it, and requests at that temperature, seeded."""
    random = np.random.default_rng((seed, len(data)))
    wording, said = Wording(data.labels), traits(data)
    rows = np.tile(np.arange(len(data)), wordings)
    prompts = [wording.taught(int(data.targets[row]), said[row], random) for row in rows]
    requests = _requests(data, processor, temperature, random)
    return Exercises(
        {"tokens": processor.tokens(prompts), "levels": data.levels[rows].reshape(-1, PIXELS)},
        data.levels[rows].reshape(-1, PIXELS),
        labels=data.labels,
        served=processor.tensors([request.prompt for request in requests]),
        drawings=data,
        requests=requests,
    )


def inverse_draw(probabilities: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Levels u8 `[rows, 64]` out of independent probabilities `[rows, 64, 16]`, by the rule the model draws by."""
    sums = np.cumsum(probabilities, axis=-1)
    chosen: np.ndarray = (sums <= noise[..., None] * sums[..., -1:]).sum(axis=-1)
    levels: np.ndarray = np.minimum(chosen, LEVELS - 1).astype(np.uint8)
    return levels


def _requests(
    data: Drawings, processor: PromptProcessor, temperature: float, random: np.random.Generator
) -> tuple[Request, ...]:
    wording, made = Wording(data.labels), []
    for target in data.targets[: MOST_REQUESTS // len(KINDS)].tolist():
        for kind in KINDS:
            text, named = wording.held_out(kind, target, random)
            prompt = Prompt(text, temperature, int(random.integers(DRAWN_SEEDS)))
            made.append(Request(prompt, tuple(processor.text.tokens(text)), target, named, kind))
    return tuple(made)
