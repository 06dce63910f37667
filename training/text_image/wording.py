"""Prompts: the same picture in many words.

A prompt names a class ("seven", "7"), may name traits ("a bold seven", "handwritten 7, bold and wide"), and stands in one of
several wordings. Some wordings, and for each class one trait, are kept from training, so that it can be measured whether a
model has learnt words or sentences.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.text_image.drawings import BREADTH, WEIGHT

Kind = Literal["taught", "new wording", "new combination"]
KINDS: tuple[Kind, ...] = ("taught", "new wording", "new combination")

TRAITS = (*WEIGHT, *BREADTH)
_SYNONYMS = {"bold": ("bold", "heavy"), "thin": ("thin", "light"), "wide": ("wide",), "narrow": ("narrow",)}
TRAIT_WORDS = frozenset(word for words in _SYNONYMS.values() for word in words)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_TAUGHT = (
    "{it}",
    "a {it}",
    "draw a {it}",
    "a picture of a {it}",
    "please draw a {it}",
    "one picture: {it}",
)
_TAUGHT_DIGITS = (
    "the digit {it}",
    "the number {it}",
    "handwritten {it}",
    "a handwritten {it}",
    "write the digit {it}",
    "a picture of the number {it}",
)
_NEW = ("could you sketch me a {it}?", "{it}, please", "an image of a {it}")
_NEW_DIGITS = ("please write the number {it}", "{it}, handwritten", "show the handwritten digit {it}")

_STRANGE = ("qx", "vrm", "zzyx", "wug")
"""Words outside any vocabulary: what a prompt says that the model never learnt must not disturb it."""
_STRANGE_SHARE = 0.15
_UNNAMED_SHARE = 0.04
_TRAIT_SHARE = 0.5
_BEFORE_SHARE = 0.5


@dataclass(frozen=True)
class Wording:
    """Words for the classes of a data set; classes that are the digits have number words, and wordings of their own."""

    labels: tuple[str, ...]

    @property
    def numeric(self) -> bool:
        return all(label in map(str, range(len(_NUMBERS))) for label in self.labels)

    def names(self, target: int) -> tuple[str, ...]:
        """What a class may be called."""
        label = self.labels[target]
        return (_NUMBERS[int(label)], label) if self.numeric else (label.replace("_", " ").lower(),)

    def withheld(self, target: int) -> str:
        """The trait that is never named together with that class in training."""
        return TRAITS[target % len(TRAITS)]

    def sentences(self) -> list[str]:
        """Prompts that hold every word that is taught, twice at least."""
        wordings = (*_TAUGHT, *(_TAUGHT_DIGITS if self.numeric else ()))
        names = [name for target in range(len(self.labels)) for name in self.names(target)]
        texts = [template.format(it=name) for template in wordings for name in (*names, self._any)]
        return [*texts, *(f"an {name}, {word} and {word}" for name in names for word in sorted(TRAIT_WORDS))]

    @property
    def _any(self) -> str:
        """What a prompt asks for that names no class."""
        return "digit" if self.numeric else "picture"

    def taught(self, target: int, traits: Sequence[str], random: np.random.Generator) -> str:
        """A prompt to train on: some of the traits, in a taught wording; now and then a strange word, or no class at all."""
        named = [trait for trait in traits if trait != self.withheld(target) and random.random() < _TRAIT_SHARE]
        name = self._any
        if random.random() >= _UNNAMED_SHARE:
            name = _pick(self.names(target), random)
        text = self._text(_TAUGHT, _TAUGHT_DIGITS, name, named, random)
        return _with_strange_word(text, random) if random.random() < _STRANGE_SHARE else text

    def held_out(self, kind: Kind, target: int, random: np.random.Generator) -> tuple[str, tuple[str, ...]]:
        """A prompt to judge by, and the traits it names: of a taught wording, of a new one, or with the withheld trait."""
        if kind == "new combination":
            chosen: tuple[str, ...] = (self.withheld(target),)
        else:
            allowed = [trait for trait in TRAITS if trait != self.withheld(target)]
            chosen = (_pick(allowed, random),) if random.random() < _TRAIT_SHARE else ()
        plain, digits = (_NEW, _NEW_DIGITS) if kind == "new wording" else (_TAUGHT, _TAUGHT_DIGITS)
        return self._text(plain, digits, _pick(self.names(target), random), chosen, random), chosen

    def _text(
        self,
        plain: Sequence[str],
        digits: Sequence[str],
        name: str,
        traits: Sequence[str],
        random: np.random.Generator,
    ) -> str:
        words = [_pick(_SYNONYMS[trait], random) for trait in traits]
        template = _pick((*plain, *digits) if self.numeric else plain, random)
        if random.random() < _BEFORE_SHARE:
            text = template.format(it=" ".join([*words, name]))
        else:
            text = template.format(it=name)
            text = f"{text}, {' and '.join(words)}" if words else text
        return re.sub(r"\ba (?=[aeiou8])", "an ", text)


def _with_strange_word(text: str, random: np.random.Generator) -> str:
    words = text.split(" ")
    words.insert(int(random.integers(len(words) + 1)), _pick(_STRANGE, random))
    return " ".join(words)


def _pick(choices: Sequence[str], random: np.random.Generator) -> str:
    return choices[int(random.integers(len(choices)))]
