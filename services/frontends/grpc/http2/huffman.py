"""The Huffman code of HPACK (RFC 7541 5.2), decoded a byte at a time.

The code itself is the `hpack` package's table. A state is a node of its tree; what a byte does to a state is worked out
when it first happens and kept: 256 states and 256 bytes bound what is kept.
"""

from typing import TypeAlias

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_EOS = 256
_MAX_PADDING_BITS = 7

_Node: TypeAlias = "list[_Node | int | None]"


class HuffmanError(ValueError):
    """Not a string of the code: the end symbol inside, or padding that is too long or not of ones."""


class _State(dict[int, "tuple[_State, bytes] | None"]):
    """What each byte leads to from one node: the next state and the bytes it completes; None where it is an error."""

    __slots__ = ("may_end", "node")

    def __init__(self, node: _Node) -> None:
        super().__init__()
        self.node = node
        self.may_end = False

    def __missing__(self, byte: int) -> "tuple[_State, bytes] | None":
        node, emitted = self.node, bytearray()
        for shift in range(7, -1, -1):
            child = node[byte >> shift & 1]
            if isinstance(child, list):
                node = child
            elif child is None or child == _EOS:
                self[byte] = None
                return None
            else:
                emitted.append(child)
                node = _ROOT.node
        step = self[byte] = (_state(node), bytes(emitted))
        return step


def decode(data: bytes) -> bytes:
    """The string that `data` encodes. Raises HuffmanError."""
    state, parts = _ROOT, []
    for byte in data:
        step = state[byte]
        if step is None:
            raise HuffmanError("the end-of-string symbol is in the string")
        state, emitted = step
        parts.append(emitted)
    if not state.may_end:
        raise HuffmanError("the padding is not the beginning of the end-of-string symbol")
    return b"".join(parts)


def _tree() -> _Node:
    root: _Node = [None, None]
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        node = root
        for shift in range(length - 1, 0, -1):
            bit = code >> shift & 1
            child = node[bit]
            if not isinstance(child, list):
                child = node[bit] = [None, None]
            node = child
        node[code & 1] = symbol
    return root


def _state(node: _Node) -> _State:
    state = _STATES.get(id(node))
    if state is None:
        state = _STATES[id(node)] = _State(node)
    return state


_ROOT = _State(_tree())
_STATES: dict[int, _State] = {id(_ROOT.node): _ROOT}


def _allow_padding() -> None:
    """A string may end at the root, or after up to seven ones from there, as the end symbol begins."""
    node = _ROOT.node
    _ROOT.may_end = True
    for _ in range(_MAX_PADDING_BITS):
        child = node[1]
        if not isinstance(child, list):
            raise TypeError("every symbol of HPACK's code that is all ones is longer than the padding")
        node = child
        _state(node).may_end = True


_allow_padding()
