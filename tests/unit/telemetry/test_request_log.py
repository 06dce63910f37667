"""Which requests are logged, and what becomes of the records on their way to the disk."""

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import orjson
import pytest

from services import errors
from services.engine.request import InferenceRequest, InferenceResponse
from services.errors import FailedPrecondition
from services.telemetry.exchange import Exchange
from services.telemetry.metrics import Metrics
from services.telemetry.request_log import RequestLog, RequestLogOptions, recorder
from services.telemetry.request_log.records import Record

SEED = 7
ROWS = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)


def draws() -> Callable[[], float]:
    return Random(SEED).random  # noqa: S311  # a test's dice


class Logged:
    """Metrics with a request log, fed by hand."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder = folder
        self.metrics = Metrics(gpus=False)
        self.counts = self.metrics.tables.request_log
        self.log = RequestLog(RequestLogOptions(folder, **options), self.counts, random=draws())
        self.metrics.listeners.append(self.log.listen)
        self.metrics.draws.append(self.log.draw)

    def request(
        self,
        code: int = errors.OK,
        headers: Sequence[tuple[str, str]] = (),
        *,
        inference: bool = True,
        drawn: bool | None = None,
    ) -> None:
        exchange = Exchange(self.metrics, "tfs-grpc", "Predict", headers, 100)
        exchange.drawn = drawn
        if inference:
            exchange.decoded("m")
            exchange.request = InferenceRequest("m", {"features": ROWS})
        if inference and code == errors.OK:
            response = InferenceResponse("m", 3, "serving_default", {"sum": ROWS.sum(axis=1)}, 300.0, 2000.0, 4)
            exchange.inferred(response, 3)
        exchange.finish(code, 10)

    def close(self) -> list[dict[str, object]]:
        self.log.close()
        lines = b"".join(path.read_bytes() for path in sorted(self.folder.glob("*.jsonl"))).splitlines()
        return [orjson.loads(line) for line in lines]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Logged]:
    return lambda **options: Logged(tmp_path / "log", **options)


def test_a_record_says_who_asked_what_and_how_long_each_phase_took(make: Callable[..., Logged]) -> None:
    logged = make()
    context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    logged.request(headers=(("x-request-id", "job-7"), ("traceparent", context), ("authorization", "secret")))
    [record] = logged.close()
    assert record.pop("time").endswith("Z")
    assert (record.pop("decode_ms"), record.pop("encode_ms"), record.pop("total_ms")) > (0, 0, 0)
    assert record == {
        "request_id": "job-7",
        "protocol": "tfs-grpc",
        "method": "Predict",
        "model": "m",
        "version": 3,
        "signature": "serving_default",
        "code": "OK",
        "rows": 3,
        "batch_rows": 4,
        "received_bytes": 100,
        "sent_bytes": 10,
        "queue_ms": 0.3,
        "compute_ms": 2.0,
        "traceparent": context,
    }


def test_the_rate_is_kept(make: Callable[..., Logged]) -> None:
    """Ten thousand draws at 0.1: three standard deviations are 90."""
    logged = make(rate=0.1)
    drawn = draws()
    expected = sum(drawn() < 0.1 for _ in range(10_000))
    for _ in range(10_000):
        logged.request()
    assert len(logged.close()) == expected == pytest.approx(1000, abs=90)


def test_every_failure_is_logged_where_that_is_asked(make: Callable[..., Logged]) -> None:
    logged = make(rate=1e-9, errors=True)
    logged.request()
    logged.request(errors.INVALID_ARGUMENT)
    logged.request(errors.INTERNAL, inference=False)
    assert [record["code"] for record in logged.close()] == ["INVALID_ARGUMENT", "INTERNAL"]


def test_failures_are_sampled_like_others_where_nothing_is_asked(make: Callable[..., Logged]) -> None:
    logged = make(rate=1e-9)
    logged.request(errors.INTERNAL)
    assert logged.close() == []


def test_what_was_drawn_at_the_start_is_not_drawn_again_at_the_end(make: Callable[..., Logged]) -> None:
    logged = make(rate=1.0, errors=True)
    logged.request(drawn=False)
    logged.request(errors.INTERNAL, drawn=False)
    logged.request(drawn=True)
    assert [record["code"] for record in logged.close()] == ["INTERNAL", "OK"]


def test_only_the_sampled_go_a_way_on_which_they_are_heard(make: Callable[..., Logged]) -> None:
    logged = make(rate=0.5)
    exchanges = [Exchange(logged.metrics, "tfs-grpc", "Predict", ()) for _ in range(100)]
    heard = [logged.metrics.is_heard(exchange) for exchange in exchanges]
    assert heard == [exchange.drawn for exchange in exchanges]
    assert 30 < sum(heard) < 70


def test_all_are_heard_where_a_listener_draws_none(make: Callable[..., Logged]) -> None:
    logged = make(rate=1e-9)
    logged.metrics.listeners.append(lambda exchange: None)
    assert logged.metrics.is_heard(Exchange(logged.metrics, "tfs-grpc", "Predict", ()))


def test_housekeeping_that_goes_well_has_no_record(make: Callable[..., Logged]) -> None:
    logged = make()
    logged.request(inference=False)
    assert logged.close() == []
    assert list(logged.folder.iterdir()) == []


def test_payloads_are_logged_only_when_asked(make: Callable[..., Logged]) -> None:
    logged = make(payload_bytes=1000)
    logged.request()
    [record] = logged.close()
    assert record["inputs"] == [
        {"name": "features", "datatype": "FP32", "shape": [3, 2], "data": ROWS.ravel().tolist()}
    ]
    assert record["outputs"] == [{"name": "sum", "datatype": "FP32", "shape": [3], "data": [3.0, 7.0, 11.0]}]
    assert record["payload_cut"] is False


def test_what_the_disk_is_too_slow_for_is_dropped_and_counted(
    make: Callable[..., Logged], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING_RECORDS", 4)
    logged = make()
    gate, write = threading.Event(), logged.log._folder.write

    def slow(records: Sequence[Record]) -> None:
        gate.wait(10)
        write(records)

    monkeypatch.setattr(logged.log._folder, "write", slow)
    for _ in range(10):
        logged.request()
    gate.set()
    assert len(logged.close()) == 4
    assert logged.counts == {"written": 4, "queue_full": 6, "failed": 0}


def test_waiting_records_are_bounded_in_bytes(make: Callable[..., Logged], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_WAITING_BYTES", 1)
    logged = make()
    gate, write = threading.Event(), logged.log._folder.write
    monkeypatch.setattr(logged.log._folder, "write", lambda records: (gate.wait(10), write(records)))
    logged.request()
    logged.request()
    gate.set()
    assert len(logged.close()) == 1
    assert logged.counts["queue_full"] == 1


def test_a_disk_that_refuses_is_logged_once_and_used_again_when_it_takes(
    make: Callable[..., Logged], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "_RETRY_S", 0.0)
    logged = make()
    took = threading.Event()
    attempt = logged.log._attempt

    def watched(work: Callable[[], None]) -> bool:
        went_well = attempt(work)
        took.set()
        return went_well

    def one_written() -> None:
        took.clear()
        logged.request()
        assert took.wait(10)

    logged.request()
    monkeypatch.setattr(logged.log, "_attempt", watched)
    with caplog.at_level(logging.INFO):
        shutil.rmtree(logged.folder)
        logged.folder.touch()  # a file where the folder was
        one_written()
        one_written()
        logged.folder.unlink()
        logged.folder.mkdir()
        one_written()
        [record] = logged.close()
    assert record["code"] == "OK"
    assert logged.counts["failed"] >= 1
    assert [line.getMessage() for line in caplog.records] == [
        "the request log cannot be written; its records are dropped",
        "the request log is written again",
    ]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="Expected a folder that can be written for the request log"):
        RequestLog(RequestLogOptions(tmp_path / place), {})


def test_parquet_without_pyarrow_is_an_error_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(FailedPrecondition, match="Expected pyarrow"):
        RequestLog(RequestLogOptions(tmp_path, format="parquet"), {})


def test_the_metrics_say_what_was_written_and_dropped(make: Callable[..., Logged]) -> None:
    logged = make()
    logged.request()
    logged.close()
    page = logged.metrics.render()[0].decode()
    assert "cornet_request_log_written_total 1.0" in page
    assert 'cornet_request_log_dropped_total{reason="queue_full"} 0.0' in page


def test_without_a_request_log_there_is_no_word_of_it_in_the_metrics() -> None:
    assert b"request_log" not in Metrics(gpus=False).render()[0]
