"""Users for Locust, over HTTP and gRPC, of a model with one float32 input (the demo's regressor, say).

    locust -f tests/load/locustfile.py HttpUserOfModel --host http://127.0.0.1:8501
    CORNET_LOAD_GRPC=127.0.0.1:8500 locust -f tests/load/locustfile.py GrpcUserOfModel

The environment says what is asked: CORNET_LOAD_MODEL (default regressor), CORNET_LOAD_WIDTH (values per row, default 8) and
CORNET_LOAD_GRPC (host:port).
"""

import os
import time

import grpc.experimental.gevent
import numpy as np
from locust import FastHttpUser, User, constant, task

from services.loadtest.dialect_tfs import TfsGrpc, TfsRest
from services.loadtest.requests import Answer, Model

grpc.experimental.gevent.init_gevent()  # before the first channel: gRPC must wait as Locust's green threads do

MODEL = Model(os.environ.get("CORNET_LOAD_MODEL", "regressor"))
TIMEOUT_S = 10.0


def _inputs(name: str) -> dict[str, np.ndarray]:
    width = int(os.environ.get("CORNET_LOAD_WIDTH", "8"))
    return {name: np.random.default_rng(0).random((1, width)).astype(np.float32)}


class HttpUserOfModel(FastHttpUser):
    """TensorFlow Serving's REST dialect."""

    wait_time = constant(0)
    connection_timeout = network_timeout = TIMEOUT_S

    def on_start(self) -> None:
        description = TfsRest().description(
            MODEL, Answer("OK", self.client.get(f"/v1/models/{MODEL.name}/metadata").content)
        )
        self.request = TfsRest().predict(MODEL, _inputs(description.signature.inputs[0].name))

    @task
    def predict(self) -> None:
        headers = {"Content-Type": "application/json"}
        with self.client.post(self.request.path, self.request.body, headers=headers, catch_response=True) as response:
            if response.status_code == 200 and b"predictions" not in response.content:
                response.failure("no predictions in the answer")


class GrpcUserOfModel(User):
    """TensorFlow Serving's gRPC dialect; Locust is told of each call by its request event."""

    host = "grpc"
    wait_time = constant(0)

    def on_start(self) -> None:
        self.channel = grpc.insecure_channel(os.environ.get("CORNET_LOAD_GRPC", "127.0.0.1:8500"))
        describe = TfsGrpc().describe(MODEL)
        answer = Answer("OK", self.channel.unary_unary(describe.path)(describe.body, timeout=TIMEOUT_S))
        self.request = TfsGrpc().predict(MODEL, _inputs(TfsGrpc().description(MODEL, answer).signature.inputs[0].name))
        self.call = self.channel.unary_unary(self.request.path)

    def on_stop(self) -> None:
        self.channel.close()

    @task
    def predict(self) -> None:
        begun, answer, error = time.perf_counter(), b"", None
        try:
            answer = self.call(self.request.body, timeout=TIMEOUT_S)
        except grpc.RpcError as raised:
            error = raised
        self.environment.events.request.fire(
            request_type="grpc",
            name=self.request.path,
            response_time=(time.perf_counter() - begun) * 1e3,
            response_length=len(answer),
            exception=error,
        )
