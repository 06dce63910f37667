"""The client whose calls are never alike."""

from hpack import Decoder

from tests.load.bench.clients.varied import header_blocks


def test_every_call_differs_in_deadline_and_ids_and_is_alike_in_the_rest() -> None:
    blocks, decoder = header_blocks("/service/Method", "127.0.0.1:1", 200), Decoder()
    calls = [dict(decoder.decode(block)) for block in blocks]
    for name in ("grpc-timeout", "x-request-id", "traceparent"):
        assert len({call[name] for call in calls}) == 200
    assert {call[":path"] for call in calls} == {"/service/Method"}


def test_no_header_block_is_sent_twice() -> None:
    blocks = header_blocks("/service/Method", "127.0.0.1:1", 200)
    assert len(set(blocks)) == 200
