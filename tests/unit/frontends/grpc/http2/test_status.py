"""The end of a call on the wire."""

from hpack import Decoder

from services.frontends.grpc.http2.status import DETAILS, percent_encoded, trailers


def test_messages_are_percent_encoded_utf_8() -> None:
    assert percent_encoded("plain, with: most signs!") == b"plain, with: most signs!"
    assert percent_encoded("100 % é\n") == b"100 %25 %C3%A9%0A"


def test_a_lone_surrogate_does_no_harm() -> None:
    assert percent_encoded("\ud800") == b"?"


def test_trailers_carry_status_message_and_metadata() -> None:
    block = trailers(3, "é", (("x-request-id", "r"), (DETAILS, b"\0\1")))
    assert Decoder().decode(block) == [
        ("grpc-status", "3"),
        ("grpc-message", "%C3%A9"),
        ("x-request-id", "r"),
        ("grpc-status-details-bin", "AAE"),
    ]


def test_a_good_end_has_no_message() -> None:
    assert Decoder().decode(trailers(0)) == [("grpc-status", "0")]
