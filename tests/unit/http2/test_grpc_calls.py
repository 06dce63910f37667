"""gRPC over HTTP/2: what a call must say, what an answer says, and how messages are cut (the protocol's own description)."""

import gzip
import json
import time
import zlib
from urllib.parse import unquote_to_bytes

import http2_frames as h2
import pytest
from grpc_host import Host, pattern
from http2_peer import Answer, Peer, request_fields
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame

OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 8, 12, 13


def ask(peer: Peer, fields: list, body: bytes = h2.message(b"x")) -> Answer:
    stream = peer.next_stream()
    peer.send(h2.headers(stream, peer.encode(fields)), h2.data(stream, body, h2.END_STREAM))
    return peer.answer(stream)


def replaced(name: str, value: str | None, method: str = "/t.T/Echo") -> list:
    fields = [(key, value if key == name else old) for key, old in request_fields(method)]
    return [pair for pair in fields if pair[1] is not None]


# What a call says


@pytest.mark.parametrize(
    "value",
    ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "application/grpc+json"],
)
def test_every_content_type_of_grpc_is_served(peer: Peer, value: str) -> None:
    answer = ask(peer, replaced("content-type", value))
    assert answer.data == b"x"
    assert answer.fields["content-type"].startswith("application/grpc")


@pytest.mark.parametrize("value", [None, "", "application/json", "text/plain", "application/grpcweb"])
def test_another_content_type_is_http_415(peer: Peer, value: str | None) -> None:
    assert ask(peer, replaced("content-type", value)).fields[":status"] == "415"
    peer.expect_served()


@pytest.mark.parametrize("verb", ["GET", "PUT", "OPTIONS", "HEAD"])
def test_another_verb_is_an_http_error(peer: Peer, verb: str) -> None:
    answer = ask(peer, replaced(":method", verb))
    assert answer.fields[":status"] in {"405", "400"} or answer.status not in (OK, None), answer
    peer.expect_served()


@pytest.mark.parametrize("path", ["/t.T/Nope", "/nope.T/Echo", "/", "/t.T", "/t.T/Echo/", "//", "*", "/t.T/echo", "/é"])
def test_an_unknown_path_is_unimplemented_in_trailers_alone(peer: Peer, path: str) -> None:
    answer = ask(peer, replaced(":path", path))
    assert (answer.fields[":status"], answer.status, answer.header_blocks) == ("200", UNIMPLEMENTED, 1)
    assert answer.fields["content-type"].startswith("application/grpc")
    peer.expect_served()


def test_an_unknown_path_is_refused_before_the_message_comes(peer: Peer) -> None:
    assert peer.answer(peer.open("/t.T/Nope")).status == UNIMPLEMENTED
    peer.expect_served()


# Deadlines


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        ("2H", 7200),
        ("3M", 180),
        ("90S", 90),
        ("45000m", 45),
        ("30000000u", 30),
        ("99999999n", 0.099999999),
        ("00000060S", 60),
        ("99999999H", 99999999 * 3600),
    ],
)
def test_a_timeout_of_every_unit_is_the_calls_deadline(peer: Peer, timeout: str, seconds: float) -> None:
    answer = peer.call("/t.T/Remaining", b"", [("grpc-timeout", timeout)])
    if seconds < 1 and answer.status == DEADLINE_EXCEEDED:
        return  # a busy machine
    remaining = json.loads(answer.data)
    assert seconds - 5 < remaining <= seconds


def test_a_timeout_counts_from_its_own_call(peer: Peer, host: Host) -> None:
    """Also where the same headers came before: what is known of them is not when they came."""
    sent = [("grpc-timeout", "600m")]
    for _ in range(3):
        assert 0.3 < json.loads(peer.call("/t.T/Remaining", b"", sent, at_once=True).data) <= 0.6
        time.sleep(0.2)
    for _ in range(2):
        assert peer.call("/t.T/Hang", b"", sent, at_once=True).status == DEADLINE_EXCEEDED


def test_without_a_timeout_there_is_no_deadline(peer: Peer) -> None:
    assert json.loads(peer.call("/t.T/Remaining").data) is None


@pytest.mark.parametrize(
    "timeout", ["", "5", "S", "5s", "5X", "-5S", "+5S", "5 S", "1.5S", "123456789S", "0x5S", "\u0665S"]
)
def test_a_timeout_that_cannot_be_read_is_refused(peer: Peer, timeout: str) -> None:
    answer = peer.call("/t.T/Remaining", b"", [("grpc-timeout", timeout.encode())])
    assert answer.status in (INVALID_ARGUMENT, INTERNAL) or answer.fields[":status"] == "400", answer
    peer.expect_served()


