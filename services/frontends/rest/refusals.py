"""What a REST client is told when there is no answer for it."""

from math import ceil

import orjson

from services.errors import CornetError, PayloadTooLarge, QueueFull, Unimplemented
from services.frontends.rest.http import Response
from services.frontends.status import Dialect, http_status


class MethodNotAllowed(Unimplemented):
    """The path is served, by other methods: those in `allow`."""

    def __init__(self, allow: bytes) -> None:
        super().__init__("Method Not Allowed")
        self.allow = allow


def error_response(error: CornetError, dialect: Dialect) -> Response:
    """An error as both dialects write it: `{"error": "..."}` under the dialect's status."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if isinstance(error, QueueFull):
        headers = ((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))),)
    elif isinstance(error, MethodNotAllowed):
        return Response(orjson.dumps({"error": str(error)}), status=405, headers=((b"allow", error.allow),))
    elif isinstance(error, PayloadTooLarge):
        headers = ((b"connection", b"close"),)  # what the client still sends of the body is not read
    return Response(orjson.dumps({"error": str(error)}), status=http_status(error, dialect), headers=headers)
