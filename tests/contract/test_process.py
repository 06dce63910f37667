"""The life of a serving process: start, drain, end."""

import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import http2_frames as h2
import httpx
import pytest
from http2_peer import Peer
from hyperframe.frame import GoAwayFrame

from services import testing
from services.errors import Unavailable
from services.launch import ServerProcess
from services.protocols.messages import ModelInferRequest, ModelInferResponse


@pytest.fixture
def small(tmp_path: Path) -> Path:
    testing.write_half_plus_two(tmp_path / "half_plus_two" / "1")
    return tmp_path


def _post(url: str, body: object) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.post(url, json=body, timeout=30).raise_for_status().json()
    return answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_status_0(small: Path, number: signal.Signals) -> None:
    with ServerProcess(small) as server:
        assert server.stop(number=number) == 0
        assert server.log[-1]["event"] == "stopped"


def test_a_request_that_runs_at_sigterm_is_answered(small: Path) -> None:
    testing.write_slow(small / "slow" / "1", width=1024, depth=128)
    rows = [[0.5] * 1024] * 192
    with (
        ServerProcess(small) as server,
        httpx.Client(base_url=server.http_url, timeout=60) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.get("/livez")  # so that the connection stands before the signal
        answer = pool.submit(client.post, "/v1/models/slow:predict", json={"inputs": rows})
        time.sleep(0.5)
        status = server.stop()

    assert status == 0
    assert len(answer.result().raise_for_status().json()["outputs"]) == len(rows)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_grpc_call_that_has_begun_at_sigterm_is_answered(small: Path, transport: str) -> None:
    """Its message is only half sent when the server says GOAWAY; the rest of it is waited for."""
    request = ModelInferRequest(model_name="half_plus_two", raw_input_contents=[struct.pack("<f", 1.0)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    message = h2.message(request.SerializeToString())
    with ServerProcess(small, "--grpc-transport", transport, "--no-typed-endpoints") as server:
        host, port = server.grpc_address.split(":")
        with Peer((host, int(port))) as peer, ThreadPoolExecutor(1) as pool:
            stream = peer.open("/inference.GRPCInferenceService/ModelInfer")
            peer.send_data(stream, message[:10])
            peer.expect_alive()
            stopped = pool.submit(server.stop)
            peer.wait(lambda frame: isinstance(frame, GoAwayFrame), "GOAWAY")
            peer.send_data(stream, message[10:], end=True)
            answer = ModelInferResponse.FromString(peer.answer(stream).data)
            peer.expect_end()
            assert stopped.result() == 0
    assert list(answer.raw_output_contents) == [struct.pack("<f", 2.5)]


def test_readiness_turns_false_before_the_ports_close(small: Path) -> None:
    with ServerProcess(small, environment={"CORNET_DRAIN_DELAY_S": "3"}) as server:
        ready = f"{server.http_url}/readyz"
        assert httpx.get(ready, timeout=5).status_code == 200
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        time.sleep(0.5)
        assert httpx.get(ready, timeout=5).status_code == 503
        assert _post(f"{server.http_url}/v1/models/half_plus_two:predict", {"instances": [[2.0]]}) == {
            "predictions": [[3.0]]
        }
        stopper.join(30)


@pytest.mark.parametrize("port", ["--grpc-port", "--http-port"])
def test_a_taken_port_ends_the_start_with_one_clear_line(small: Path, port: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = str(holder.getsockname()[1])
        with pytest.raises(Unavailable) as failed:
            ServerProcess(small, port, taken).start()
    assert taken in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_without_the_typed_endpoints_their_paths_are_404_and_bentoml_is_not_loaded(small: Path) -> None:
    with ServerProcess(small, "--no-typed-endpoints") as server:
        assert httpx.post(f"{server.http_url}/regress", json={"records": [[1.0]]}, timeout=5).status_code == 404
        assert "bentoml" not in Path(f"/proc/{server.pid}/maps").read_text(encoding="utf-8")


def test_a_tensorflow_serving_command_line_serves(small: Path, free_port: int) -> None:
    flags = [
        "--port=0",
        f"--rest_api_port={free_port}",
        "--model_name=half",
        f"--model_base_path={small}/half_plus_two",
    ]
    with ServerProcess(small, command=["-m", "services.model_server", *flags, "--enable_batching"]) as server:
        answer = _post(f"{server.http_url}/v1/models/half:predict", {"instances": [[2.0]]})
        warned = [line for line in server.log if line["event"] == "flags without effect"]

    assert answer == {"predictions": [[3.0]]}
    assert [line["flags"] for line in warned] == ["enable_batching"]


def test_bentoml_serve_starts_the_same_server(small: Path, free_port: int) -> None:
    flags = ["serve", "services.bento_service:ModelService", "--host", "127.0.0.1", "--port", str(free_port)]
    environment = {"CORNET_REPOSITORY": str(small), "CORNET_GRPC_PORT": "0", "BENTOML_DO_NOT_TRACK": "true"}
    with ServerProcess(small, command=["-m", "bentoml", *flags], environment=environment) as server:
        url = f"http://127.0.0.1:{free_port}"
        assert _post(f"{url}/v1/models/half_plus_two:predict", {"instances": [[2.0]]}) == {"predictions": [[3.0]]}
        assert httpx.get(f"{url}/readyz", timeout=5).status_code == 200
        assert server.grpc_address
        assert server.stop() == 0