def test_a_deadline_that_passes_ends_the_call_and_withdraws_its_work(peer: Peer, host: Host) -> None:
    answer = peer.call("/t.T/Hang", b"", [("grpc-timeout", "50m")])
    assert answer.status == DEADLINE_EXCEEDED
    call = host.hung.get(timeout=10)
    assert host.withdrawn.get(timeout=10) is call
    host.soon(call.reply, b"late")
    peer.expect_served()


def test_a_deadline_that_passes_before_the_message_is_whole_ends_the_call(peer: Peer) -> None:
    stream = peer.open("/t.T/Echo", [("grpc-timeout", "50m")])
    peer.send(h2.data(stream, h2.message(b"whole")[:7]))
    assert peer.answer(stream).status == DEADLINE_EXCEEDED
    peer.expect_served()


def test_a_deadline_that_passes_ends_a_stream(peer: Peer) -> None:
    stream = peer.open("/t.T/Chat", [("grpc-timeout", "300m")])
    peer.send_message(stream, b"x")
    answer = peer.answer(stream)
    assert answer.status == DEADLINE_EXCEEDED
    peer.expect_served()


def test_a_call_whose_time_has_passed_is_not_begun(peer: Peer, host: Host) -> None:
    assert peer.call("/t.T/Hang", b"", [("grpc-timeout", "0S")]).status == DEADLINE_EXCEEDED
    assert host.hung.empty()
    peer.expect_served()


def test_an_answer_before_the_deadline_is_the_only_one(peer: Peer, host: Host) -> None:
    stream = peer.open("/t.T/Hang", [("grpc-timeout", "100m")])
    peer.send_message(stream, b"", end=True)
    host.soon(host.hung.get(timeout=10).reply, b"in time")
    assert peer.answer(stream).data == b"in time"
    time.sleep(0.12)  # past the deadline, which must do nothing any more
    assert not peer.seen_on(stream)


# Cancelling


def test_a_reset_withdraws_queued_work(peer: Peer, host: Host) -> None:
    stream = peer.open("/t.T/Hang")
    peer.send_message(stream, b"", end=True)
    call = host.hung.get(timeout=10)
    peer.send(h2.rst_stream(stream))
    assert host.withdrawn.get(timeout=10) is call
    host.soon(call.reply, b"nobody listens")
    assert not peer.seen_on(stream)
    peer.expect_served()


def test_a_connection_that_goes_withdraws_all_its_work(connect, host: Host) -> None:
    peer = connect()
    for _ in range(10):
        peer.send_message(peer.open("/t.T/Hang"), b"", end=True)
    calls = {host.hung.get(timeout=10) for _ in range(10)}
    peer.close()
    assert {host.withdrawn.get(timeout=10) for _ in range(10)} == calls


def test_a_reset_ends_a_streams_handler(peer: Peer, host: Host) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send_message(stream, b"x")
    assert peer.data_of(stream) == h2.message(b"x")
    assert host.unfinished == 1
    peer.send(h2.rst_stream(stream))
    host.settle(lambda: host.unfinished == 0, "the handler's end")
    peer.expect_served()


def test_a_reset_of_a_stream_whose_handler_waits_for_a_window_ends_it(connect, host: Host) -> None:
    peer = connect(opens_windows=False)
    stream = peer.open("/t.T/Count")
    peer.send_message(stream, b"1000000 1000", end=True)
    peer.pump_until(lambda: peer.received_bytes == h2.DEFAULT_WINDOW, "a whole window of data")
    peer.send(h2.rst_stream(stream))
    host.settle(lambda: host.unfinished == 0, "the handler's end")


# Metadata


def test_metadata_reaches_the_handler_and_the_transports_own_does_not(peer: Peer) -> None:
    sent = [("tenant", "a"), ("tenant", "b"), ("trace-bin", "AAH/"), ("x", "y, z")]
    pairs = json.loads(peer.call("/t.T/Metadata", b"", [*sent, ("grpc-timeout", "10S")]).data)
    custom = [tuple(pair) for pair in pairs if pair[0] in {"tenant", "x"}]
    assert custom == [("tenant", "a"), ("tenant", "b"), ("x", "y, z")]
    assert ["trace-bin", [0, 1, 255]] in pairs
    assert not {name for name, _ in pairs} & {":path", ":method", "te", "grpc-timeout", "content-type"}


