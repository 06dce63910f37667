"""A request that is found again by its unchanging text is understood as one that is read whole."""

import json
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import CornetError
from services.protocols import oip_rest, oip_rest_request

VALUES = st.one_of(
    st.lists(st.one_of(st.integers(-5, 5), st.floats(), st.booleans(), st.none(), st.text(max_size=3)), max_size=4),
    st.lists(st.lists(st.floats(-1, 1), min_size=2, max_size=2), max_size=3),
    st.just([{"b64": "AA=="}]),
    st.just({"data": [1.0, 2.0]}),
    st.just("]}"),
)
TEXTS = st.sampled_from(["", "a", '"data":[1]', "}", '\\"data"', "[", "é"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Requests of one or two inputs, right and wrong, with text that looks like the place of the values."""
    tensor: dict[str, Any] = {"name": draw(st.sampled_from(["x", '"data":['])), "datatype": "FP32", "shape": [1, 2]}
    if draw(st.booleans()):
        tensor["parameters"] = {draw(TEXTS) or "p": draw(TEXTS), "data": [3.0, 4.0]}
    tensor["data"] = draw(VALUES)
    if draw(st.booleans()):
        tensor["more"] = draw(TEXTS)
    document: dict[str, Any] = {"id": draw(TEXTS), "inputs": [tensor] * draw(st.sampled_from([1, 1, 1, 2]))}
    if draw(st.booleans()):
        document["outputs"] = [{"name": "y"}]
    text = json.dumps(document, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    cut = draw(st.sampled_from([0, 0, 0, 1]))
    return text.encode()[: len(text) - cut]


def understood(body: bytes, header_length: int | None = None) -> object:
    """All that a decoded request says, or the error."""
    try:
        infer = oip_rest.decode_infer(body, header_length, model="m", version=1, now_s=5.0)
    except CornetError as error:
        return type(error), str(error)
    inputs = {name: (a.dtype, a.shape, a.tobytes()) for name, a in infer.request.inputs.items()}
    return inputs, infer.request.outputs, infer.request.deadline, infer.id, infer.binary, infer.binary_default


def whole(body: bytes, header_length: int | None = None) -> object:
    """`understood`, with the request read whole."""
    with patch.object(oip_rest_request, "_LONGEST_FORM", -1):
        return understood(body, header_length)


@given(body=bodies())
def test_any_json_request_is_understood_as_if_it_were_read_whole(body):
    assert understood(body) == understood(body) == whole(body)


def body_of(data: object, **more: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": data}], **more}).encode()


def test_requests_of_one_form_have_values_of_their_own():
    answers = [understood(body_of([float(i), 2.0])) for i in range(3)]
    assert [answer[0]["x"][2] for answer in answers] == [np.array([i, 2], "<f4").tobytes() for i in range(3)]


def test_a_wrong_value_does_not_spoil_the_form():
    assert understood(body_of([1.0, 2.0])) == whole(body_of([1.0, 2.0]))
    assert understood(body_of([1.0, "a"])) == whole(body_of([1.0, "a"]))
    assert understood(body_of([1.0, 2.0])) == whole(body_of([1.0, 2.0]))


@pytest.mark.parametrize("text", ["NaN", "[1.0, NaN]", "[1.0 2.0]", "[1.0, 2.0", "[1.0, 2.0]]", ""])
def test_values_that_are_no_json_are_refused_in_the_same_words(text):
    body = body_of([1.0, 2.0]).replace(b"[1.0, 2.0]", text.encode())
    understood(body_of([1.0, 2.0]))
    assert understood(body) == whole(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1],"data":[2]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],"inputs":[]}',
        b'{"id":"\\"data\\":[","inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}',
        b'{"data":[7],"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}',
    ],
)
def test_text_that_looks_like_the_values_is_not_taken_for_them(body):
    assert understood(body) == understood(body) == whole(body)


def test_the_deadline_counts_from_each_request():
    body = body_of([1.0, 2.0], parameters={"timeout": 2_000_000})
    later = oip_rest.decode_infer(body, None, model="m", version=1, now_s=100.0)
    assert (understood(body)[2], later.request.deadline) == (7.0, 102.0)


def test_a_json_head_is_found_again_and_its_tensors_read_anew():
    head = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[1],"parameters":{"binary_data_size":4}}]}'
    for tail in (b"\x01\0\0\0", b"\x02\0\0\0", b"\x01\0", b"\x01\0\0\0\0"):
        assert understood(head + tail, len(head)) == whole(head + tail, len(head))
