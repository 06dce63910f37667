"""The HTTP client against a socket server that answers what each test says, byte for byte."""

import asyncio
from collections.abc import Callable

from services.loadtest.http_client import HttpClient
from services.loadtest.requests import CONNECTION, OK, TIMEOUT, Answer, Request

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
BINARY = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ninference-header-content-length: 2\r\n\r\nhello"
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


class Peer:
    """Answers each request with the next of `answers`; None says nothing. `seen` holds what came, by connection."""

    def __init__(self, *answers: bytes | None, split: int = 0) -> None:
        self.answers = list(answers)
        self.split = split
        self.seen: list[list[bytes]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen: list[bytes] = []
        self.seen.append(seen)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"Content-Length" in line), 0
                )
                seen.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else PLAIN
                if answer == b"":
                    break
                if answer is not None:
                    for part in (answer[: self.split], answer[self.split :]):
                        writer.write(part)
                        await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


def with_peer(peer: Peer, use: Callable, *, connections: int = 1, timeout_s: float = 5.0):
    async def run():
        server = await asyncio.start_server(peer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            client = HttpClient("127.0.0.1", port, connections=connections, timeout_s=timeout_s)
            try:
                return await use(client)
            finally:
                await client.close()

    return asyncio.run(run())


POST = Request("/p?q=1", b"body", headers=(("X-Own", "1"),))


def send(times: int = 1):
    async def use(client: HttpClient) -> list[Answer]:
        return [await client.send(POST) for _ in range(times)]

    return use


def test_answers_of_either_length_come_whole_over_one_connection() -> None:
    peer = Peer(PLAIN, CHUNKED, BINARY, split=20)

    answers = with_peer(peer, send(3))

    assert answers == [Answer(OK, b"hello"), Answer(OK, b"hello"), Answer(OK, b"hello", 2)]
    assert len(peer.seen) == 1
    assert peer.seen[0][0].startswith(b"POST /p?q=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert peer.seen[0][0].endswith(b"X-Own: 1\r\n\r\nbody")


def test_a_refusal_is_an_answer_with_its_status() -> None:
    assert with_peer(Peer(REFUSAL), send()) == [Answer("429", b"full")]


def test_a_connection_the_server_ends_is_replaced() -> None:
    peer = Peer(LAST, PLAIN)

    assert [answer.code for answer in with_peer(peer, send(2))] == [OK, OK]
    assert len(peer.seen) == 2


def test_an_answer_that_does_not_come_is_a_timeout_and_its_connection_is_not_used_again() -> None:
    peer = Peer(None, PLAIN)

    assert [answer.code for answer in with_peer(peer, send(2), timeout_s=0.2)] == [TIMEOUT, OK]
    assert len(peer.seen) == 2


def test_a_connection_that_breaks_is_told_apart_from_an_answer() -> None:
    assert [answer.code for answer in with_peer(Peer(b""), send())] == [CONNECTION]
    assert [answer.code for answer in with_peer(Peer(b"no http at all\r\n\r\n"), send())] == [CONNECTION]


def test_requests_wait_for_a_free_connection() -> None:
    peer = Peer()

    async def use(client: HttpClient) -> list[Answer]:
        return await asyncio.gather(*(client.send(POST) for _ in range(20)))

    assert {answer.code for answer in with_peer(peer, use, connections=3)} == {OK}
    assert len(peer.seen) == 3


def test_a_port_nobody_listens_on_is_a_connection_error() -> None:
    async def use(_: HttpClient) -> Answer:
        client = HttpClient("127.0.0.1", 1, connections=1, timeout_s=1.0)
        return await client.send(POST)

    assert with_peer(Peer(), use).code == CONNECTION
