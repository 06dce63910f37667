"""What is recognised by its bytes is what the parser would have read, whatever the message looks like."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import CornetError
from services.protocols import oip_grpc, tfs_grpc
from services.protocols.forms import Form, Forms, oip_values, tfs_values
from services.protocols.messages import ModelInferRequest, PredictRequest

VARINT, DELIMITED = 0, 2


def varint(value: int, *, padding: int = 0) -> bytes:
    """A varint; `padding` writes it longer than it need be."""
    groups = []
    while value >= 0x80 or padding:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
        padding = max(0, padding - 1) if value < 0x80 else padding
    return bytes([*groups, value])


def field(number: int, payload: bytes | int, padding: int = 0) -> bytes:
    if isinstance(payload, int):
        return varint(number << 3 | VARINT) + varint(payload, padding=padding)
    return varint(number << 3 | DELIMITED) + varint(len(payload), padding=padding) + payload


def oip(data: bytes) -> Any:
    infer = oip_grpc.decode_infer(data)
    return infer.request, infer.id, infer.timeout_us


def tfs(data: bytes) -> Any:
    return tfs_grpc.decode_predict(data), "", 0


DIALECTS = {"oip": (oip, oip_values), "tfs": (tfs, tfs_values)}


def infer_message(**more: Any) -> bytes:
    message = ModelInferRequest(model_name="m", **more)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(np.arange(4, dtype=np.float32).tobytes())
    return message.SerializeToString()


def predict_message(field_name: str = "tensor_content", dtype: int = 1, **more: Any) -> bytes:
    message = PredictRequest(**more)
    message.model_spec.name = "m"
    tensor = message.inputs["x"]
    tensor.dtype = dtype
    for size in (1, 4):
        tensor.tensor_shape.dim.add(size=size)
    values = np.arange(4, dtype=np.float32 if dtype == 1 else np.float64)
    if field_name == "tensor_content":
        tensor.tensor_content = values.tobytes()
    else:
        getattr(tensor, field_name).extend(values.tolist())
    return message.SerializeToString()


def learnt(dialect: str, *messages: bytes) -> Forms:
    decode, locate = DIALECTS[dialect]
    forms = Forms(locate)
    for data in messages:
        try:
            request, request_id, timeout_us = decode(data)
        except CornetError:
            continue
        if timeout_us:  # counts from when it is read: the front end does not have such a message learnt
            continue
        forms.learn(data, request)
        if forms.match(data) is not None:
            assert (request_id, timeout_us) == ("", 0)
    return forms


def expect_same(dialect: str, form: Form, data: bytes) -> None:
    """The full parser reads the message as its form says."""
    request, request_id, timeout_us = DIALECTS[dialect][0](data)
    known = form.request
    assert (request_id, timeout_us) == ("", 0)
    for name in ("model", "version", "label", "signature", "outputs", "deadline"):
        assert getattr(request, name) == getattr(known, name)
    assert list(request.inputs) == list(known.inputs)
    for name, array in request.inputs.items():
        assert array.dtype == known.inputs[name].dtype
        assert array.shape == known.inputs[name].shape
        expect_same_values(array, data[form.start : form.stop])


def expect_same_values(array: np.ndarray, data: bytes) -> None:
    """Bit for bit, but for NaNs: as Python's floats, which the parser may pass on, signalling ones turn quiet."""
    values = np.frombuffer(data, array.dtype).reshape(array.shape)
    known = ~np.isnan(array)
    np.testing.assert_array_equal(known, ~np.isnan(values))
    assert array[known].tobytes() == values[known].tobytes()


# Parts that valid and odd messages are put together from.

padding = st.sampled_from([0, 0, 0, 1])
SIXTEEN = (np.zeros(4, np.float32).tobytes(), np.arange(4, dtype=np.float32).tobytes())
values = st.sampled_from([*SIXTEEN * 4, bytes(8), b"", b"\x0a"])
unknown = st.builds(field, st.sampled_from([9, 15, 40]), st.one_of(st.integers(0, 300), st.binary(max_size=4)))


