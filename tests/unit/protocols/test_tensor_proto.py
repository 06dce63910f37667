"""TensorProto both ways: every element type, the rules of typed fields, and refusal of what contradicts itself."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.errors import InvalidArgument
from services.protocols import tensor_proto
from services.protocols.messages import TensorProto
from services.protocols.wire import delimited, tag
from services.tensors import BY_NAME, DTYPES, DType

PROPERTY = settings(deadline=None, max_examples=50)

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


def arrays(dtype: DType) -> st.SearchStrategy[np.ndarray]:
    if not dtype.is_string:
        return hnp.arrays(dtype.numpy, SHAPES)
    return hnp.arrays(object, SHAPES, elements=st.binary(max_size=300), fill=st.nothing())


def tensor(dtype: str, *shape: int, **fields: object):
    message = TensorProto(dtype=BY_NAME[dtype].tf_enum, **fields)
    for size in shape:
        message.tensor_shape.dim.add(size=size)
    return message


def assert_same(got: np.ndarray, want: np.ndarray) -> None:
    assert isinstance(got, np.ndarray)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@PROPERTY
@given(data=st.data())
def test_typed_fields_give_back_what_was_encoded(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype))
    assert_same(tensor_proto.decode(TensorProto.FromString(tensor_proto.encode(array)), "x"), array)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if not d.is_string], ids=lambda dtype: dtype.name)
@PROPERTY
@given(data=st.data())
def test_tensor_content_gives_back_the_bytes_of_the_array(dtype: DType, data: st.DataObject) -> None:
    array = data.draw(arrays(dtype))
    message = tensor(dtype.name, *array.shape, tensor_content=array.tobytes())
    assert_same(tensor_proto.decode(message, "x"), array)


@PROPERTY
@given(elements=st.lists(st.binary(max_size=300), min_size=1, max_size=8))
def test_strings_in_tensor_content_are_lengths_and_then_bytes(elements: list[bytes]) -> None:
    lengths = b"".join(
        bytes((len(e) & 0x7F | 0x80, len(e) >> 7)) if len(e) > 127 else bytes((len(e),)) for e in elements
    )
    message = tensor("string", len(elements), tensor_content=lengths + b"".join(elements))
    assert tensor_proto.decode(message, "x").tolist() == elements


@pytest.mark.parametrize("content", [b"\x05ab", b"\xff\xff\xff\xff\xff\xff", b"\x80", b"\x01ab"])
def test_strings_that_do_not_fit_their_tensor_content_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgument, match='Tensor "x": expected 1 varint'):
        tensor_proto.decode(tensor("string", 1, tensor_content=content), "x")


def test_tensor_content_is_not_copied() -> None:
    array = tensor_proto.decode(tensor("float32", 4, tensor_content=struct.pack("<4f", 1, 2, 3, 4)), "x")
    assert isinstance(array.base, bytes)
    assert not array.flags.writeable


def test_any_byte_but_zero_is_a_true_bool() -> None:
    array = tensor_proto.decode(tensor("bool", 3, tensor_content=b"\x00\x01\x07"), "x")
    assert array.view(np.uint8).tolist() == [0, 1, 1]


def test_halves_travel_as_bit_patterns() -> None:
    array = tensor_proto.decode(tensor("float16", 3, half_val=[0x3C00, 0xC000, 0x7C00]), "x")
    assert_same(array, np.array([1, -2, np.inf], np.float16))


@pytest.mark.parametrize(
    ("message", "want"),
    [
        (tensor("float32", 2, 2, float_val=[7]), np.full((2, 2), 7, np.float32)),
        (tensor("int64", 4, int64_val=[1, 2]), np.array([1, 2, 2, 2], np.int64)),
        (tensor("bool", 3, bool_val=[True]), np.array([True] * 3)),
        (tensor("string", 3, string_val=[b"a", b"b"]), np.array([b"a", b"b", b"b"], object)),
        (tensor("float16", 2, half_val=[0x3C00]), np.ones(2, np.float16)),
    ],
)
def test_the_last_value_is_repeated_up_to_the_shape(message, want: np.ndarray) -> None:
    assert_same(tensor_proto.decode(message, "x"), want)


@pytest.mark.parametrize(
    ("dtype", "default"), [("float32", 0.0), ("int8", 0), ("bool", False), ("string", b""), ("float16", 0.0)]
)
def test_a_tensor_without_values_holds_its_types_default(dtype: str, default: object) -> None:
    assert tensor_proto.decode(tensor(dtype, 2), "x").tolist() == [default, default]


def test_floats_that_are_not_packed_are_read_too() -> None:
    single = b"".join(tag(5, wire_type=5) + struct.pack("<f", value) for value in range(40))
    message = TensorProto.FromString(tensor("float32", 40).SerializeToString() + single)
    assert_same(tensor_proto.decode(message, "x"), np.arange(40, dtype=np.float32))


def test_floats_are_read_when_another_field_follows_them() -> None:
    values = np.arange(40, dtype=np.float32)
    message = tensor("float32", 40, float_val=values.tolist(), double_val=[1.0])
    assert_same(tensor_proto.decode(message, "x"), values)


def test_floats_that_lie_askew_in_their_message_are_aligned() -> None:
    message = TensorProto.FromString(tensor_proto.encode(np.arange(32.0)))
    assert message.SerializeToString().index(np.arange(32.0).tobytes()) % 8 != 0
    assert tensor_proto.decode(message, "x").flags.aligned


def test_fields_of_a_later_protocol_are_skipped() -> None:
    values = np.arange(40, dtype=np.float32)
    data = tensor_proto.encode(values) + delimited(tag(18), b"float8")
    assert_same(tensor_proto.decode(TensorProto.FromString(data), "x"), values)


@pytest.mark.parametrize("dtype", ["DT_BFLOAT16", "DT_COMPLEX64", "DT_RESOURCE", "DT_INVALID"])
def test_an_element_type_that_is_not_served_is_named(dtype: str) -> None:
    with pytest.raises(InvalidArgument, match=f"expected a dtype out of DT_FLOAT.*Received: {dtype}"):
        tensor_proto.decode(TensorProto(dtype=dtype), "x")


def test_an_element_type_out_of_the_enum_is_shown_as_its_number() -> None:
    with pytest.raises(InvalidArgument, match="Received: 4711"):
        tensor_proto.decode(TensorProto(dtype=4711), "x")


@pytest.mark.parametrize("shape", [(-1,), (2, -3), (2**62,), (2**40, 2**40), (0, 2**62), (1,) * 65])
def test_a_shape_that_cannot_be_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgument, match='Tensor "x": expected'):
        tensor_proto.decode(tensor("float32", *shape, float_val=[1]), "x")


def test_an_unknown_rank_is_refused() -> None:
    message = tensor("float32", float_val=[1])
    message.tensor_shape.unknown_rank = True
    with pytest.raises(InvalidArgument, match="unknown rank"):
        tensor_proto.decode(message, "x")


@pytest.mark.parametrize("dtype", ["float32", "string", "int8"])
def test_a_small_message_cannot_make_a_huge_tensor(dtype: str) -> None:
    with pytest.raises(InvalidArgument, match="to repeat the last value in"):
        tensor_proto.decode(tensor(dtype, 2**20, 2**10), "x")


def test_more_values_than_the_shape_holds_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"expected 2 values for shape \[2\]. Received: 3"):
        tensor_proto.decode(tensor("float32", 2, float_val=[1, 2, 3]), "x")


def test_a_byte_count_that_contradicts_the_shape_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"expected 8 bytes of float32 .* shape \[2\]. Received: 7"):
        tensor_proto.decode(tensor("float32", 2, tensor_content=b"1234567"), "x")


@pytest.mark.parametrize(("dtype", "value"), [("int8", 128), ("uint8", -1), ("uint16", 65536), ("int16", -40000)])
def test_a_value_out_of_its_types_range_is_refused(dtype: str, value: int) -> None:
    with pytest.raises(InvalidArgument, match=f"expected values of {dtype}. Received: {value}"):
        tensor_proto.decode(tensor(dtype, 1, int_val=[value]), "x")


def test_an_array_of_another_type_is_not_encoded() -> None:
    with pytest.raises(InvalidArgument, match="Received: complex64"):
        tensor_proto.encode(np.zeros(2, np.complex64))


def test_text_arrays_are_encoded_as_utf8() -> None:
    message = TensorProto.FromString(tensor_proto.encode(np.array(["é", "b"])))
    assert list(message.string_val) == ["é".encode(), b"b"]


def test_arrays_that_are_not_contiguous_are_encoded_in_row_major_order() -> None:
    array = np.arange(12, dtype=np.float16).reshape(3, 4).T
    assert_same(tensor_proto.decode(TensorProto.FromString(tensor_proto.encode(array)), "x"), array)
