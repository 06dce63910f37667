"""Recurrent layers that become one fused ONNX operation instead of a loop.

tf2onnx recognises Keras's LSTM and writes ONNX's LSTM. Keras 3's GRU it writes as a Loop, about ten times slower in ONNX
Runtime: its pattern for a GRU wants both bias additions as BiasAdd on a value from outside the loop, and both products
split in three.
"""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="cornet")
class FusedGRUCell(keras.layers.GRUCell):  # type: ignore[misc]  # keras ships no types
    """keras.layers.GRUCell(reset_after=True), written in the form tf2onnx recognises; tanh and sigmoid alone."""

    biases: tuple[Any, Any]
    """Input and recurrent bias, `[3 * units]` each; `FusedGRU` reads them before its loop."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> tuple[Any, list[Any]]:
        del training
        state = states[0]
        input_bias, recurrent_bias = self.biases
        from_input = tf.split(tf.nn.bias_add(tf.matmul(inputs, self.kernel), input_bias), 3, axis=1)
        from_state = tf.split(tf.nn.bias_add(tf.matmul(state, self.recurrent_kernel), recurrent_bias), 3, axis=1)
        update = tf.sigmoid(from_input[0] + from_state[0])
        reset = tf.sigmoid(from_input[1] + from_state[1])
        candidate = tf.tanh(from_input[2] + reset * from_state[2])
        state = update * state + (1.0 - update) * candidate
        return state, [state]


@keras.saving.register_keras_serializable(package="cornet")
class FusedGRU(keras.layers.RNN):  # type: ignore[misc]  # keras ships no types
    """keras.layers.GRU for export: the same weights give the same answers."""

    def __init__(self, units: int, return_sequences: bool = False, **options: Any) -> None:
        super().__init__(FusedGRUCell(units), return_sequences=return_sequences, **options)
        self.units = units

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> Any:
        self.cell.biases = tuple(tf.unstack(tf.convert_to_tensor(self.cell.bias)))
        return super().inner_loop(sequences, initial_state, mask, training)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        del config["cell"]
        return config | {"units": self.units}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "FusedGRU":
        del custom_objects
        return cls(**config)
