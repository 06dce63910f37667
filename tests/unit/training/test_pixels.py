"""The pixel decoder: what it draws step by step is what it was taught at once, and every input has an answer."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from training.layers.pixels import COLDEST, Anchor, PixelDecoder, choose

SIDE, LEVELS, WIDTH = 3, 4, 8
PIXELS = SIDE * SIDE


@pytest.fixture(scope="module")
def decoder() -> PixelDecoder:
    """With weights large enough that each place depends visibly on all before it and on the words."""
    layer = PixelDecoder(SIDE, LEVELS, blocks=2, heads=2, feed_forward=16)
    layer.build((None, PIXELS), (None, None, WIDTH))
    random = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign(random.normal(size=weight.shape, scale=0.5))
    return layer


def prompt(rows: int, length: int = 4) -> tuple[Any, Any]:
    words = np.random.default_rng(1).normal(size=(rows, length, WIDTH)).astype(np.float32)
    return tf.constant(words), tf.ones((rows, length))


def noise(rows: int) -> np.ndarray:
    return np.random.default_rng(2).random((rows, PIXELS), np.float32)


def test_drawing_follows_the_logits_of_training(decoder: PixelDecoder) -> None:
    """Each level that `draw` chose is the one that the logits of the whole picture, computed at once, choose."""
    rows = 40
    words, mask = prompt(rows)
    temperature = np.linspace(0.0, 2.0, rows, dtype=np.float32)
    drawn = decoder.draw(words, mask, tf.constant(noise(rows)), tf.constant(temperature))

    logits = decoder(drawn, words, mask)
    chosen = [choose(logits[:, place], noise(rows)[:, place], temperature) for place in range(PIXELS)]

    assert len(np.unique(np.asarray(drawn), axis=0)) > rows // 2
    np.testing.assert_array_equal(np.stack(chosen, axis=1), drawn)


def test_a_place_sees_those_before_it_and_the_words_alone(decoder: PixelDecoder) -> None:
    words, mask = prompt(1)
    levels = np.random.default_rng(3).integers(0, LEVELS, (1, PIXELS))
    before = np.asarray(decoder(levels, words, mask))
    for place in range(PIXELS):
        changed = levels.copy()
        changed[0, place] = (levels[0, place] + 1) % LEVELS
        difference = np.abs(np.asarray(decoder(changed, words, mask)) - before).max(axis=-1)[0]
        assert difference[: place + 1].max() == 0
        assert (difference[place + 1 :] > 1e-4).all()
    other = np.abs(np.asarray(decoder(levels, words + 0.5, mask)) - before).max(axis=-1)[0]
    assert (other > 1e-4).all()


def test_masked_words_change_nothing(decoder: PixelDecoder) -> None:
    words, mask = prompt(2, 3)
    levels = np.zeros((2, PIXELS), np.int32)
    more = tf.concat([words, 9.0 * tf.ones((2, 5, WIDTH))], axis=1)
    hidden = tf.concat([mask, tf.zeros((2, 5))], axis=1)
    np.testing.assert_allclose(decoder(levels, more, hidden), decoder(levels, words, mask), rtol=1e-5, atol=1e-5)
    assert np.asarray(decoder.attention(levels, more, hidden))[:, :, 3:].max() == 0


def test_attention_is_shared_out_between_the_words(decoder: PixelDecoder) -> None:
    looks = np.asarray(decoder.attention(np.zeros((2, PIXELS), np.int32), *prompt(2)))
    assert looks.shape == (2, PIXELS, 4)
    np.testing.assert_allclose(looks.sum(axis=-1), 1.0, rtol=1e-5)


def test_rows_do_not_depend_on_each_other(decoder: PixelDecoder) -> None:
    words, mask = prompt(5)
    temperature = np.ones(5, np.float32)
    together = np.asarray(decoder.draw(words, mask, noise(5), temperature))
    for row in range(5):
        alone = decoder.draw(words[row : row + 1], mask[:1], noise(5)[row : row + 1], temperature[:1])
        np.testing.assert_array_equal(alone[0], together[row])


def test_levels_come_up_as_often_as_they_are_probable() -> None:
    chances = np.array([0.1, 0.0, 0.6, 0.3], np.float32)
    with np.errstate(divide="ignore"):
        logits = np.tile(np.log(chances), (1000, 1))
    drawn = choose(logits, (np.arange(1000, dtype=np.float32) + 0.5) / 1000, np.ones(1000, np.float32))
    np.testing.assert_array_equal(np.bincount(drawn, minlength=4), [100, 0, 600, 300])


def test_a_higher_temperature_draws_more_freely() -> None:
    logits = np.tile(np.array([2.0, 0.0, 0.0, 0.0], np.float32), (900, 1))
    even = (np.arange(900, dtype=np.float32) + 0.5) / 900
    first = [int((choose(logits, even, np.full(900, t, np.float32)).numpy() == 0).sum()) for t in (0.5, 1.0, 10.0)]
    assert first[0] > first[1] > first[2] > 225


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, -np.inf, COLDEST / 2, 1e-40])
def test_the_coldest_temperatures_draw_the_most_probable_level(temperature: float) -> None:
    logits = np.array([[1.0, 1.01, 0.0]] * 3, np.float32)
    drawn = choose(logits, np.array([0.0, 0.5, 1.0], np.float32), np.full(3, temperature, np.float32))
    np.testing.assert_array_equal(drawn, [1, 1, 1])


@pytest.mark.parametrize("odd", [-np.inf, -1.0, 0.0, 1.0, 5.0, np.inf])
@pytest.mark.parametrize("temperature", [COLDEST, 1.0, np.inf])
def test_noise_out_of_range_draws_a_level_that_has_a_chance(odd: float, temperature: float) -> None:
    logits = np.array([[-300.0, 1.0, 2.0, -300.0]], np.float32)
    drawn = choose(logits, np.array([odd], np.float32), np.array([temperature], np.float32))
    assert int(drawn[0]) in ((0, 1, 2, 3) if temperature == np.inf else (1, 2))


def test_the_anchor_gives_a_prompt_of_padding_something_to_look_at(decoder: PixelDecoder) -> None:
    words, mask = Anchor()(tf.zeros((2, 3, WIDTH)), tf.zeros((2, 3)))
    assert np.asarray(mask).tolist() == [[1, 0, 0, 0]] * 2
    drawn = np.asarray(decoder.draw(words, mask, noise(2), np.ones(2, np.float32)))
    assert ((drawn >= 0) & (drawn < LEVELS)).all()
