"""A wrong answer is not a fast answer."""

import numpy as np
import pytest

from services.engine.request import InferenceResponse
from services.errors import FailedPrecondition
from services.loadtest.checks import check_answer
from services.loadtest.protocols import PROTOCOLS
from services.loadtest.requests import OK, Answer, Description
from services.protocols import tfs_grpc
from services.tensors import BY_NAME, Signature, TensorSpec

FLOAT = BY_NAME["float32"]
DESCRIPTION = Description(Signature((TensorSpec("x", FLOAT, (-1, 3)),), (TensorSpec("y", FLOAT, (-1, 2)),)))


def grpc_answer(**outputs: np.ndarray) -> Answer:
    return Answer(OK, tfs_grpc.encode_predict(InferenceResponse("m", 1, "serving_default", outputs)))


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_right_answer_tells_its_shapes() -> None:
    assert check_answer(PROTOCOLS["tfs-grpc"], grpc_answer(y=ones(4, 2)), DESCRIPTION, 4) == {"y": (4, 2)}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (grpc_answer(y=ones(3, 2)), "4 rows"),
        (grpc_answer(y=ones(4, 5)), "fits y"),
        (grpc_answer(z=ones(4, 2)), r"outputs \['y'\]"),
        (Answer(OK, b"\xff\xff"), "an answer with outputs"),
    ],
)
def test_a_wrong_answer_is_refused(answer: Answer, message: str) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        check_answer(PROTOCOLS["tfs-grpc"], answer, DESCRIPTION, 4)


def test_json_of_another_kind_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="with outputs"):
        check_answer(PROTOCOLS["oip-rest"], Answer(OK, b'{"hello": 1}'), DESCRIPTION, 4)


def test_the_only_output_of_a_rest_answer_needs_no_name() -> None:
    answer = Answer(OK, b'{"predictions": [[1.0, 2.0]]}')

    assert check_answer(PROTOCOLS["tfs-rest"], answer, DESCRIPTION, 1) == {"y": (1, 2)}
