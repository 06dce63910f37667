"""Prompts and traits are true of the pictures, some are kept from training, and samples are judged by what was asked."""

from dataclasses import replace

import numpy as np
import pytest

from services.processing.prompt import PromptProcessor
from services.processing.text import UNKNOWN_ID
from training.text_image.drawings import (
    LEVELS,
    PIXELS,
    SIDE,
    Drawings,
    breadth,
    ink,
    load_drawings,
    to_levels,
    to_pixels,
    traits,
)
from training.text_image.exercises import Exercises, inverse_draw, make_exercises
from training.text_image.judge import judged, nearest, pixel_model
from training.text_image.wording import KINDS, TRAITS, Wording

DIGITS = Wording(tuple(str(digit) for digit in range(10)))


def bars(count: int = 24) -> Drawings:
    """Upright bars of class `one` and level bars of class `many`, in rising brightness."""
    levels = np.zeros((count, SIDE, SIDE), np.uint8)
    for row in range(count):
        place = (slice(1, 7), slice(3, 5)) if row % 2 else (slice(3, 5), slice(1, 7))
        levels[(row, *place)] = 3 + row // 2
    return Drawings(levels, np.arange(count) % 2, ("many", "one"))


def exercises(drawings: Drawings) -> Exercises:
    processor = PromptProcessor.fit(Wording(drawings.labels).sentences(), noise=PIXELS)
    return make_exercises(drawings, processor, wordings=2, temperature=0.5, seed=0)


def test_levels_are_bytes_and_back() -> None:
    levels = np.arange(LEVELS, dtype=np.uint8)
    np.testing.assert_array_equal(to_levels(to_pixels(levels)), levels)
    assert to_pixels(levels).max() == 255


def test_the_default_pictures_are_the_digits_in_sixteen_levels() -> None:
    loaded = load_drawings(None)
    assert loaded.data.levels.shape == (1797, SIDE, SIDE)
    assert np.unique(loaded.data.levels).tolist() == list(range(LEVELS))
    assert loaded.name == "scikit-learn digits"


def test_traits_are_the_outer_thirds_of_the_training_part_of_each_class() -> None:
    drawings = bars()
    said = traits(drawings)
    assert [("bold" in words, "thin" in words) for words in said[:2] + said[-2:]] == [
        (False, True),
        (False, True),
        (True, False),
        (True, False),
    ]
    shares = np.mean([["bold" in words, "thin" in words] for words in said], axis=0)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
    pale = replace(drawings, levels=drawings.levels // 4, reference=drawings)
    assert all("thin" in words for words in traits(pale))


def test_ink_and_breadth_measure_what_they_say() -> None:
    drawings = bars(2)
    assert ink(drawings.levels).tolist() == pytest.approx([3 * 12 / 64 / 15] * 2)
    level, upright = breadth(drawings.levels)
    assert level > 2 * upright
    assert breadth(np.zeros((1, SIDE, SIDE), np.uint8)).tolist() == [0]


def test_training_never_names_the_withheld_trait_and_says_only_what_is_true() -> None:
    random = np.random.default_rng(0)
    heavy = {"bold": ("bold", "heavy"), "thin": ("thin", "light"), "wide": ("wide",), "narrow": ("narrow",)}
    for target in range(10):
        withheld = DIGITS.withheld(target)
        texts = [DIGITS.taught(target, (withheld, "bold"), random) for _ in range(200)]
        said = {trait for trait in TRAITS for text in texts if any(word in text.split() for word in heavy[trait])}
        assert said <= {"bold"} - {withheld}


def test_a_class_has_several_names_and_sentences() -> None:
    random = np.random.default_rng(0)
    texts = {DIGITS.taught(8, (), random) for _ in range(400)}
    assert len(texts) > 30
    assert {"an eight", "the digit 8"} <= texts
    assert not any("a eight" in text or "a 8" in text for text in texts)
    assert Wording(("tea_cup", "dog")).held_out("taught", 0, random)[0].count("tea cup") == 1


def test_new_wordings_are_not_among_the_taught_ones() -> None:
    random = np.random.default_rng(0)
    taught = {DIGITS.taught(3, (), random) for _ in range(2000)}
    new = {DIGITS.held_out("new wording", 3, random)[0] for _ in range(100)}
    assert not taught & new


def test_every_taught_word_is_known_and_a_strange_one_is_not() -> None:
    processor = PromptProcessor.fit(DIGITS.sentences(), noise=PIXELS)
    ids = processor.text.encode(DIGITS.sentences())["tokens"]
    assert not (ids == UNKNOWN_ID).any()
    random = np.random.default_rng(0)
    strange = processor.text.encode([DIGITS.taught(3, (), random) for _ in range(300)])["tokens"]
    assert 0.05 < (strange == UNKNOWN_ID).any(axis=1).mean() < 0.3


def test_exercises_have_as_many_requests_of_each_kind_and_their_noise() -> None:
    made = exercises(bars())
    assert len(made) == 48
    assert {kind: int(made.of_kind(kind).sum()) for kind in KINDS} == dict.fromkeys(KINDS, 24)
    assert {name: rows.shape[0] for name, rows in made.serving_inputs.items()} == dict.fromkeys(
        ("tokens", "noise", "temperature"), 72
    )
    first = made.requests[0].prompt
    np.testing.assert_array_equal(
        made.serving_inputs["noise"][0], np.random.default_rng(first.seed).random(PIXELS, np.float32)
    )
    again = exercises(bars())
    assert again.requests == made.requests


def test_independent_pixels_come_up_as_often_as_they_are_probable() -> None:
    chances = np.zeros((100, PIXELS, LEVELS))
    chances[..., 2], chances[..., 9] = 0.25, 0.75
    drawn = inverse_draw(chances, np.tile(np.linspace(0.005, 0.995, 100)[:, None], (1, PIXELS)))
    assert np.bincount(drawn[:, 0], minlength=LEVELS)[[2, 9]].tolist() == [25, 75]
    model = pixel_model(bars())
    np.testing.assert_allclose(model.sum(axis=-1), 1.0)
    assert model.shape == (2, PIXELS, LEVELS)


def test_samples_are_judged_by_what_was_asked() -> None:
    drawings = bars()
    test = replace(exercises(drawings), drawings=replace(drawings, reference=drawings))

    def judge(levels: np.ndarray) -> np.ndarray:
        upright = (levels[:, 1, 3] > 0).astype(np.float32)
        return np.stack([1 - upright, upright], axis=1)

    right = np.stack([drawings.levels[request.target] for request in test.requests])
    figures = judged(right, test, judge)
    assert figures["asked_accuracy"] == figures["asked_accuracy_new_wording"] == figures["judge_accuracy"] == 1
    assert figures["distinct"] == 2 / len(right)
    assert figures["bold_ink_ratio"] == 1

    wrong = right.swapaxes(1, 2)
    assert judged(wrong, test, judge)["asked_accuracy"] == 0

    bold = test.naming("bold")
    right[bold] = right[bold] * 2
    assert judged(right, test, judge)["bold_ink_ratio"] == pytest.approx(2)


def test_what_was_learnt_by_heart_has_no_distance_to_training() -> None:
    drawings = bars()
    asked = np.array([0, 1])
    assert nearest(drawings.levels[:2], asked, drawings).tolist() == [0, 0]
    moved = np.roll(drawings.levels[:2], 1, axis=1)
    assert (nearest(moved, asked, drawings) > 0.5).all()