@pytest.mark.parametrize(
    ("value", "want"),
    [("", [[]]), ("AAE", [[0, 1]]), ("AAE=", [[0, 1]]), ("AAE,/w==", [[0, 1], [255]])],
    ids=["empty", "without padding", "padded", "two in one"],
)
def test_binary_metadata_is_decoded(peer: Peer, value: str, want: list) -> None:
    pairs = json.loads(peer.call("/t.T/Metadata", b"", [("k-bin", value)]).data)
    assert [data for name, data in pairs if name == "k-bin"] == want


@pytest.mark.parametrize("value", ["!!!", "A", "AAE=x"])
def test_binary_metadata_that_is_none_is_refused(peer: Peer, value: str) -> None:
    answer = peer.call("/t.T/Metadata", b"", [("k-bin", value)])
    refused = answer.status in (INVALID_ARGUMENT, INTERNAL) or answer.reset == h2.PROTOCOL_ERROR
    assert refused or answer.fields[":status"] == "400", answer
    peer.expect_served()


def test_a_request_id_comes_back(peer: Peer) -> None:
    assert peer.call("/t.T/Echo", b"x", [("x-request-id", "order-17")]).trailers["x-request-id"] == "order-17"
    assert peer.call("/t.T/Fail", b"x", [("x-request-id", "order-18")]).trailers["x-request-id"] == "order-18"


# Errors


@pytest.mark.parametrize(
    "text",
    ["plain", "50% off", "line\nbreak\r\n", "é ü 漢 🎺", "\0\x7f", "%41", " spaces ", "", "x" * 900, "ü" * 500],
)
def test_an_error_text_is_percent_coded_in_trailers_alone(peer: Peer, text: str) -> None:
    answer = peer.call("/t.T/Fail", text.encode())
    assert (answer.status, answer.text, answer.header_blocks, answer.messages) == (INVALID_ARGUMENT, text, 1, [])
    raw = answer.trailers.get("grpc-message", "")
    assert all(" " <= character <= "~" for character in raw)
    assert unquote_to_bytes(raw).decode() == text


def test_an_unforeseen_error_is_internal_and_says_nothing(peer: Peer, host: Host) -> None:
    answer = peer.call("/t.T/Crash")
    assert answer.status == INTERNAL
    assert "secret" not in answer.text
    host.settle(lambda: bool(host.problems), "a line in the log")
    host.problems.clear()


def test_an_error_after_a_message_comes_in_trailers(peer: Peer, host: Host) -> None:
    for method, status in (("FailAfterOne", INVALID_ARGUMENT), ("CrashAfterOne", INTERNAL)):
        stream = peer.open(f"/t.T/{method}")
        peer.send_message(stream, b"x")
        answer = peer.answer(stream)
        assert (answer.messages, answer.status, answer.header_blocks) == ([b"x"], status, 2)
        assert "grpc-status" not in answer.fields
    host.settle(lambda: bool(host.problems), "a line in the log")
    host.problems.clear()
    peer.expect_served()


# Messages


@pytest.mark.parametrize("cut", range(1, 11))
def test_a_message_may_be_cut_anywhere(peer: Peer, cut: int) -> None:
    body = h2.message(b"abcde")
    stream = peer.open()
    peer.send(h2.data(stream, body[:cut]))
    peer.expect_alive()
    peer.send(h2.data(stream, body[cut:], h2.END_STREAM))
    assert peer.answer(stream).data == b"abcde"


def test_a_message_may_come_in_single_bytes_padded_and_with_empty_frames_between(peer: Peer) -> None:
    stream = peer.open()
    for byte in h2.message(b"abcde"):
        peer.send(h2.padded(h2.DATA, stream, bytes((byte,)), byte % 7), h2.data(stream))
    peer.send(h2.data(stream, b"", h2.END_STREAM))
    assert peer.answer(stream).data == b"abcde"


@pytest.mark.parametrize("cut", range(16))
def test_messages_of_a_stream_may_be_cut_anywhere(peer: Peer, cut: int) -> None:
    body = h2.message(b"ab") + h2.message(b"") + h2.message(b"c")
    stream = peer.open("/t.T/Chat")
    peer.send(h2.data(stream, body[:cut]))
    peer.expect_alive()
    peer.send(h2.data(stream, body[cut:], h2.END_STREAM))
    assert peer.answer(stream).messages == [b"ab", b"", b"c"]


def test_an_empty_message_is_a_message(peer: Peer) -> None:
    assert peer.call("/t.T/Echo", b"").data == b""


