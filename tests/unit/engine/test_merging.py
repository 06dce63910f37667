import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.engine.merging import Piece, join, run_pieces
from services.errors import CornetError, InvalidArgument


def double(inputs, outputs):
    return {"y": inputs["x"] * 2, "text": inputs["s"]}


def request(first: int, rows: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + rows)
    return {"x": numbers, "s": np.array([str(n).encode() for n in numbers], object)}


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), padded=st.integers(0, 60), cut=st.integers(0, 8))
def test_whatever_is_merged_every_piece_gets_the_answers_to_its_own_rows(lengths, padded, cut):
    pieces, first = [], 0
    for rows in lengths:
        start = min(cut, rows - 1)
        pieces.append(Piece(None, request(first, rows), start, rows, rows))
        first += rows
    for piece, result in zip(pieces, run_pieces(double, pieces, ("y", "text"), padded), strict=True):
        assert not isinstance(result, CornetError)
        np.testing.assert_array_equal(result["y"], piece.inputs["x"][piece.start :] * 2)
        np.testing.assert_array_equal(result["text"], piece.inputs["s"][piece.start :])


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8), bad=st.sets(st.integers(0, 7)))
def test_only_the_pieces_at_fault_fail(lengths, bad):
    def picky(inputs, outputs):
        if (inputs["x"] < 0).any():
            raise InvalidArgument("negative")
        return {"y": inputs["x"]}

    pieces = []
    for i, rows in enumerate(lengths):
        x = np.full(rows, -1 if i in bad else i)
        pieces.append(Piece(None, {"x": x}, 0, rows, rows))
    results = run_pieces(picky, pieces, ("y",))
    assert [isinstance(result, CornetError) for result in results] == [i in bad for i in range(len(lengths))]


def test_parts_are_joined_by_their_first_row():
    joined = join({4: {"y": np.array([5])}, 0: {"y": np.array([1, 2, 3, 4])}})
    np.testing.assert_array_equal(joined["y"], [1, 2, 3, 4, 5])
