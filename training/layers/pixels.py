"""Layers that draw: a picture as a row of grey levels, each chosen from what stands before it and from the prompt.

`PixelDecoder` is called with whole pictures in training (each place sees the true levels before it, all at once) and draws
place after place when it serves, with the same weights. Shapes: `B` pictures, `P` places, `L` words, `W` numbers per place.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_FAR_BELOW = -1e9
"""Added to a score before the softmax: its exponential is exactly 0 in float32 beside any real score."""
COLDEST = 1e-3
"""Temperatures below this, and what is no number, draw the most probable level."""
_LARGEST_NOISE = 0.999999
"""So that noise times a sum stays below that sum, whatever the rounding."""

Cache = tuple[Any, Any]
"""Keys and values f32 `[B, heads, n, W / heads]`."""


@keras.saving.register_keras_serializable(package="cornet")
class Anchor(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Puts a learnt vector before the words f32 `[B, L, W]`, and a 1 before their mask: a prompt of no words is one too."""

    def build(self, words_shape: Any, mask_shape: Any = None) -> None:
        del mask_shape
        self.vector = self.add_weight(shape=(1, 1, words_shape[-1]), name="vector")

    def call(self, words: Any, mask: Any) -> tuple[Any, Any]:
        rows = tf.shape(words)[0]
        anchors = tf.tile(self.vector, (rows, 1, 1))
        return tf.concat([anchors, words], axis=1), tf.concat([tf.ones_like(anchors[:, :, 0]), mask], axis=1)


