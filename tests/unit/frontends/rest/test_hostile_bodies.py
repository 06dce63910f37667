"""Whatever a body holds, the answer is an answer: never a fault of the server's."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

_KEYS = st.sampled_from(
    [
        *("instances", "inputs", "signature_name", "a", "b", "flag", "x", "b64", "outputs", "parameters", "id", "name"),
        *(
            "shape",
            "datatype",
            "data",
            "binary_data_size",
            "binary_data",
            "binary_data_output",
            "timeout",
            "left",
            "right",
        ),
    ]
)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["x", "FP32", "INT64", "BYTES", "BOOL", "FP16", "a", "b", "aGk=", "", "é"]),
    st.text(max_size=3),
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_TENSORS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["x", "a", "b", "flag", "left", "right"]) | _LEAVES,
            "shape": st.lists(st.integers(-2, 4), max_size=3) | _VALUES,
            "datatype": st.sampled_from(["FP32", "INT32", "BYTES", "BOOL", "FP16"]) | _LEAVES,
            "data": _VALUES,
            "parameters": st.dictionaries(_KEYS, _LEAVES, max_size=2) | _VALUES,
        },
    ),
    max_size=3,
)
_DOCUMENTS = st.one_of(
    _VALUES,
    st.fixed_dictionaries({"instances": _VALUES}),
    st.fixed_dictionaries(
        {"inputs": _TENSORS | _VALUES}, optional={"outputs": _TENSORS, "parameters": _VALUES, "id": _LEAVES}
    ),
)
_BODIES = _DOCUMENTS.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=60)
_TAILS = st.binary(max_size=12)


@pytest.mark.parametrize("model", ["floats", "multi", "strings", "halves", "a%20model"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(body=_BODIES)
def test_predict_answers_every_body(rest, model, body):
    answer = rest.post(f"/v1/models/{model}:predict", body)
    assert answer.status in (200, 400)
    assert answer.json.keys() & {"error", "predictions", "outputs"}


@pytest.mark.parametrize("model", ["floats", "multi", "strings", "halves", "a%20model"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(body=_BODIES, tail=_TAILS, told=st.booleans())
def test_infer_answers_every_body(rest, model, body, tail, told):
    headers = [(b"inference-header-content-length", str(len(body)).encode())] if told else []
    answer = rest.post(f"/v2/models/{model}/infer", body + (tail if told else b""), headers)
    assert answer.status in (200, 400, 501, 504)
    if answer.status != 200:
        assert answer.json.keys() == {"error"}
