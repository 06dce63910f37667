"""The route table: which path and method is whose, found once per path and remembered."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import unquote

from services.engine.request import InferenceRequest, InferenceResponse
from services.frontends.rest.http import Request, Response
from services.frontends.rest.short_way import ShortWay
from services.frontends.status import Dialect


@dataclass(slots=True)
class Inference:
    """What a route hands back that needs the engine: the request, and how its response becomes an answer."""

    request: InferenceRequest
    encode: Callable[[InferenceResponse], Response]


Handler: TypeAlias = Callable[[Request], Response | Awaitable[Inference | Response]]
"""Never blocks, raises CornetError. Runs on the event loop; one that decodes a body is a coroutine, see `offload`."""

GET = ("GET", "HEAD")
POST = ("POST",)

LONGEST_REMEMBERED = 512
"""Longer paths are matched anew each time, so that the memory of paths stays small."""


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of path. `name` and `protocol` label its metrics: never the path itself, which clients invent. `infers` says
    that the handler is a coroutine that hands back an `Inference`; `short_way` is tried before it.
    """

    name: str
    protocol: str
    dialect: Dialect
    pattern: re.Pattern[str]
    methods: tuple[str, ...]
    handler: Handler
    infers: bool = False
    short_way: ShortWay | None = None

    @property
    def allow(self) -> bytes:
        return ", ".join((*self.methods, "OPTIONS")).encode()


class RouteTable:
    """Routes in order; the first whose pattern matches the whole path wins."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        self._remembered = lru_cache(maxsize=1024)(self._match)

    def find(self, path: str) -> tuple[Route, Mapping[str, str]] | None:
        """The route of a path as it was sent (percent-encoded), and the pattern's named groups, decoded."""
        return self._remembered(path) if len(path) <= LONGEST_REMEMBERED else self._match(path)

    def _match(self, path: str) -> tuple[Route, Mapping[str, str]] | None:
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is not None:
                return route, {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
        return None