WRONG_BODIES = {
    "no message": b"",
    "two messages": h2.message(b"a") + h2.message(b"b"),
    "half a prefix": h2.message(b"abc")[:3],
    "half a message": h2.message(b"abc")[:-1],
    "one and a half": h2.message(b"a") + h2.message(b"b")[:3],
    "an unknown flag": h2.message(b"a", flag=2),
    "compressed without an encoding": h2.message(gzip.compress(b"a"), flag=1),
}


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_a_unary_call_without_its_one_message_fails(peer: Peer, name: str) -> None:
    answer = ask(peer, request_fields("/t.T/Echo"), WRONG_BODIES[name])
    assert answer.status in (INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED), answer
    assert answer.messages == []
    peer.expect_served()


@pytest.mark.parametrize("name", ["half a prefix", "half a message", "one and a half", "an unknown flag"])
def test_a_stream_that_ends_within_a_message_fails(peer: Peer, name: str) -> None:
    answer = ask(peer, request_fields("/t.T/Total"), WRONG_BODIES[name])
    assert answer.status in (INTERNAL, INVALID_ARGUMENT), answer
    peer.expect_served()


def test_a_unary_call_that_ends_with_its_headers_fails(peer: Peer) -> None:
    for _ in range(3):
        answer = peer.answer(peer.open("/t.T/Echo", flags=h2.END_HEADERS | h2.END_STREAM))
        assert answer.status in (INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED)
        peer.expect_served()


def test_calls_in_one_write_are_answered_each_with_its_own(peer: Peer) -> None:
    """Ones that differ in their headers, their kind and their end, in pieces and whole, together in what is read at once."""
    parts, want = [], {}
    for number in range(60):
        stream, data = peer.next_stream(), b"%d" % number
        method = ("Echo", "Chat", "Nope", "Fail")[number % 4]
        block = peer.encode(request_fields(f"/t.T/{method}", [("k", f"v{number % 5}")] if number % 3 else ()))
        body = h2.message(data)
        cut = number % (len(body) + 1)
        parts += [h2.headers(stream, block), h2.data(stream, body[:cut]), h2.data(stream, body[cut:], h2.END_STREAM)]
        want[stream] = {"Echo": (OK, [data]), "Chat": (OK, [data]), "Nope": (UNIMPLEMENTED, [])}.get(
            method, (INVALID_ARGUMENT, [])
        )
    peer.send(*parts)
    got = {stream: peer.answer(stream) for stream in want}
    assert {stream: (answer.status, answer.messages) for stream, answer in got.items()} == want


# Compression


@pytest.mark.parametrize(
    ("name", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", None)],
)
def test_compressed_messages_are_read(peer: Peer, name: str, compress) -> None:
    content = pattern(100_000)
    body = h2.message(content) if compress is None else h2.message(compress(content), flag=1)
    stream = peer.open("/t.T/Echo", [("grpc-encoding", name)])
    peer.send_data(stream, body, end=True)
    assert peer.answer(stream).data == content


def test_a_message_may_stay_plain_where_others_are_compressed(peer: Peer) -> None:
    body = h2.message(b"plain") + h2.message(gzip.compress(b"packed"), flag=1)
    answer = ask(peer, request_fields("/t.T/Chat", [("grpc-encoding", "gzip")]), body)
    assert answer.messages == [b"plain", b"packed"]


def test_an_unknown_encoding_is_unimplemented_and_the_known_ones_are_named(peer: Peer) -> None:
    answer = peer.call("/t.T/Echo", b"x", [("grpc-encoding", "zstd")])
    assert answer.status == UNIMPLEMENTED
    named = {name.strip() for name in answer.trailers["grpc-accept-encoding"].split(",")}
    assert named == {"identity", "gzip", "deflate"}
    peer.expect_served()


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        pytest.param("gzip", b"no gzip at all", id="garbage"),
        pytest.param("gzip", gzip.compress(b"x" * 1000)[:-5], id="cut short"),
        pytest.param("gzip", b"", id="nothing"),
        pytest.param("gzip", gzip.compress(b"x") + b"more", id="with something after it"),
        pytest.param("deflate", b"\x78\x9c\x00", id="deflate, cut short"),
        pytest.param("identity", b"x", id="identity"),
    ],
)
def test_a_message_that_cannot_be_decompressed_fails(peer: Peer, encoding: str, data: bytes) -> None:
    answer = ask(peer, request_fields("/t.T/Echo", [("grpc-encoding", encoding)]), h2.message(data, flag=1))
    assert answer.status in (INTERNAL, INVALID_ARGUMENT), answer
    peer.expect_served()


