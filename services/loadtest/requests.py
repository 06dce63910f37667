"""What a load test sends and gets back, whatever carries it, and what a dialect must know to do so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from services.tensors import DEFAULT_SIGNATURE, Signature

OK = "OK"
TIMEOUT = "TIMEOUT"
CONNECTION = "CONNECTION"
"""The codes of an answer that are the client's own. All others are the server's: gRPC's names, or HTTP's numbers.
CONNECTION is that of a request whose connection could not be had, or broke."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One message, built before the load starts. `path` is an HTTP path or a full gRPC method name."""

    path: str
    body: bytes = b""
    verb: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """`code` is OK or what went wrong; `body` the message, or the error's text. `json_length` is that of a binary answer's
    JSON part, None where there is none.
    """

    code: str
    body: bytes = b""
    json_length: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """Which model is asked; `version` None is the latest."""

    name: str
    version: int | None = None
    signature: str = DEFAULT_SIGNATURE


class Description(NamedTuple):
    """What the server says of a model: its signature or, where the protocol speaks of records, an example body."""

    signature: Signature | None
    path: str = ""
    example: Mapping[str, Any] | None = None


class Dialect(Protocol):
    """Requests and answers of one protocol, as pure functions."""

    @property
    def is_grpc(self) -> bool: ...

    def describe(self, model: Model) -> Request:
        """What asks the server for the model's metadata."""

    def description(self, model: Model, answer: Answer) -> Description:
        """The metadata in the server's answer. Raises InvalidArgument where it is none, or lacks the signature."""

    def predict(self, model: Model, inputs: Arrays) -> Request:
        """The request for those tensors."""

    def predict_body(self, model: Model, description: Description, body: bytes) -> Request:
        """The request with that JSON body. Raises InvalidArgument for a protocol without one."""

    def outputs(self, answer: Answer) -> dict[str, np.ndarray]:
        """The tensors of a good answer. Raises CornetError, KeyError, TypeError or ValueError where it is not one."""