def mixed(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Fields as written by others: some missing, some twice, in any order, unknown ones between; mostly none of that."""
    straight = st.tuples(*parts).map(b"".join)
    odd = st.lists(st.one_of(*parts, unknown), max_size=len(parts) + 2).map(b"".join)
    return st.integers(0, 9).flatmap(lambda luck: odd if luck == 0 else straight)


def delimited(number: int, payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(field, st.just(number), payload, padding)


oip_input = mixed(
    st.just(field(1, b"x")),
    st.sampled_from([field(2, b"FP32"), field(2, b"FP64"), field(2, b"BYTES")]),
    st.sampled_from([field(3, b"\x01\x04"), field(3, 1) + field(3, 4), field(3, b"\x02\x01"), field(3, b"\x04")]),
)
oip_typed_input = mixed(
    st.just(field(1, b"x") + field(2, b"FP32") + field(3, b"\x04")),
    delimited(5, mixed(delimited(6, values), st.sampled_from([b"", field(7, bytes(16))]))),
)
oip_messages = mixed(
    st.sampled_from([field(1, b"m"), field(1, b"other"), b""]),
    st.sampled_from([field(2, b"3"), b"", b"", b""]),
    st.sampled_from([b"", b"", b"", field(3, b"id"), field(4, field(1, b"timeout") + field(2, field(2, 7)))]),
    delimited(5, st.one_of(oip_input, oip_typed_input)),
    st.sampled_from([b"", b"", field(6, field(1, b"y"))]),
    st.one_of(delimited(7, values), delimited(7, values), st.just(b"")),
)

tensor = mixed(
    st.sampled_from([field(1, 1), field(1, 1), field(1, 2)]),
    st.sampled_from([field(2, field(2, field(1, 4))), field(2, field(2, field(1, 1)) + field(2, field(1, 4)))]),
    st.one_of(*(delimited(number, values) for number in (4, 4, 5, 6))),
)
tfs_messages = mixed(
    st.sampled_from([field(1, field(1, b"m")), field(1, field(1, b"m") + field(2, field(1, 3))), b""]),
    delimited(2, mixed(st.just(field(1, b"x")), delimited(2, tensor))),
    st.sampled_from([b"", b"", field(3, b"y")]),
)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Some messages to learn, and others that differ from them by a little."""
    originals = draw(st.lists(messages, min_size=1, max_size=4))
    others = []
    for data in originals:
        other_values = draw(st.binary(min_size=16, max_size=16))
        changed = bytearray(data.replace(SIXTEEN[0], other_values).replace(SIXTEEN[1], other_values))
        for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
            if changed:
                changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        if changed and draw(st.integers(0, 3)) == 0:
            at = draw(st.integers(0, len(changed) - 1))
            step = draw(st.integers(1, 4))
            changed[at : at + step] = changed[at : at + step][::-1]
        others.append(bytes(changed))
    return originals, others


@settings(max_examples=200, deadline=None)
@given(drawn=mutated(oip_messages))
def test_an_infer_request_is_recognised_as_what_it_is_or_not_at_all(drawn: tuple[list[bytes], list[bytes]]):
    recognised_only_as_parsed("oip", *drawn)


@settings(max_examples=200, deadline=None)
@given(drawn=mutated(tfs_messages))
def test_a_predict_request_is_recognised_as_what_it_is_or_not_at_all(drawn: tuple[list[bytes], list[bytes]]):
    recognised_only_as_parsed("tfs", *drawn)


def recognised_only_as_parsed(dialect: str, originals: list[bytes], others: list[bytes]) -> None:
    forms = learnt(dialect, *originals)
    for data in (*originals, *others):
        form = forms.match(data)
        if form is not None:
            expect_same(dialect, form, data)


@pytest.mark.parametrize(
    ("dialect", "data"),
    [
        ("oip", infer_message()),
        ("oip", infer_message(model_version="3")),
        ("oip", infer_message(outputs=[{"name": "y"}])),
        ("oip", infer_message(parameters={"priority": {"int64_param": 5}})),
        ("tfs", predict_message()),
        ("tfs", predict_message("float_val")),
        ("tfs", predict_message("double_val", 2)),
        ("tfs", predict_message(output_filter=["y"])),
    ],
)
def test_other_values_in_a_message_seen_before_are_recognised(dialect: str, data: bytes):
    forms = learnt(dialect, data)
    form = forms.match(data)
    assert form is not None
    other = data[: form.start] + bytes(range(form.stop - form.start)) + data[form.stop :]
    assert forms.match(other) is form
    expect_same(dialect, form, other)


def test_an_id_which_changes_with_every_request_is_left_to_the_parser():
    data = infer_message(id="7")
    assert learnt("oip", data).match(data) is None


@pytest.mark.parametrize(("datatype", "values"), [("BYTES", b"\x01\0\0\0a"), ("BOOL", b"\x05")])
def test_values_that_are_checked_or_changed_in_reading_are_left_to_the_parser(datatype: str, values: bytes):
    message = ModelInferRequest(model_name="m", raw_input_contents=[values])
    message.inputs.add(name="x", datatype=datatype, shape=[1])
    data = message.SerializeToString()
    assert learnt("oip", data).match(data) is None


def test_a_value_that_is_repeated_up_to_the_shape_is_left_to_the_parser():
    message = PredictRequest()
    message.model_spec.name = "m"
    message.inputs["x"].dtype = 1
    message.inputs["x"].tensor_shape.dim.add(size=4)
    message.inputs["x"].float_val.append(1.0)
    data = message.SerializeToString()
    assert learnt("tfs", data).match(data) is None


def test_values_in_the_field_of_another_type_are_not_taken_for_the_zeros_that_stand_for_them():
    spec, entry = field(1, field(1, b"m")), field(1, 1) + field(2, field(2, field(1, 2)))
    data = spec + field(2, field(1, b"x") + field(2, entry + field(6, bytes(8))))
    request, *_ = tfs(data)
    assert request.inputs["x"].tolist() == [0, 0]
    assert learnt("tfs", data).match(data) is None


@given(
    request_id=st.one_of(st.text(max_size=140), st.sampled_from(["7", "x" * 127, "x" * 128])),
    version=st.sampled_from(["", "3"]),
)
def test_a_message_is_recognised_without_its_id_where_that_is_plain(request_id: str, version: str):
    forms = learnt("oip", infer_message(model_version=version))
    data = infer_message(model_version=version, id=request_id)
    id_at = oip_grpc.id_field(data)
    if not request_id.isascii() or not 0 < len(request_id) < 128:
        assert id_at is None
        return
    assert id_at is not None
    first, last = id_at
    assert data[first + 2 : last].decode() == request_id
    form = forms.match_without(data, first, last)
    assert form is not None
    assert forms.match(data[:first] + data[last:]) is form
    assert forms.match_without(data[:-1] + b"\x07", first, last) is form
    assert forms.match_without(b"\x0a\x01n" + data[3:], first, last) is None


def test_a_second_id_is_not_overlooked():
    forms = learnt("oip", infer_message())
    data = infer_message(id="first") + field(3, b"second")
    first, last = oip_grpc.id_field(data) or (0, 0)
    assert forms.match_without(data, first, last) is None


def test_a_message_that_ends_within_its_id_has_none():
    data = infer_message(id="abc")
    for length in range(len(data)):
        assert oip_grpc.id_field(data[:length]) is None or length > 8


def test_the_number_of_forms_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.protocols.forms._MOST_FORMS", 4)
    messages = [infer_message().replace(b"m", bytes([letter]), 1) for letter in b"abcdefghi"]
    forms = learnt("oip", *messages)
    assert sum(forms.match(data) is not None for data in messages) <= 4
    assert forms.match(messages[-1]) is not None


def test_the_places_tried_for_one_length_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.protocols.forms._MOST_PLACES", 2)
    messages = [field(15, bytes(size)) + predict_message() + field(15, bytes(12 - size)) for size in range(12)]
    forms = learnt("tfs", *messages)
    assert [forms.match(data) is not None for data in messages] == [True] * 2 + [False] * 10