@keras.saving.register_keras_serializable(package="cornet")
class DecoderBlock(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Attention to the places before, attention to the prompt, feed-forward; each normalised before and added after.

    `call` takes any number of places: all of them under a causal bias in training, one at a time with the keys and values
    of those before (`past`) when drawing. Source: Vaswani et al. 2017, section 3.2; normalised first as in Xiong et al. 2020.
    """

    def __init__(self, heads: int, feed_forward: int, dropout: float, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.heads = heads
        self.feed_forward = feed_forward
        self.dropout = dropout
        self.seed = seed

    def build(self, places_shape: Any) -> None:
        self.width = width = places_shape[-1]
        self.size = width // self.heads
        self.project = self._affine("project", width, 3 * width)
        self.combine = self._affine("combine", width, width)
        self.ask = self._affine("ask", width, width)
        self.read = self._affine("read", width, 2 * width)
        self.combine_read = self._affine("combine_read", width, width)
        self.widen = self._affine("widen", width, self.feed_forward)
        self.narrow = self._affine("narrow", self.feed_forward, width)
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-6, name=f"norm_{index}") for index in range(3)]
        for norm in self.norms:
            norm.build((None, None, width))
        self.drops = [keras.layers.Dropout(self.dropout, seed=self.seed + index) for index in range(3)]
        self.built = True

    def prompt(self, words: Any) -> Cache:
        """Keys and values of the encoded words f32 `[B, L, W]`: the same for every place, so computed once."""
        return self._split(_apply(self.read, words), 2, tf.shape(words)[1])

    def call(
        self,
        places: Any,
        prompt: Cache,
        hidden: Any,
        causal: Any = None,
        past: Cache | None = None,
        training: bool = False,
    ) -> tuple[Any, Cache, Any]:
        """f32 `[B, P, W]` after this block, keys and values of all places so far, and the attention `[B, heads, P, L]`.

        `hidden` f32 `[B, 1, 1, L]` and `causal` f32 `[P, P]` are added to the scores of words and of places.
        """
        count = places.shape[1]
        query, key, value = self._split(_apply(self.project, self.norms[0](places)), 3, count)
        if past is not None:
            key, value = tf.concat([past[0], key], axis=2), tf.concat([past[1], value], axis=2)
        seen, _ = self._attend(query, key, value, 0.0 if causal is None else causal)
        places = places + self.drops[0](_apply(self.combine, seen), training=training)
        (query,) = self._split(_apply(self.ask, self.norms[1](places)), 1, count)
        heard, weights = self._attend(query, *prompt, hidden)
        places = places + self.drops[1](_apply(self.combine_read, heard), training=training)
        inner = tf.nn.relu(_apply(self.widen, self.norms[2](places)))
        return places + self.drops[2](_apply(self.narrow, inner), training=training), (key, value), weights

    def _affine(self, name: str, inputs: int, outputs: int) -> tuple[Any, Any]:
        kernel = self.add_weight(shape=(inputs, outputs), initializer="glorot_uniform", name=f"{name}_kernel")
        return kernel, self.add_weight(shape=(outputs,), initializer="zeros", name=f"{name}_bias")

    def _split(self, values: Any, parts: int, count: Any) -> tuple[Any, ...]:
        """`[B, count, parts * W]` as that many `[B, heads, count, W / heads]`."""
        apart = tf.reshape(values, (-1, count, parts, self.heads, self.size))
        return tuple(tf.unstack(tf.transpose(apart, (2, 0, 3, 1, 4)), parts))

    def _attend(self, query: Any, key: Any, value: Any, bias: Any) -> tuple[Any, Any]:
        scores = tf.matmul(query, key, transpose_b=True) * self.size**-0.5 + bias
        weights = tf.nn.softmax(scores)
        merged = tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))
        return tf.reshape(merged, (-1, query.shape[2], self.width)), weights

    def get_config(self) -> dict[str, Any]:
        own = {"heads": self.heads, "feed_forward": self.feed_forward, "dropout": self.dropout, "seed": self.seed}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="cornet")
class PixelDecoder(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """The levels of a picture, row by row: `call` gives their logits, `draw` draws them.

    Words are f32 `[B, L, W]` with a mask f32 `[B, L]` that has at least one 1 in each row.
    """

    def __init__(
        self,
        side: int,
        levels: int,
        blocks: int,
        heads: int,
        feed_forward: int,
        dropout: float = 0.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.side = side
        self.levels = levels
        self.count = blocks
        self.heads = heads
        self.feed_forward = feed_forward
        self.dropout = dropout
        self.seed = seed

    def build(self, levels_shape: Any, words_shape: Any, mask_shape: Any = None) -> None:
        del levels_shape, mask_shape
        width = words_shape[-1]
        spread = keras.initializers.RandomNormal(stddev=0.1, seed=self.seed)
        self.colours = self.add_weight(shape=(self.levels + 1, width), initializer=spread, name="colours")
        self.rows = self.add_weight(shape=(self.side, 1, width), initializer=spread, name="rows")
        self.columns = self.add_weight(shape=(1, self.side, width), initializer=spread, name="columns")
        self.blocks = [
            DecoderBlock(
                self.heads, self.feed_forward, self.dropout, self.seed + 10 * (index + 1), name=f"block_{index}"
            )
            for index in range(self.count)
        ]
        for block in self.blocks:
            block.build((None, None, width))
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")
        self.norm.build((None, None, width))
        self.kernel = self.add_weight(shape=(width, self.levels), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(self.levels,), initializer="zeros", name="bias")
        self.drop = keras.layers.Dropout(self.dropout, seed=self.seed)
        self.built = True

    @property
    def pixels(self) -> int:
        return self.side * self.side

    @property
    def hidden_layers(self) -> list[Any]:
        """Those between the levels' vectors and the logits: what mixed precision is for."""
        return self.blocks

    def call(self, levels: Any, words: Any, mask: Any, training: bool = False) -> Any:
        """Logits f32 `[B, 64, levels]` of each place, given the true levels i32 `[B, 64]` of the places before it."""
        logits, _ = self._teach(levels, words, mask, training=training)
        return logits

    def attention(self, levels: Any, words: Any, mask: Any) -> Any:
        """How much each place of pictures i32 `[B, 64]` looks at each word: f32 `[B, 64, L]`, over blocks and heads."""
        _, weights = self._teach(levels, words, mask, training=False)
        return tf.reduce_mean(tf.stack(weights), axis=(0, 2))

    def draw(self, words: Any, mask: Any, noise: Any, temperature: Any) -> Any:
        """Levels i32 `[B, 64]`, each drawn by its own number of `noise` f32 `[B, 64]`; `temperature` is f32 `[B]`."""
        prompts, hidden = self._prompts(words, mask)
        places = self._places()
        rows = tf.shape(words)[0]
        size = words.shape[-1] // self.heads
        empty = tf.zeros((rows, self.heads, 0, size))
        growing = tf.TensorShape((None, self.heads, None, size))

        def step(place: Any, last: Any, drawn: Any, *caches: Any) -> tuple[Any, ...]:
            state = (tf.gather(self.colours, last) + tf.gather(places, place))[:, None, :]
            kept = []
            for index, (block, prompt) in enumerate(zip(self.blocks, prompts, strict=True)):
                past = (caches[2 * index], caches[2 * index + 1])
                state, (key, value), _ = block(state, prompt, hidden, past=past)
                kept += [key, value]
            level = choose(self._logits(state)[:, 0], tf.gather(noise, place, axis=1), temperature)
            return place + 1, level, tf.concat([drawn, level[:, None]], axis=1), *kept

        caches = [empty] * (2 * self.count)
        _, _, drawn, *_ = tf.while_loop(
            lambda place, *_: place < self.pixels,
            step,
            (tf.constant(0), tf.fill([rows], self.levels), tf.zeros((rows, 0), tf.int32), *caches),
            shape_invariants=(
                tf.TensorShape(()),
                tf.TensorShape((None,)),
                tf.TensorShape((None, None)),
                *[growing] * len(caches),
            ),
        )
        return tf.reshape(drawn, (-1, self.pixels))

    def _teach(self, levels: Any, words: Any, mask: Any, *, training: bool) -> tuple[Any, list[Any]]:
        start = tf.fill((tf.shape(levels)[0], 1), self.levels)
        before = tf.concat([start, tf.cast(levels, tf.int32)[:, :-1]], axis=1)
        state = self.drop(tf.gather(self.colours, before) + self._places(), training=training)
        state = tf.ensure_shape(state, (None, self.pixels, None))
        causal = tf.constant(np.triu(np.full((self.pixels, self.pixels), _FAR_BELOW, np.float32), 1))
        prompts, hidden = self._prompts(words, mask)
        looks = []
        for block, prompt in zip(self.blocks, prompts, strict=True):
            state, _, weights = block(state, prompt, hidden, causal=causal, training=training)
            looks.append(weights)
        return self._logits(state), looks

    def _prompts(self, words: Any, mask: Any) -> tuple[list[Cache], Any]:
        return [block.prompt(words) for block in self.blocks], (1.0 - mask)[:, None, None, :] * _FAR_BELOW

    def _places(self) -> Any:
        return tf.reshape(self.rows + self.columns, (self.pixels, -1))

    def _logits(self, state: Any) -> Any:
        return _apply((self.kernel, self.bias), self.norm(state))

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("side", "levels", "heads", "feed_forward", "dropout", "seed")}
        return {**super().get_config(), **own, "blocks": self.count}


