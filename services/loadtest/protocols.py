"""The protocols a load test speaks, by the names the server's metrics give them."""

from collections.abc import Mapping

from services.loadtest.dialect_oip import OipGrpc, OipRest
from services.loadtest.dialect_tfs import TfsGrpc, TfsRest
from services.loadtest.dialect_typed import Typed
from services.loadtest.requests import Dialect

PROTOCOLS: Mapping[str, Dialect] = {
    "tfs-grpc": TfsGrpc(),
    "tfs-rest": TfsRest(),
    "oip-grpc": OipGrpc(),
    "oip-rest": OipRest(binary=False),
    "oip-rest-binary": OipRest(binary=True),
    "typed": Typed(),
}
