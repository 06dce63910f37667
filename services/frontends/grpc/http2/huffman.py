"""The Huffman code of HPACK (RFC 7541 5.2), decoded a byte at a time.

The code itself is the `hpack` package's table. A state is a node of its tree; what a byte does to a state is worked out
when it first happens and kept: 256 states and 256 bytes bound what is kept.
"""

from typing import NamedTuple, TypeAlias

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

_EOS = 256
_MAX_PADDING_BITS = 7

_Node: TypeAlias = "list[_Node | int | None]"


class HuffmanError(ValueError):
    """Not a string of the code: the end symbol inside, or padding that is too long or not of ones."""


class _State(NamedTuple):
    """A node of the tree. `steps` has for each byte the next state and the bytes that it completes, None for what did not
    happen yet; `may_end` says whether a string may end here.
    """

    node: _Node
    steps: "list[tuple[_State, bytes] | None]"
    may_end: bool

    def step(self, byte: int) -> "tuple[_State, bytes]":
        """What a byte leads to; it is kept. Raises HuffmanError for the end symbol."""
        node, emitted = self.node, bytearray()
        for shift in range(7, -1, -1):
            child = node[byte >> shift & 1]
            if isinstance(child, list):
                node = child
            elif child is None or child == _EOS:
                raise HuffmanError("the end-of-string symbol is in the string")
            else:
                emitted.append(child)
                node = _ROOT.node
        step = self.steps[byte] = (_state(node), bytes(emitted))
        return step


def decode(data: bytes) -> bytes:
    """The string that `data` encodes. Raises HuffmanError."""
    state, parts = _ROOT, []
    for byte in data:
        state, emitted = state[1][byte] or state.step(byte)
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
        state = _STATES[id(node)] = _State(node, [None] * 256, id(node) in _MAY_END)
    return state


def _ends(root: _Node) -> frozenset[int]:
    """The nodes a string may end at: the root, and those up to seven ones from there, as the end symbol begins."""
    ends, node = [root], root
    for _ in range(_MAX_PADDING_BITS):
        child = node[1]
        if not isinstance(child, list):
            raise TypeError("every symbol of HPACK's code that is all ones is longer than the padding")
        node = child
        ends.append(node)
    return frozenset(map(id, ends))


_TREE = _tree()
_MAY_END = _ends(_TREE)
_STATES: dict[int, _State] = {}
_ROOT = _state(_TREE)
