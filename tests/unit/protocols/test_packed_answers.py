"""The answers of a whole run, written in one go, are those that are written one by one."""

import numpy as np
import pytest

from services.engine.request import InferenceResponse
from services.protocols import oip_rest, tfs_rest
from services.tensors import BY_NAME

ROWS = 2
FIRSTS = (0, 4, 2)
RUNS = {
    "scores": {"y": np.arange(8, dtype="f4").reshape(8, 1) / 3},
    "a vector": {"y": np.arange(8, dtype="f8") * 1e300},
    "several outputs": {
        "y": np.arange(16, dtype="f4").reshape(8, 2),
        "n": np.arange(8, dtype="i8"),
        "b": np.arange(8) > 3,
    },
    "numbers of several types": {"a": np.arange(8, dtype="u1"), "b": np.arange(16, dtype="i4").reshape(8, 2)},
    "planes": {"y": np.arange(48, dtype="f4").reshape(8, 2, 3)},
    "not finite": {"y": np.array([[np.nan], [np.inf], [0], [1], [2], [3], [4], [5]], "f4")},
    "halves": {"y": np.arange(8, dtype="f2")},
    "padding behind": {"y": np.arange(20, dtype="f4").reshape(10, 2)},
}


def cut(outputs: dict[str, np.ndarray], first: int) -> dict[str, np.ndarray]:
    return {name: array[first : first + ROWS] for name, array in outputs.items()}


@pytest.mark.parametrize("outputs", RUNS.values(), ids=RUNS.keys())
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("request_id", ["", 'a "b"'])
def test_inferences(outputs, binary, request_id):
    form = oip_rest.PackedForm("x", BY_NAME["float32"], (ROWS, 1), ROWS, (), request_id, {}, binary)
    packed = oip_rest.encode_packed("m", 3, outputs, form, ROWS, FIRSTS)
    if packed is None:
        assert not binary
        return
    bodies, json_length = packed
    for body, first in zip(bodies, FIRSTS, strict=True):
        parts, length = oip_rest.encode_infer(InferenceResponse("m", 3, "s", cut(outputs, first)), form)
        assert (body, json_length) == (b"".join(parts), length)


def test_inferences_that_mix_both_ways_of_writing_are_written_one_by_one():
    outputs = RUNS["several outputs"]
    form = oip_rest.PackedForm("x", BY_NAME["float32"], (ROWS, 1), ROWS, (), "", {"n": True}, False)
    assert oip_rest.encode_packed("m", 3, outputs, form, ROWS, FIRSTS) is None


@pytest.mark.parametrize("outputs", RUNS.values(), ids=RUNS.keys())
def test_predictions(outputs):
    bodies = tfs_rest.encode_packed(outputs, ROWS, FIRSTS)
    if bodies is None:
        return
    for body, first in zip(bodies, FIRSTS, strict=True):
        assert body == tfs_rest.encode_predict(cut(outputs, first), row_format=True)


@pytest.mark.parametrize("run", ["scores", "a vector", "numbers of several types", "padding behind"])
def test_plain_numbers_are_written_in_one_go(run):
    form = oip_rest.PackedForm("x", BY_NAME["float32"], (ROWS, 1), ROWS, (), "", {}, False)
    assert oip_rest.encode_packed("m", 3, RUNS[run], form, ROWS, FIRSTS) is not None
    assert tfs_rest.encode_packed(RUNS[run], ROWS, FIRSTS) is not None
