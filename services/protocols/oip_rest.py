"""The Open Inference Protocol's REST answers: engine responses to JSON and binary tensors, and metadata.

NaN and Infinity are no JSON. An answer that holds one is an error that asks for binary data: Triton writes tokens that strict
parsers choke on, KServe writes null, which makes NaN and both infinities one. Binary tensors carry them unharmed.

Sources: the Open Inference Protocol's REST API, and Triton's binary tensor data extension.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import orjson

from services.engine.request import InferenceResponse
from services.errors import InvalidArgument
from services.protocols.json_arrays import finite_text, string_values
from services.protocols.json_numbers import row_texts
from services.protocols.oip_raw import encode_raw
from services.protocols.oip_rest_request import (
    Infer,
    PackedForm,
    decode_infer,
    decode_raw_infer,
    packed_binary,
    packed_json,
)
from services.protocols.oip_signatures import SIGNATURES, default_of, describe_signatures, describe_tensors
from services.protocols.wire import around_rows
from services.tensors import Signature, dtype_of

__all__ = [
    "Infer",
    "PackedForm",
    "decode_infer",
    "decode_raw_infer",
    "encode_packed",
    "packed_binary",
    "packed_json",
    "encode_infer",
    "encode_model_metadata",
    "encode_server_metadata",
]


def encode_infer(response: InferenceResponse, infer: Infer | PackedForm) -> tuple[list[bytes], int | None]:
    """The answer's body in parts, and the length of its JSON where binary tensors follow.

    Raises InvalidArgument for an output that JSON cannot carry.
    """
    head = [b'{"id":%b,' % orjson.dumps(infer.id) if infer.id else b"{", _model_text(response.model, response.version)]
    parts: list[bytes] = []
    any_binary = False
    separator = b""
    for name, array in response.outputs.items():
        head += (separator, _output_text(name, dtype_of(array).oip, array.shape))
        separator = b","
        if infer.binary.get(name, infer.binary_default):
            data = encode_raw(array)
            head.append(b',"parameters":{"binary_data_size":%d}}' % len(data))
            parts.append(data)
            any_binary = True
        else:
            head += (b',"data":', _json_data(name, array), b"}")
    head.append(b"]}")
    text = b"".join(head)
    return [text, *parts], len(text) if any_binary else None


def encode_packed(
    model: str, version: int, outputs: Mapping[str, np.ndarray], form: PackedForm, rows: int, firsts: Sequence[int]
) -> tuple[list[bytes], int | None] | None:
    """What `encode_infer` would say to each of several requests of one form, in one go: their answers, and the length of
    each one's JSON where binary tensors follow. A request has `rows` rows of every output, from its entry of `firsts` on.

    None where the answers mix both ways of writing, or JSON cannot carry them: then each is encoded by itself.
    """
    binary = [form.binary.get(name, form.binary_default) for name in outputs]
    arrays = list(outputs.values())
    if any(binary) and not all(binary):
        return None
    texts = [b'{"id":%b,' % orjson.dumps(form.id) if form.id else b"{"]
    texts[0] += _model_text(model, version)
    if all(binary):
        if any(array.dtype.kind not in "iufb" for array in arrays):
            return None
        parts = [
            _output_text(name, dtype_of(array).oip, (rows, *array.shape[1:]))
            + b',"parameters":{"binary_data_size":%d}}' % (array.nbytes // len(array) * rows)
            for name, array in outputs.items()
        ]
        text = texts[0] + b",".join(parts) + b"]}"
        return around_rows([text, *[b""] * len(arrays)], arrays, rows, firsts), len(text)
    columns = []
    for array in arrays:
        column = row_texts(array)
        if column is None:
            return None
        columns.append(column)
    for name, array in outputs.items():
        texts[-1] += _output_text(name, dtype_of(array).oip, (rows, *array.shape[1:])) + b',"data":['
        texts.append(b"]},")
    texts[-1] = b"]}]}"
    answers = []
    for first in firsts:
        answer = texts[0]
        for text, column in zip(texts[1:], columns, strict=True):
            answer += column[first] if rows == 1 else b",".join(column[first : first + rows])
            answer += text
        answers.append(answer)
    return answers, None


def encode_server_metadata(name: str, version: str, extensions: Sequence[str]) -> bytes:
    return orjson.dumps({"name": name, "version": version, "extensions": extensions})


def encode_model_metadata(
    model: str, versions: Sequence[int], platform: str, signatures: Mapping[str, Signature]
) -> bytes:
    """Metadata of one version; `oip_signatures` says what of which signature it has."""
    signature, described = default_of(signatures), describe_signatures(signatures)
    return orjson.dumps(
        {
            "name": model,
            "versions": [str(version) for version in versions],
            "platform": platform,
            "inputs": describe_tensors(signature.inputs),
            "outputs": describe_tensors(signature.outputs),
            **({SIGNATURES: described} if described else {}),
        }
    )


@lru_cache(1024)
def _model_text(model: str, version: int) -> bytes:
    return orjson.dumps({"model_name": model, "model_version": str(version)})[1:-1] + b',"outputs":['


@lru_cache(4096)
def _output_text(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """An output's JSON object but for its data and its end."""
    return orjson.dumps({"name": name, "datatype": datatype, "shape": shape})[:-1]


def _json_data(name: str, array: np.ndarray) -> bytes:
    """An output's values in row-major order as JSON."""
    if array.dtype.kind in "OSU":
        return orjson.dumps(string_values(array, f'Output "{name}"'))
    if array.dtype == np.float16:
        raise InvalidArgument(
            f'Output "{name}": sending FP16 data via JSON is not supported. Please use the binary data format for output.'
        )
    text = finite_text(array.ravel())
    if text is None:
        raise InvalidArgument(
            f'Output "{name}": expected finite values, as JSON can carry. Received: NaN or Infinity from the model. '
            f"Please use the binary data format for output."
        )
    return text