@keras.saving.register_keras_serializable(package="cornet")
class Draw(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """The picture that a decoder draws: u8 `[B, side, side]`, the highest level as 255."""

    def __init__(self, decoder: PixelDecoder, **options: Any) -> None:
        super().__init__(**options)
        self.decoder = decoder

    def call(self, words: Any, mask: Any, noise: Any, temperature: Any) -> Any:
        # Run eagerly the loop takes half a second whatever the rows: each of its operations waits for Python.
        draw = _compiled_draw if tf.executing_eagerly() else PixelDecoder.draw
        levels = draw(self.decoder, words, mask, noise, temperature)
        side, step = self.decoder.side, 255 // (self.decoder.levels - 1)
        return tf.cast(tf.reshape(levels * step, (-1, side, side)), tf.uint8)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decoder": keras.saving.serialize_keras_object(self.decoder)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Draw":
        return cls(**{**config, "decoder": keras.saving.deserialize_keras_object(config["decoder"])})


@tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]  # tensorflow ships no types
def _compiled_draw(decoder: PixelDecoder, words: Any, mask: Any, noise: Any, temperature: Any) -> Any:
    return decoder.draw(words, mask, noise, temperature)


def choose(logits: Any, noise: Any, temperature: Any) -> Any:
    """A level i32 `[B]` for each row of f32 `[B, levels]`: the first whose cumulative probability exceeds the noise.

    `noise` f32 `[B]` is clipped to 0..1. Below `COLDEST`, and where temperature is no number, the most probable level: any
    input has an answer, and it is the same in every runtime but for rounding. A level without probability is never chosen.
    """
    count = logits.shape[-1]
    warm = temperature >= COLDEST
    scale = tf.where(warm, temperature, tf.ones_like(temperature))[:, None]
    weights = tf.exp((logits - tf.reduce_max(logits, axis=-1, keepdims=True)) / scale)
    # A product with ones adds up in the same way in every runtime, which a cumulative sum need not.
    sums = tf.matmul(weights, tf.constant(np.triu(np.ones((count, count), np.float32))))
    threshold = tf.clip_by_value(noise, 0.0, _LARGEST_NOISE)[:, None] * sums[:, -1:]
    drawn = tf.reduce_sum(tf.cast(sums <= threshold, tf.int32), axis=-1)
    return tf.where(warm, drawn, tf.argmax(logits, axis=-1, output_type=tf.int32))


def _apply(affine: tuple[Any, Any], values: Any) -> Any:
    """A product and a sum: Keras's Dense flattens a sequence first, which costs four operations for each."""
    kernel, bias = affine
    return tf.matmul(values, kernel) + bias
