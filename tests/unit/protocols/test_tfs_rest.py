"""TensorFlow Serving's REST bodies: what is read, what is written, what is refused with which words."""

import base64
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from services.errors import InvalidArgument, ModelNotReady
from services.protocols import tfs_rest
from services.tensors import BY_NAME, DTYPES, Signature, TensorSpec

QUICK = settings(deadline=None, max_examples=40)


def spec(name: str, dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, BY_NAME[dtype], shape)


def signature(*specs: TensorSpec) -> Signature:
    return Signature(specs, ())


ONE = signature(spec("x", "float32", -1, 2))
INTS = signature(spec("default", "int32", -1))
TWO = signature(spec("int_tensor", "int32", -1, -1, -1), spec("str_tensor", "string", -1, -1))
TEXT = signature(spec("text", "string", -1))


def decode(body: str, declared: Signature) -> tfs_rest.Predict:
    document, _ = tfs_rest.parse_predict(body.encode())
    return tfs_rest.decode_predict(document, declared)


def as_json(body: bytes) -> object:
    return json.loads(body)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("row_format", [True, False])
@QUICK
@given(data=st.data())
def test_every_element_type_makes_the_round_trip(dtype, row_format, data):
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    if dtype.is_string:
        array = data.draw(npst.arrays(object, shape, elements=st.binary(max_size=8)))
    else:
        array = data.draw(npst.arrays(dtype.numpy, shape))
    name = "x_bytes"
    answer = tfs_rest.encode_predict({name: array}, row_format=row_format)
    key, back = ("predictions", "instances") if row_format else ("outputs", "inputs")
    body = answer.replace(f'"{key}"'.encode(), f'"{back}"'.encode(), 1).decode()
    predict = decode(body, signature(TensorSpec(name, dtype, None)))
    assert predict.row_format is row_format
    assert predict.inputs[name].dtype == dtype.numpy
    np.testing.assert_array_equal(predict.inputs[name], array)


@pytest.mark.parametrize(
    ("body", "declared", "want"),
    [
        ('{"instances": [[1, 2], [3, 4]]}', ONE, {"x": [[1, 2], [3, 4]]}),
        ('{"instances": [1, 2.0, 5.003]}', ONE, {"x": np.array([1, 2, 5.003], np.float32).tolist()}),
        ('{"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}', ONE, {"x": [[1, 2], [3, 4]]}),
        ('{"inputs": [[1, 2]]}', ONE, {"x": [[1, 2]]}),
        ('{"inputs": 5}', ONE, {"x": 5}),
        ('{"inputs": {"x": [[1, 2]], "other": 1}}', ONE, {"x": [[1, 2]]}),
        ('{"instances": [NaN, Infinity, -Infinity]}', ONE, {"x": [math.nan, math.inf, -math.inf]}),
        ('{"instances": [1435774380]}', ONE, {"x": [1435774336]}),
        ('{"instances": [1.7976931348623157e308]}', ONE, {"x": [math.inf]}),
        ('{"instances": [2.2250738585072014e-308]}', ONE, {"x": [0]}),
        ('{"instances": ["a", {"b64": "aGk="}]}', TEXT, {"text": [b"a", b"hi"]}),
        ('{"instances": [[{"b64": "aGk="}], ["é"]]}', TEXT, {"text": [[b"hi"], [b"\xc3\xa9"]]}),
        ('{"instances": [{"text": {"b64": "aGk="}}]}', TEXT, {"text": [b"hi"]}),
        ('{"inputs": {"b64": "aGk="}}', TEXT, {"text": b"hi"}),
        (
            '{"instances": [{"int_tensor": [[1, 2]], "str_tensor": ["a"]}, {"str_tensor": ["b"], "int_tensor": [[3, 4]]}]}',
            TWO,
            {"int_tensor": [[[1, 2]], [[3, 4]]], "str_tensor": [[b"a"], [b"b"]]},
        ),
        (
            '{"inputs": {"int_tensor": [[[1]]], "str_tensor": [["a"]]}}',
            TWO,
            {"int_tensor": [[[1]]], "str_tensor": [[b"a"]]},
        ),
        ('{"signature_name": "", "instances": [1], "note": {"a": [1]}}', ONE, {"x": [1]}),
    ],
)
def test_bodies_that_are_read(body, declared, want):
    inputs = decode(body, declared).inputs
    assert inputs.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(inputs[name], np.array(value, inputs[name].dtype))


