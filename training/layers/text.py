"""Layers of the text encoder: two free axes, batch and length, and padding that changes no answer.

Everywhere `mask` is f32 `[B, L]`, 1 for a token and 0 for padding. A padded place is kept out of every sum by an exact zero.
"""

from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from keras import ops

_FAR_BELOW = -1e9
"""Added to a score before the softmax: its exponential is exactly 0 in float32 beside any real score."""


@keras.saving.register_keras_serializable(package="cornet")
class KnownTokens(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Token ids i32 `[B, L]` cut to `max_length`, those outside the vocabulary as `unknown`: any input has an answer."""

    def __init__(self, vocabulary_size: int, max_length: int, unknown: int, **options: Any) -> None:
        super().__init__(**options)
        self.vocabulary_size = vocabulary_size
        self.max_length = max_length
        self.unknown = unknown

    def call(self, tokens: Any) -> Any:
        tokens = tokens[:, : self.max_length]
        known = ops.logical_and(tokens >= 0, tokens < self.vocabulary_size)
        return ops.where(known, tokens, ops.full_like(tokens, self.unknown))

    def get_config(self) -> dict[str, Any]:
        own = {"vocabulary_size": self.vocabulary_size, "max_length": self.max_length, "unknown": self.unknown}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="cornet")
class PositionalEncoding(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Adds to f32 `[B, L, width]` a vector for each place: a fixed one of sines and cosines, or a learned one.

    Source of the sinusoids: Vaswani et al. 2017, "Attention Is All You Need", section 3.5.
    """

    def __init__(self, kind: Literal["sinusoidal", "learned"], max_length: int, **options: Any) -> None:
        super().__init__(**options)
        self.kind = kind
        self.max_length = max_length

    def build(self, shape: Any) -> None:
        width = shape[-1]
        learned = self.kind == "learned"
        initializer = (
            keras.initializers.RandomNormal(stddev=0.02) if learned else _fixed(sinusoids(self.max_length, width))
        )
        self.positions = self.add_weight(
            shape=(self.max_length, width), initializer=initializer, trainable=learned, name="positions"
        )

    def call(self, embedded: Any) -> Any:
        return embedded + self.positions[: ops.shape(embedded)[1]]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind, "max_length": self.max_length}


@keras.saving.register_keras_serializable(package="cornet")
class MaskedSelfAttention(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Multi-head scaled dot-product attention of f32 `[B, L, width]` on itself; padded places are never looked at.

    One product makes queries, keys and values; the heads are an axis of their own throughout, so that batch and length both
    stay free in the exported graph. Source: Vaswani et al. 2017, section 3.2.
    """

    def __init__(self, heads: int, dropout: float = 0.0, seed: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.heads = heads
        self.dropout = dropout
        self.seed = seed

    def build(self, values_shape: Any, mask_shape: Any = None) -> None:
        del mask_shape
        self.width = values_shape[-1]
        self.project = keras.layers.Dense(3 * self.width, name="project")
        self.project.build(values_shape)
        self.combine = keras.layers.Dense(self.width, name="combine")
        self.combine.build(values_shape)
        self.drop = keras.layers.Dropout(self.dropout, seed=self.seed)

    def call(self, values: Any, mask: Any, training: bool = False) -> Any:
        length = ops.shape(values)[1]
        size = self.width // self.heads
        parts = ops.reshape(self.project(values), (-1, length, 3, self.heads, size))
        query, key, value = ops.unstack(ops.transpose(parts, (2, 0, 3, 1, 4)), 3)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * size**-0.5
        scores = scores + (1.0 - mask[:, None, None, :]) * _FAR_BELOW
        # keras.ops.softmax warns of a text of one token.
        weights = self.drop(tf.nn.softmax(scores), training=training)
        merged = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.combine(ops.reshape(merged, (-1, length, self.width)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "heads": self.heads, "dropout": self.dropout, "seed": self.seed}


@keras.saving.register_keras_serializable(package="cornet")
class MaskedPooling(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """f32 `[B, L, width]` to `[B, width]`: mean or maximum over the tokens. A row of padding alone gives zeros."""

    def __init__(self, kind: Literal["mean", "max"], **options: Any) -> None:
        super().__init__(**options)
        self.kind = kind

    def call(self, values: Any, mask: Any) -> Any:
        kept = mask[:, :, None]
        tokens = ops.sum(kept, axis=1)
        if self.kind == "mean":
            return ops.sum(values * kept, axis=1) / ops.maximum(tokens, 1.0)
        highest = ops.max(values + (1.0 - kept) * _FAR_BELOW, axis=1)
        return ops.where(tokens > 0, highest, ops.zeros_like(highest))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kind": self.kind}


@keras.saving.register_keras_serializable(package="cornet")
class ReversedTokens(keras.layers.Layer):  # type: ignore[misc]  # keras ships no types
    """f32 `[B, L, width]` with each row's tokens in reverse order, and zeros for its padding, behind them."""

    def call(self, values: Any, mask: Any) -> Any:
        # The last token's place and not their number: a zero between tokens is read like one.
        places = ops.arange(1, ops.shape(mask)[1] + 1, dtype="float32")
        lengths = ops.max(ops.cast(mask, "float32") * places, axis=1, keepdims=True)
        reverse = tf.reverse_sequence(values, ops.cast(lengths[:, 0], "int32"), seq_axis=1, batch_axis=0)
        # The product also keeps tf2onnx from taking this and a recurrent layer for ONNX's reverse one, which has no lengths.
        return reverse * ops.cast(places <= lengths, reverse.dtype)[:, :, None]


def encoder_block(state: Any, mask: Any, *, heads: int, feed_forward: int, dropout: float, seed: int) -> Any:
    """Attention and feed-forward, each added to what came in and normalised after (the original order)."""
    layers = keras.layers
    width = state.shape[-1]
    attended = MaskedSelfAttention(heads, dropout, seed)(state, mask)
    attended = layers.Dropout(dropout, seed=seed + 1)(attended)
    state = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([state, attended]))
    inner = layers.Dense(feed_forward, activation="relu")(state)
    inner = layers.Dropout(dropout, seed=seed + 2)(layers.Dense(width)(inner))
    return layers.LayerNormalization(epsilon=1e-6)(layers.Add()([state, inner]))


def sinusoids(length: int, width: int) -> np.ndarray:
    """f32 `[length, width]`: sines in the even columns, cosines in the odd, wavelengths from 2 pi to 10000 times that."""
    places = np.arange(length)[:, None]
    columns = np.arange(width)[None, :]
    angles = places / 10_000 ** (columns // 2 * 2 / width)
    return np.where(columns % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def _fixed(values: np.ndarray) -> Any:
    return lambda shape, dtype=None: ops.convert_to_tensor(values.reshape(shape), dtype)
