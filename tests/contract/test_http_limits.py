"""HTTP itself over a socket: bodies too large, slow or hostile, connections kept and dropped, health and metrics."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from services.launch import ServerProcess

MAX_BODY_BYTES = 100_000
PREDICT = "/v1/models/half_plus_two:predict"
ROW = json.dumps({"instances": [[1.0]]}).encode()


@pytest.fixture(scope="module")
def limited(repository) -> Iterator[ServerProcess]:
    """A server with a small body limit and little patience."""
    environment = {"CORNET_MAX_BODY_BYTES": str(MAX_BODY_BYTES), "CORNET_KEEP_ALIVE_S": "1"}
    with ServerProcess(repository, environment=environment) as running:
        yield running


def connect(server: ServerProcess) -> socket.socket:
    address = urlsplit(server.http_url)
    return socket.create_connection((address.hostname, address.port), timeout=20)


def response(connection: socket.socket) -> http.client.HTTPResponse:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer


def test_a_body_over_the_limit_is_refused_unread(limited):
    with connect(limited) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**12}\r\n\r\n".encode())
        answer = response(connection)
        assert answer.status == 413
        assert str(MAX_BODY_BYTES) in json.loads(answer.read())["error"]
        assert answer.getheader("connection") == "close"


def test_a_chunked_body_over_the_limit_is_refused(limited):
    chunk = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    with connect(limited) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(chunk * (MAX_BODY_BYTES // 0x1000 + 1))
        assert response(connection).status == 413


def test_a_body_at_the_limit_is_read(limited):
    answer = httpx.post(limited.http_url + PREDICT, content=ROW.ljust(MAX_BODY_BYTES))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "start", ["GET /v2 HTTP/1.1\r\nHost: x\r\nX-Long: ", "GET /", "GET /v2 HTTP/1.1\r\n" + "X-Many: x\r\n" * 100]
)
def test_a_head_without_end_is_refused(server, start):
    with connect(server) as connection, suppress(ConnectionError):  # it may close before everything is sent
        connection.sendall(start.encode())
        for _ in range(200):
            connection.sendall(b"a" * 10_000)
        assert response(connection).status == 431


@pytest.mark.parametrize(
    "sent", ["", "POST /v2 HTT", f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{"]
)
def test_a_request_that_stops_half_way_is_given_up(limited, sent):
    with connect(limited) as connection:
        connection.sendall(sent.encode())
        assert connection.recv(1) == b""


def test_a_body_that_comes_slowly_is_waited_for(limited):
    with connect(limited) as connection:
        connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ROW)}\r\n\r\n".encode())
        for byte in ROW[:4]:
            time.sleep(0.5)
            connection.sendall(bytes([byte]))
        connection.sendall(ROW[4:])
        assert response(connection).status == 200


def test_a_client_that_asks_before_it_sends_is_answered(server):
    with connect(server) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ROW)}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(ROW)
        assert json.loads(response(connection).read()) == {"predictions": [[2.5]]}


def test_a_connection_serves_many_requests(server):
    address = urlsplit(server.http_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    for path, want in ((PREDICT, 200), ("/v1/models/nosuch:predict", 404), (PREDICT, 200)):
        connection.request("POST", path, ROW)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == want
        assert not answer.will_close
    connection.close()


def test_pipelined_requests_are_answered_in_order(server):
    one = (
        f"POST /v1/models/offset/versions/%d:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(ROW)}\r\n\r\n".encode()
    )
    with connect(server) as connection:
        connection.sendall(one % 1 + ROW + one % 2 + ROW)
        answers = b""
        while answers.count(b"predictions") < 2:
            answers += connection.recv(10_000)
    assert answers.index(b"[[2.0]]") < answers.index(b"[[3.0]]")


def test_clients_that_hang_up_do_no_harm(server):
    for sent in (b"", b"POST ", f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode()):
        with connect(server) as connection:
            connection.sendall(sent)
    rows = json.dumps({"instances": [[0.5] * 1024] * 32}).encode()
    for _ in range(4):
        with connect(server) as connection:
            head = f"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(rows)}\r\n\r\n"
            connection.sendall(head.encode() + rows)
    assert httpx.post(server.http_url + PREDICT, content=ROW).status_code == 200


def test_what_is_no_http_is_refused(server):
    with connect(server) as connection:
        connection.sendall(b"\x00\x01\x02 nonsense\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("depth", [100, 500_000])
def test_deep_json_is_refused_and_not_a_crash(server, depth):
    body = b'{"instances":' + b"[" * depth + b"]" * depth + b"}"
    assert httpx.post(server.http_url + PREDICT, content=body, timeout=60).status_code == 400
    assert httpx.get(server.http_url + "/livez").status_code == 200


def test_many_clients_at_once_get_their_own_answers(server):
    wrong: list[object] = []

    def ask(start: int) -> None:
        with httpx.Client(base_url=server.http_url, timeout=60) as client:
            for value in range(start, start + 25):
                answer = client.post(PREDICT, json={"instances": [[value]]}).json()
                if answer != {"predictions": [[value / 2 + 2]]}:
                    wrong.append((value, answer))

    threads = [threading.Thread(target=ask, args=(1000 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_health_and_metrics(server):
    assert httpx.get(server.http_url + "/livez").json() == {"live": True}
    assert httpx.get(server.http_url + "/readyz").json() == {"ready": True, "not_ready": []}
    httpx.post(server.http_url + PREDICT, content=ROW)
    text = httpx.get(server.http_url + "/metrics").text
    assert 'cornet_request_seconds_count{code="OK",method="predict",model="half_plus_two",protocol="tfs-rest"' in text


def test_a_request_line_in_absolute_form_is_served(server):
    with connect(server) as connection:
        connection.sendall(b"GET http://anything/livez HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n")
        assert response(connection).status == 200
