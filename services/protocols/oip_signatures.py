"""Signatures other than `serving_default` in the Open Inference Protocol, which has no word for them: an extension of ours.

A request chooses one with the parameter `signature_name`, a string, as TensorFlow Serving's field of that name does. Metadata
has inputs and outputs of `serving_default`, and where there are others a description of all:

    {"serving_default": {"inputs": [{"name": "features", "datatype": "FP32", "shape": [-1, 64]}], "outputs": [...]}, ...}

It is the member `signatures` of REST's metadata. gRPC has its JSON text in two places that its clients can carry:
`parameters["signatures"]` of ModelMetadataResponse, as MLServer has that field, and of Triton's ModelConfig.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from services.errors import InvalidArgument
from services.tensors import DEFAULT_SIGNATURE, DYNAMIC, Signature, TensorSpec

SIGNATURE_NAME = "signature_name"
"""The request parameter."""
SIGNATURES = "signatures"
"""Where the metadata has the description."""


_NO_TENSORS = Signature((), ())


def default_of(signatures: Mapping[str, Signature]) -> Signature:
    """The signature whose tensors metadata has in its usual place; none of a model without `serving_default`."""
    return signatures.get(DEFAULT_SIGNATURE, _NO_TENSORS)


def describe_tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Tensors as metadata has them; an unknown rank is told as one variable axis, as the protocol has no word for it."""
    return [
        {"name": spec.name, "datatype": spec.dtype.oip, "shape": (DYNAMIC,) if spec.shape is None else spec.shape}
        for spec in specs
    ]


def describe_signatures(signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """The description of all signatures; empty where there is `serving_default` alone."""
    if len(signatures) == 1 and DEFAULT_SIGNATURE in signatures:
        return {}
    return {
        key: {"inputs": describe_tensors(signature.inputs), "outputs": describe_tensors(signature.outputs)}
        for key, signature in signatures.items()
    }


def signatures_text(signatures: Mapping[str, Signature]) -> str:
    """`describe_signatures` as a JSON text, '' where it is empty."""
    described = describe_signatures(signatures)
    return orjson.dumps(described).decode() if described else ""


def chosen_signature(value: Any) -> str:
    """The signature that the parameter's value names; '' and no value mean `serving_default`. Raises InvalidArgument."""
    if value is None or value == "":
        return DEFAULT_SIGNATURE
    if type(value) is not str:
        raise InvalidArgument(f"Expected the parameter {SIGNATURE_NAME} to be a string. Received: {value!r:.60}.")
    return value