@pytest.mark.parametrize(
    ("body", "declared", "words"),
    [
        ("", INTS, ["JSON Parse error: The document is empty"]),
        ("instances = [1, 2]", INTS, ["JSON Parse error: Invalid value"]),
        ('{"signature_name": 5, "instances": [1]}', INTS, ["'signature_name' key must be a string value."]),
        ('{"signature_name": null, "instances": [1]}', INTS, ["'signature_name' key must be a string value."]),
        ('{"instances": [1], "inputs": [1]}', INTS, ["Not formatted correctly", "only one of 'inputs' or 'instances'"]),
        ('{"inputz": [1]}', INTS, ["Missing 'inputs' or 'instances' key"]),
        ('{"instances": 5}', INTS, ["'instances' to be an list/array"]),
        ('{"instances": []}', INTS, ["No values in 'instances' array"]),
        (
            '{"instances": [[1,2],[3,4],[5,6,7]]}',
            INTS,
            ["Expecting tensor size: 2 but got: 3", "element: 2", '"default"'],
        ),
        ('{"instances": [[1,2],[3,4],[[5,6]]]}', INTS, ["Expecting shape [2] but got: [1,2]"]),
        ('{"instances": [1, [1]]}', INTS, ["Expecting shape [] but got: [1]"]),
        ('{"instances": [[1,2],["a","b"]]}', INTS, ['JSON Value: "a" Type: String is not of expected type: int32']),
        ('{"instances": ["x", "y"]}', ONE, ["not of expected type: float", '"x": float32 [-1, 2]']),
        ('{"instances": [1.5]}', INTS, ["JSON Value: 1.5 Type: Number is not of expected type: int32"]),
        ('{"instances": [true]}', ONE, ["JSON Value: true Type: True is not of expected type: float"]),
        ('{"instances": [null]}', ONE, ["JSON Value: null Type: Null is not of expected type: float"]),
        ('{"instances": [{"b64": "aGk="}]}', ONE, ["Type: Object is not of expected type: float"]),
        ('{"instances": [99999999999999999999]}', INTS, ["not of expected type: int32"]),
        (
            '{"instances": [[[1, 2], [3]]]}',
            ONE,
            ["Encountered list at unexpected size: 1 at level: 1 expected size: 2"],
        ),
        ('{"instances": [[1, [2]]]}', ONE, ["Encountered list at unexpected level: 1 expected < 1"]),
        ('{"instances": [[[1], 2]]}', ONE, ["JSON Value: 2 found at incorrect level: 2", "Expected at level: 2"]),
        ('{"instances": [1, {"x": 2}]}', ONE, ["Expecting value/list but got object at item 1 of input list"]),
        ('{"instances": [{"x": 2}, 1]}', ONE, ["Expecting object but got list at item 1 of input list"]),
        ('{"instances": [{"y": 2}]}', ONE, ["element: 0 key: y", "does not have named input: y", "Expected: x"]),
        ('{"instances": [{"int_tensor": [[1]]}]}', TWO, ["keys must be equal to: int_tensor,str_tensor"]),
        ('{"instances": [{"int_tensor": [[1]], "str_tensor": ["a"], "z": 1}]}', TWO, ["does not have named input: z"]),
        ('{"instances": [1]}', TWO, ["instances is a plain list, but expecting list of objects"]),
        ('{"inputs": [1]}', TWO, ["inputs is a plain value/list, but expecting an object"]),
        ('{"inputs": {"int_tensor": [[[1]]]}}', TWO, ["Missing named input: str_tensor in 'inputs' object."]),
        ('{"inputs": [[1, 2], [3]]}', ONE, ["Encountered list at unexpected size: 1", '"x": float32']),
        ('{"inputs": [["a", 2]]}', ONE, ["not of expected type: float"]),
        ('{"instances": [{"b64": "*"}]}', TEXT, ["Unable to base64 decode"]),
        ('{"instances": [{"b64": 5}]}', TEXT, ["does not have named input: b64"]),
        ('{"instances": [[{"c": "d"}]]}', TEXT, ["not formatted correctly for base64 data"]),
        ('{"instances": [1]}', TEXT, ["not of expected type: string"]),
        ('{"instances": ' + "[" * 40 + "1" + "]" * 40 + "}", ONE, ["at most 32 levels of lists"]),
        ('{"instances": [300]}', signature(spec("x", "uint8", -1)), ["not of expected type: uint8"]),
        ('{"instances": [1]}', signature(), ["Failed to get input map for signature"]),
    ],
)
def test_bodies_that_are_refused(body, declared, words):
    with pytest.raises(InvalidArgument) as caught:
        decode(body, declared)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("body", "declared", "words"),
    [
        (
            {"instances": [[1, 2]] * 5000 + [[1]]},
            ONE,
            "element: 5000 of 'instances' list. Error: INVALID_ARGUMENT: Expecting",
        ),
        (
            {"instances": [1] * 5000 + ["a"]},
            INTS,
            "element: 5000 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: \"a\"",
        ),
        ({"instances": [{"x": 1}] * 5000 + [{"x": [1]}]}, ONE, "element: 5000 key: x of 'instances' list."),
        ({"instances": [{"x": 1}] * 5000 + [1]}, ONE, "Expecting object but got list at item 5000 of input list"),
        ({"instances": [1] * 5000 + [{"x": 1}]}, ONE, "Expecting value/list but got object at item 5000 of input list"),
        ({"inputs": [[1] * 3000] * 2 + [[1] * 2999 + [True]]}, ONE, "JSON Value: true Type: True"),
    ],
)
def test_what_is_wrong_far_into_a_body_is_found(body, declared, words):
    with pytest.raises(InvalidArgument) as caught:
        decode(json.dumps(body), declared)
    assert words in str(caught.value)


