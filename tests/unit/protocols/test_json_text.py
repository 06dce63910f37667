"""What JSON bodies are read, and what is said about those that are not."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import InvalidArgument
from services.protocols.json_text import describe, parse_object

QUICK = settings(deadline=None, max_examples=40)

DEEP = 500_000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"   ", "The document is empty"),
        (b"instances = [1, 2]", "Invalid value. at offset: 0"),
        (b'{"a": [1.0, }', "Invalid value. at offset: 12"),
        (b'{"a": 1} x', "The document root must not be followed by other values. at offset: 9"),
        (b'{"a": "\xff"}', "Invalid encoding in string. at offset: 7"),
        (b'{"a": [1,]}', "at offset: 8"),
        (b'{"a": 01}', "at offset: 6"),
        (b'{"a": 1e999}', "Number too big to be stored in double. at offset: 6"),
        (b'{"a": "\\ud800"}', "at offset: 7"),
        (b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
        (b'{"a": NaN, "b":' + b"[" * DEEP + b"]" * DEEP + b"}", "nested too deeply"),
        (b'{"a":' * DEEP, "nested too deeply"),
        (b"[" * DEEP, "nested too deeply"),
        (b'{"a": 1, "a": 2}', 'Duplicate key "a"'),
        (b'{"rows": [{"x": 1}, {"x": 1, "y": 2, "x": 3}]}', 'Duplicate key "x"'),
        (b'{"a": {"b": [[{"c": 1, "c": 1}]]}}', 'Duplicate key "c"'),
        (b"[1, 2]", "JSON Value: [1,2] Is not object"),
        (b"null", "JSON Value: null Is not object"),
        (b"5", "JSON Value: 5 Is not object"),
        (b'{"a": NaN', "JSON Parse error"),
        (b'{"a": NaN, "b": "\\ud83d"}', "Invalid surrogate pair in string. at offset: 17"),
        (b'{"a": [NaN, ' + b"9" * 5000 + b"]}", "Number too big"),
        (b'\xef\xbb\xbf{"a": 1}', "at offset: 0"),
    ],
)
def test_refused_bodies_say_why_and_where(body, message):
    with pytest.raises(InvalidArgument, match="JSON") as caught:
        parse_object(body, allow_not_finite=True)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("token", "value"), [("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf)])
def test_tokens_of_not_finite_numbers_are_read_where_allowed(token, value):
    parsed = parse_object(b'{"x": [1, %s]}' % token.encode(), allow_not_finite=True)["x"][1]
    assert parsed == value or (math.isnan(parsed) and math.isnan(value))


def test_escaped_characters_are_read_beside_tokens():
    assert parse_object(b'{"a": NaN, "b": "\\ud83d\\ude00"}', allow_not_finite=True)["b"] == "\U0001f600"


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
def test_tokens_are_refused_by_name_where_json_is_standard(token):
    with pytest.raises(InvalidArgument, match=f"no {token}.*binary"):
        parse_object(b'{"x": [1, %s]}' % token.encode(), allow_not_finite=False)


@pytest.mark.parametrize("body", [b'{"text": "a \\": b"}', b'{"": 1, " ": {"b64" :"x:"}}', b'{"a":{"b":[[{"c":1}]]}}'])
def test_what_looks_like_keys_in_strings_is_no_duplicate(body):
    assert parse_object(body, allow_not_finite=False) == json.loads(body)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@QUICK
@given(st.dictionaries(st.text(), _values, max_size=4))
def test_any_document_is_read_as_the_standard_library_reads_it(document):
    text = json.dumps(document)
    assert parse_object(text.encode(), allow_not_finite=True) == json.loads(text)


@QUICK
@given(_values)
def test_short_values_are_described_as_compact_json(value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert describe(value, limit=len(text)) == text


def test_a_long_value_is_cut():
    assert len(describe([[1.5] * 1000] * 1000)) == 259
    assert len(describe({"k" * 10_000: "v" * 10_000})) == 259


def test_a_deep_value_is_described_without_recursion():
    value: list = []
    for _ in range(100_000):
        value = [value]
    assert describe(value, limit=10) == "[" * 10 + "..."
