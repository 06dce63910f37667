"""JSON text to Python values: fast where it is plain, exact where it is not.

orjson reads what standard JSON has. TensorFlow Serving's dialect also has the tokens NaN, Infinity and -Infinity; only a
body that orjson refuses and that holds one of them is read again by the tolerant parser. Both parsers bound their depth,
so that a body of brackets is refused, not a crash.
"""

import json
import re
from typing import Any, NoReturn

import orjson

from services.errors import InvalidArgument

_KEY = re.compile(rb'"\s*:')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NOT_FINITE = re.compile(r"-?(?:NaN|Infinity)")

_TEXTS = {
    "unexpected character, expected a JSON value": "Invalid value.",
    "unexpected content after document": "The document root must not be followed by other values.",
    "depth limit exceeded": "The document is nested too deeply.",
    "number is infinity when parsed as double": "Number too big to be stored in double.",
}
"""orjson's words to RapidJSON's, which TensorFlow Serving and Triton answer with."""


class _DuplicateKeyError(ValueError):
    pass


def parse_object(body: bytes | memoryview, *, allow_not_finite: bool) -> dict[str, Any]:
    """The JSON object in `body`.

    Raises InvalidArgument, with the offset in characters (in bytes where the body is no UTF-8), for what is no JSON, no
    object, or has a key twice in one object: which of the two values counts is nowhere agreed. `allow_not_finite` also
    reads NaN, Infinity and -Infinity.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        document = _parse_again(bytes(body), error, allow_not_finite=allow_not_finite)
    if type(document) is not dict:
        raise InvalidArgument(f"JSON Value: {describe(document)} Is not object")
    if len(_KEY.findall(body)) != _count_keys(document):
        _refuse_duplicates(body)
    return document


def describe(value: Any, limit: int = 256) -> str:
    """A JSON value as text for a message, cut to about `limit` characters; never walks more than it prints."""
    text = "".join(_pieces(value, limit))
    return text if len(text) <= limit else text[:limit] + "..."


def _parse_again(body: bytes, error: orjson.JSONDecodeError, *, allow_not_finite: bool) -> Any:
    """What orjson refused: the tolerant parser's reading of it, or the reason in the words clients know."""
    if not body.strip():
        raise InvalidArgument("JSON Parse error: The document is empty. at offset: 0")
    try:
        text = body.decode()
    except UnicodeDecodeError as wrong:
        raise InvalidArgument(f"JSON Parse error: Invalid encoding in string. at offset: {wrong.start}") from None
    start = error.pos - 1 if text[error.pos - 1 : error.pos] == "-" else error.pos
    token = _NOT_FINITE.match(text, start)
    if token is None:
        _refuse(error.msg, error.pos)
    if not allow_not_finite:
        raise InvalidArgument(
            f"JSON Parse error: Invalid value. at offset: {start}. Standard JSON has no {token[0]}: expected a finite "
            f"number, or the tensor as binary data."
        )
    try:
        document = json.loads(text)
        surrogate = _SURROGATE.search(text)
        if surrogate is not None:  # unlike orjson, this parser lets half a pair pass, which is no text
            json.dumps(document, ensure_ascii=False).encode()
        return document
    except UnicodeEncodeError:
        _refuse("Invalid surrogate pair in string", surrogate.start() if surrogate else start)
    except json.JSONDecodeError as wrong:
        _refuse(wrong.msg, wrong.pos)
    except RecursionError:
        _refuse("depth limit exceeded", error.pos)
    except ValueError:  # an integer of more digits than Python converts
        _refuse("Number too big", error.pos)


def _refuse(message: str, position: int) -> NoReturn:
    message = message.partition(": line ")[0]
    raise InvalidArgument(f"JSON Parse error: {_TEXTS.get(message, message + '.')} at offset: {position}") from None


def _count_keys(document: dict[str, Any]) -> int:
    """The keys of the objects that are found without reading every number: a lower bound of all."""
    count = 0
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        if type(value) is dict:
            count += len(value)
            pending += [item for item in value.values() if type(item) in (dict, list)]
        elif value and type(value[0]) is dict:
            pending += [item for item in value if type(item) is dict]
    return count


def _refuse_duplicates(body: bytes | memoryview) -> None:
    """Read the body once more and raise InvalidArgument where an object has a key twice."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(key)
            seen.add(key)

    text = bytes(body).decode()
    try:
        json.loads(text, object_pairs_hook=check)
    except _DuplicateKeyError as error:
        raise InvalidArgument(f"JSON Parse error: Duplicate key {describe(str(error))} in an object.") from None
    except (RecursionError, ValueError):  # orjson took it: deeper, or with longer integers, than this parser goes
        return


def _pieces(value: Any, limit: int) -> list[str]:
    """The text of a value in pieces, stopping soon after `limit` characters."""
    pieces: list[str] = []
    length = 0
    pending: list[Any] = [(value, False)]
    while pending and length <= limit:
        item, is_text = pending.pop()
        if is_text:
            piece = item
        elif type(item) is list:
            pending.append(("]", True))
            shown = [part for element in item[: limit // 2] for part in ((",", True), (element, False))]
            pending += reversed(shown[1:])
            piece = "["
        elif type(item) is dict:
            pending.append(("}", True))
            shown = [
                part
                for key, element in list(item.items())[: limit // 2]
                for part in ((",", True), (json.dumps(key[:limit], ensure_ascii=False) + ":", True), (element, False))
            ]
            pending += reversed(shown[1:])
            piece = "{"
        elif type(item) is str:
            piece = json.dumps(item[: limit + 1], ensure_ascii=False)
        else:
            piece = json.dumps(item)
        pieces.append(piece)
        length += len(piece)
    return pieces