def test_a_refusal_stays_short_whatever_was_sent():
    with pytest.raises(InvalidArgument) as caught:
        decode(json.dumps({"instances": [["a" * 100_000] * 100]}), ONE)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("outputs", "row_format", "text"),
    [
        ({"y": np.array([1, 2], np.int32)}, True, '{"predictions":[1,2]}'),
        ({"y": np.array([[1, 2]], np.float32)}, True, '{"predictions":[[1.0,2.0]]}'),
        (
            {"y": np.array([9e6, 999999, 0.5, 3e-5], np.float32)},
            True,
            '{"predictions":[9000000.0,999999.0,0.5,0.00003]}',
        ),
        ({"y": np.array([np.nan, -np.inf], np.float32)}, True, '{"predictions":[NaN,-Infinity]}'),
        ({"y": np.array(5, np.int32)}, False, '{"outputs":5}'),
        ({"y": np.array([[1]], np.int64)}, False, '{"outputs":[[1]]}'),
        ({"y": np.array([b"a", b"b"], object)}, True, '{"predictions":["a","b"]}'),
        ({"y_bytes": np.array([b"hi"], object)}, True, '{"predictions":[{"b64":"aGk="}]}'),
        ({"y_bytes": np.array([[b"hi"]], object)}, False, '{"outputs":[[{"b64":"aGk="}]]}'),
        ({"y": np.zeros((0, 2), np.float32)}, True, '{"predictions":[]}'),
        (
            {"a": np.array([1.5, np.nan], np.float32), "b": np.array([[True], [False]])},
            True,
            '{"predictions":[{"a":1.5,"b":[true]},{"a":NaN,"b":[false]}]}',
        ),
        (
            {"a": np.array([[np.inf, 1], [2, 3]], np.float16), "s": np.array([[b"null"], [b"\xc3\xa9"]], object)},
            True,
            '{"predictions":[{"a":[Infinity,1.0],"s":["null"]},{"a":[2.0,3.0],"s":["é"]}]}',
        ),
        (
            {"a": np.array([1], np.uint8), "b": np.array([-np.inf], np.float64)},
            False,
            '{"outputs":{"a":[1],"b":[-Infinity]}}',
        ),
        ({"a": np.zeros((0,), np.int8), "b": np.zeros((0, 1), np.float16)}, True, '{"predictions":[]}'),
        (
            {"a": np.array([[1, 2], [3, 4]], np.int8).T, "b": np.arange(2, dtype=np.uint16)},
            True,
            '{"predictions":[{"a":[1,3],"b":0},{"a":[2,4],"b":1}]}',
        ),
        (
            {"a": np.arange(2, dtype=np.float16), "b": np.array([True, False])},
            True,
            '{"predictions":[{"a":0.0,"b":true},{"a":1.0,"b":false}]}',
        ),
    ],
)
def test_answers_are_written(outputs, row_format, text):
    assert tfs_rest.encode_predict(outputs, row_format=row_format).decode() == text


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({}, "empty tensor map"),
        ({"y": np.array(1, np.int32)}, "Tensor name: y has no shape information"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "Tensor name: b has inconsistent batch size: 3 expecting: 2"),
        ({"y": np.array([b"\xff"], object)}, 'Output "y": expected UTF-8'),
    ],
)
def test_answers_that_row_format_cannot_say(outputs, words):
    with pytest.raises(InvalidArgument, match=words):
        tfs_rest.encode_predict(outputs, row_format=True)


@QUICK
@given(st.binary())
def test_bytes_outputs_carry_any_bytes(value):
    answer = as_json(tfs_rest.encode_predict({"image_bytes": np.array([value], object)}, row_format=True))
    assert base64.b64decode(answer["predictions"][0]["b64"]) == value


def test_status_is_written_as_protobuf_prints_it():
    rows = [(2, "END", ModelNotReady("it broke")), (1, "AVAILABLE", None)]
    assert as_json(tfs_rest.encode_status(rows)) == {
        "model_version_status": [
            {
                "version": "2",
                "state": "END",
                "status": {"error_code": "FAILED_PRECONDITION", "error_message": "it broke"},
            },
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
        ]
    }


def test_metadata_is_written_as_protobuf_prints_it():
    declared = Signature((spec("x", "float32", -1, 2),), (TensorSpec("y", BY_NAME["string"], None),))
    answer = as_json(tfs_rest.encode_metadata("m", 2**60, {"serving_default": declared}))
    assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": str(2**60)}
    definition = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert definition["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
        "name": "x:0",
    }
    assert definition["outputs"]["y"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert definition["outputs"]["y"]["dtype"] == "DT_STRING"
