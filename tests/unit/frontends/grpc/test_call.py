"""A call owes one answer: never none, never two, and nothing internal in it."""

from types import SimpleNamespace

import numpy as np
import pytest

from services import errors
from services.engine.request import InferenceResponse
from services.errors import InvalidArgument, NotFound, QueueFull
from services.frontends.grpc.call import Call, UnaryMethod, bounded, serve
from services.frontends.status import Dialect
from services.telemetry.metrics import Metrics

RESPONSE = InferenceResponse("m", 3, "serving_default", {"y": np.zeros(1)})


class Recorder(Call):
    """A call of a transport that keeps what it was told to send."""

    def __init__(self, handler=lambda data, call: None, dialect: Dialect = Dialect.OIP) -> None:
        self.sent: list[object] = []
        method = UnaryMethod("oip-grpc", "ModelInfer", handler, dialect)
        self.observed: list[tuple[object, ...]] = []
        metrics = Metrics(gpus=False)
        metrics.listeners.append(lambda it: self.observed.append((it.protocol, it.operation, it.version, it.code)))
        super().__init__(method, (), None, metrics)

    def _send(self, data: bytes) -> None:
        self.sent.append(data)

    def _send_error(self, code: int, text: str) -> None:
        self.sent.append((code, text))


def served(handler, dialect: Dialect = Dialect.OIP) -> Recorder:
    call = Recorder(handler, dialect)
    serve(call.method, b"request", call)
    return call


def test_a_handler_gets_the_bytes_and_answers_with_bytes() -> None:
    assert served(lambda data, call: call.reply(data + b"!")).sent == [b"request!"]


def test_what_a_handler_raises_is_the_answer() -> None:
    def refuse(data: bytes, call: Call) -> None:
        raise NotFound("no such model")

    assert served(refuse).sent == [(errors.NOT_FOUND, "no such model")]


def test_an_unforeseen_error_tells_the_client_nothing_and_the_log_everything(caplog) -> None:
    def fail(data: bytes, call: Call) -> None:
        raise RuntimeError("/secret/path")

    [(code, text)] = served(fail).sent
    assert code == errors.INTERNAL
    assert "secret" not in text
    assert "/secret/path" in caplog.text


def test_an_answer_that_cannot_be_encoded_is_an_error_and_raises_nothing() -> None:
    def refuse(response: InferenceResponse) -> bytes:
        raise InvalidArgument("complex64")

    assert served(lambda data, call: call.answer(RESPONSE, refuse)).sent == [(errors.INVALID_ARGUMENT, "complex64")]


@pytest.mark.parametrize(
    ("dialect", "code"), [(Dialect.TFS, errors.UNAVAILABLE), (Dialect.OIP, errors.RESOURCE_EXHAUSTED)]
)
def test_each_dialect_has_its_own_code_for_a_full_queue(dialect: Dialect, code: int) -> None:
    assert served(lambda data, call: call.fail(QueueFull("full")), dialect).sent == [(code, "full")]


def test_only_the_first_answer_counts() -> None:
    def twice(data: bytes, call: Call) -> None:
        call.reply(b"first")
        call.reply(b"second")
        raise NotFound("third")

    call = served(twice)
    assert call.sent == [b"first"]
    assert len(call.observed) == 1


def working(withdrawn: list[bool]):
    """A handler with work that can be withdrawn."""

    def work(data: bytes, call: Call) -> None:
        call.work = SimpleNamespace(cancel=lambda: withdrawn.append(True))

    return work


def test_a_caller_that_went_away_withdraws_the_work_and_gets_nothing() -> None:
    withdrawn: list[bool] = []
    call = served(working(withdrawn))
    call.cancel()
    call.answer(RESPONSE, lambda response: b"late")
    assert withdrawn == [True]
    assert call.sent == []
    assert call.observed == [("oip-grpc", "ModelInfer", None, errors.CANCELLED)]


def test_an_answered_call_is_not_withdrawn() -> None:
    withdrawn: list[bool] = []
    call = served(working(withdrawn))
    call.reply(b"")
    call.cancel()
    assert withdrawn == []


def test_calls_are_counted_under_the_version_that_answered() -> None:
    def answer(data: bytes, call: Call) -> None:
        call.model = "m"
        call.answer(RESPONSE, lambda response: b"")

    assert served(answer).observed == [("oip-grpc", "ModelInfer", 3, errors.OK)]


def test_error_texts_are_bounded() -> None:
    assert bounded("short é") == "short é"
    assert bounded("x" * 1025) == "x" * 1024 + "...TRUNCATED"
    assert bounded("é" * 1024) == "é" * 512 + "...TRUNCATED"
