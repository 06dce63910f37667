"""Unary gRPC calls with bytes in and bytes out: no message is built or parsed while the clock runs."""

import itertools
from typing import Any

import grpc

from services.loadtest.requests import CONNECTION, OK, TIMEOUT, Answer, Request

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # without it channels to one address share one connection
)


class GrpcClient:
    """Calls spread over `connections` HTTP/2 connections in turn, each with a deadline `timeout_s` away."""

    def __init__(self, address: str, *, connections: int, timeout_s: float) -> None:
        self._channels = [grpc.aio.insecure_channel(address, options=_OPTIONS) for _ in range(connections)]
        self._timeout_s = timeout_s
        self._stubs: dict[str, itertools.cycle[Any]] = {}

    async def send(self, request: Request) -> Answer:
        stubs = self._stubs.get(request.path)
        if stubs is None:
            stubs = itertools.cycle([(channel, channel.unary_unary(request.path)) for channel in self._channels])
            self._stubs[request.path] = stubs
        channel, stub = next(stubs)
        try:
            return Answer(OK, await stub(request.body, timeout=self._timeout_s))
        except grpc.aio.AioRpcError as error:
            return Answer(_code(error, channel), _text(error).encode())

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


def _text(error: grpc.aio.AioRpcError) -> str:
    """The details, or what they mean where gRPC's own server refused a call: nobody here cancels any."""
    if error.code() is grpc.StatusCode.CANCELLED and error.details() == "CANCELLED":
        return "the server's gRPC library refused the call: too many waited to be taken in (grpc.server.max_pending_requests)"
    return error.details() or ""


def _code(error: grpc.aio.AioRpcError, channel: grpc.aio.Channel) -> str:
    """UNAVAILABLE is both a server's refusal and a connection's loss: the channel knows which."""
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TIMEOUT
    if code is grpc.StatusCode.UNAVAILABLE and channel.get_state() is not grpc.ChannelConnectivity.READY:
        return CONNECTION
    return str(code.name)
