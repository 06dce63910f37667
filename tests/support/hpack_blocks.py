"""Header blocks byte by byte (RFC 7541, section 6), right or wrong as asked."""

NOT_INDEXED, NEVER_INDEXED, INDEXED, INDEXING, RESIZE = (4, 0x00), (4, 0x10), (7, 0x80), (6, 0x40), (5, 0x20)
"""Representations: the bits of their prefix, and the bits above it."""


def integer(value: int, kind: tuple[int, int]) -> bytes:
    """Section 5.1, with a prefix of `kind[0]` bits below the bits `kind[1]`."""
    bits, first = kind
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    out, value = [first | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes((*out, value))


def text(data: bytes, *, huffman: bool = False) -> bytes:
    """Section 5.2; `data` is coded already where `huffman` says so."""
    return integer(len(data), (7, 0x80 if huffman else 0)) + data


def literal(name: bytes | int, value: bytes, kind: tuple[int, int] = NOT_INDEXED) -> bytes:
    """A field by its name, or by the index of the name."""
    if isinstance(name, int):
        return integer(name, kind) + text(value)
    return integer(0, kind) + text(name) + text(value)


def indexed(position: int) -> bytes:
    return integer(position, INDEXED)


def resized(size: int) -> bytes:
    return integer(size, RESIZE)
