"""Eight bits for the multiplications of a graph, by onnxruntime's quantiser.

Static: weights and activations of convolutions and matrix products in QuantizeLinear/DequantizeLinear pairs, plain ONNX.
Dynamic: matrix products by MatMulInteger, plain ONNX too, and LSTM layers by `DynamicQuantizeLSTM`, which only ONNX Runtime
runs. Everything else, the preprocessing in the graph above all, stays in float32.

A dynamic range is that of the whole batch, so that a row's answer depends a little on the rows it shares a batch with; the
gates judge rows alone and together. A static one is fixed.

Weights use seven of their eight bits: on CPUs without VNNI the sum of two full products overflows 16 bits without a word, and
a file that was proven on one machine must answer alike on another.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from services.errors import CornetError, FailedPrecondition
from training.pipeline import Arrays
from training.precision.options import Quantization

_TYPES = {Quantization.STATIC: ("Conv", "MatMul", "Gemm"), Quantization.DYNAMIC: ("MatMul", "LSTM")}
"""What is quantised by each method; the dynamic one takes a Gemm for the MatMul it is."""
_CARRIERS = ("Relu", "MaxPool", "Reshape", "Transpose")
"""What hands eight bits on as they are, where it is given them."""
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_DYNAMIC_FORMS = {"MatMulInteger": "MatMul", "DynamicQuantizeLSTM": "LSTM"}

CALIBRATION_ROWS = 512
"""Most rows that ranges are taken from; more change the largest and smallest values little."""
_CALIBRATION_BATCH = 32


def method_for(proto: Any, asked: Quantization) -> Quantization:
    """Static or dynamic, by what was asked for or what the graph is made of."""
    if asked is not Quantization.AUTO:
        return asked
    convolves = any(node.op_type in _CONVOLUTIONS for node in proto.graph.node)
    return Quantization.STATIC if convolves else Quantization.DYNAMIC


def to_int8(
    source: Path, target: Path, method: Quantization, calibration: Arrays | None
) -> tuple[Counter[str], Counter[str]]:
    """Write the quantised form of an ONNX file. Returns what was quantised and what of it stayed, counted by type.

    `calibration`: training rows by input name; static quantisation takes its ranges from them. Raises FailedPrecondition
    where there are none, where there is nothing to quantise, or where onnxruntime cannot.
    """
    import onnx

    original = onnx.load(source)
    with tempfile.TemporaryDirectory() as folder, _silenced():
        prepared, written = Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")
        try:
            _prepare(source, prepared)
            if method is Quantization.STATIC:
                _static(prepared, written, calibration)
            else:
                _dynamic(prepared, written)
        except CornetError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:300]
            raise FailedPrecondition(
                f"onnxruntime cannot quantise the model: {type(error).__name__}: {reason}"
            ) from error
        before = _counted(onnx.load(prepared).graph, method)
        proto = onnx.load(written)
    quantised = _quantised(proto.graph, method)
    if not quantised:
        raise FailedPrecondition(
            f"Expected a model with operations to quantise ({', '.join(_TYPES[method])}). Received one without."
        )
    _tidy(proto, original)
    target.write_bytes(proto.SerializeToString())
    return quantised, before - quantised


def _prepare(source: Path, target: Path) -> None:
    """Fold biases and batch normalisations into what they follow, and infer shapes: the quantiser builds on both."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(source), str(target), skip_symbolic_shape=True)


def _static(source: Path, target: Path, calibration: Arrays | None) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if calibration is None or not len(next(iter(calibration.values()), ())):
        raise FailedPrecondition(
            "Expected training rows to take the ranges of a static quantisation from. Received none; `cornet convert` takes "
            "rows of yours with --calibration."
        )
    batches = iter(_calibration_batches(calibration))

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*_TYPES[Quantization.STATIC], *_CARRIERS],
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _dynamic(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        op_types_to_quantize=list(_TYPES[Quantization.DYNAMIC]),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )


def calibration_rows(rows: Arrays) -> dict[str, np.ndarray]:
    """Evenly spread rows, as many as are worth calibrating on."""
    count = len(next(iter(rows.values()), ()))
    chosen = np.linspace(0, count - 1, min(count, CALIBRATION_ROWS)).round().astype(int)
    return {name: values[chosen] for name, values in rows.items()}


def _calibration_batches(rows: Arrays) -> Iterator[dict[str, np.ndarray]]:
    count = len(next(iter(rows.values())))
    for start in range(0, count, _CALIBRATION_BATCH):
        yield {name: values[start : start + _CALIBRATION_BATCH] for name, values in rows.items()}


def _counted(graph: Any, method: Quantization) -> Counter[str]:
    """Operations of the types that the method quantises."""
    kinds = (*_TYPES[method], "Gemm")
    return Counter(_plain(node.op_type, method) for node in graph.node if node.op_type in kinds)


def _quantised(graph: Any, method: Quantization) -> Counter[str]:
    if method is Quantization.DYNAMIC:
        return Counter(_DYNAMIC_FORMS[node.op_type] for node in graph.node if node.op_type in _DYNAMIC_FORMS)
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return Counter(
        node.op_type for node in graph.node if node.op_type in _TYPES[method] and dequantised.issuperset(node.input[:2])
    )


def _plain(kind: str, method: Quantization) -> str:
    return "MatMul" if kind == "Gemm" and method is Quantization.DYNAMIC else kind


def _tidy(proto: Any, original: Any) -> None:
    """The original's graph name, version and operator sets, and of onnxruntime's own set what the graph uses."""
    used = {node.domain for node in proto.graph.node}
    sets = [entry for entry in proto.opset_import if entry.domain in used or entry.domain == ""]
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in sets]
    del proto.opset_import[:]
    proto.opset_import.extend(copies)
    del proto.metadata_props[:]
    proto.ir_version, proto.producer_name = original.ir_version, original.producer_name
    proto.producer_version, proto.graph.name = original.producer_version, original.graph.name


@contextmanager
def _silenced() -> Iterator[None]:
    """Hold back what the quantiser says through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