def test_answers_stay_plain_where_nobody_asked_for_less(peer: Peer) -> None:
    answer = peer.call("/t.T/Large", b"10000")
    assert answer.flags == [0]
    assert answer.fields.get("grpc-encoding", "identity") == "identity"


# Streams


@pytest.mark.parametrize("count", [0, 1, 100])
def test_a_stream_of_requests_gets_one_answer(peer: Peer, count: int) -> None:
    stream = peer.open("/t.T/Total")
    for _ in range(count):
        peer.send_message(stream, b"abc")
    peer.send_data(stream, b"", end=True)
    assert peer.answer(stream).data == str(3 * count).encode()


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_one_request_gets_a_stream_of_answers(peer: Peer, count: int) -> None:
    stream = peer.open("/t.T/Count")
    peer.send_message(stream, b"%d 10" % count, end=True)
    answer = peer.answer(stream)
    assert answer.status == OK
    assert answer.messages == [bytes(10)] * count


def test_both_sides_speak_in_turns(peer: Peer) -> None:
    stream = peer.open("/t.T/Chat")
    for number in range(50):
        peer.send_message(stream, b"%d" % number)
        assert peer.data_of(stream) == h2.message(b"%d" % number)
    peer.send_data(stream, b"", end=True)
    assert peer.answer(stream).status == OK


def test_headers_of_a_stream_come_no_later_than_its_first_message(peer: Peer) -> None:
    stream = peer.open("/t.T/Chat")
    peer.send_message(stream, b"x")
    headers = peer.headers_of(stream)
    assert (headers[":status"], "grpc-status" in headers) == ("200", False)


def test_a_handler_may_end_before_its_client(peer: Peer) -> None:
    stream = peer.open("/t.T/FailAfterOne")
    peer.send_message(stream, b"x")
    assert peer.answer(stream).status == INVALID_ARGUMENT
    peer.send(h2.data(stream, h2.message(b"too late")))
    peer.expect_served()


def test_an_early_end_is_trailers_and_then_a_reset_without_an_error(peer: Peer) -> None:
    """RFC 9113, 8.1; clients take the status from the trailers, so nothing may come in their place or before them."""
    stream = peer.open("/t.T/FailAfterOne")
    peer.send_message(stream, b"x")
    head, data, trailers, reset = (peer.wait(lambda frame: frame.stream_id == stream, "a frame") for _ in range(4))
    kinds = [type(frame) for frame in (head, data, trailers, reset)]
    assert kinds == [HeadersFrame, DataFrame, HeadersFrame, RstStreamFrame]
    assert ["END_STREAM" in frame.flags for frame in (head, data, trailers)] == [False, False, True]
    assert ("grpc-status", str(INVALID_ARGUMENT)) in trailers.fields
    assert reset.error_code == h2.NO_ERROR
    assert not peer.seen_on(stream)


def test_what_was_on_its_way_to_a_stream_that_ended_early_is_not_answered(peer: Peer) -> None:
    stream = peer.open("/t.T/FailAfterOne")
    peer.send_message(stream, b"x")
    peer.expect_stream_error(stream, h2.NO_ERROR)
    assert peer.answer(stream).status == INVALID_ARGUMENT
    late = h2.message(b"too late")
    peer.send(h2.data(stream, late), h2.window_update(stream, 10), h2.data(stream, late, h2.END_STREAM))
    peer.send(h2.rst_stream(stream, h2.CANCEL))
    assert not peer.seen_on(stream)
    peer.expect_served()


def test_a_stream_that_the_client_has_ended_is_not_reset(peer: Peer) -> None:
    stream = peer.open("/t.T/FailAfterOne")
    peer.send_message(stream, b"x", end=True)
    assert peer.answer(stream).status == INVALID_ARGUMENT
    assert not peer.seen_on(stream)


def test_calls_at_once_are_answered_each_with_its_own(peer: Peer) -> None:
    streams = {peer.open(): b"%d" % number for number in range(90)}
    for stream, data in reversed(streams.items()):
        peer.send_message(stream, data, end=True)
    assert [peer.answer(stream).data for stream in streams] == list(streams.values())


def test_late_answers_come_in_any_order(peer: Peer, host: Host) -> None:
    streams = [peer.open("/t.T/Hang") for _ in range(20)]
    for stream in streams:
        peer.send_message(stream, b"", end=True)
    calls = [host.hung.get(timeout=10) for _ in streams]
    for number, call in reversed(list(enumerate(calls))):
        host.soon(call.reply, b"%d" % number)
    assert [peer.answer(stream).data for stream in streams] == [b"%d" % number for number in range(20)]
