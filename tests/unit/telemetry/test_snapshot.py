"""What several processes have counted, as one."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import fields

import pytest

from services import errors
from services.telemetry.exchange import Exchange
from services.telemetry.merged import Collection, Pages
from services.telemetry.metrics import Metrics
from services.telemetry.snapshot import Part, Presence, Snapshot, absorb, dump, is_understood, merged
from services.telemetry.tables import BatchKey, Load, RequestKey, Tables, VersionKey

OK = RequestKey("oip-grpc", "ModelInfer", "m", "1", errors.OK)
BATCHER = BatchKey("m", "1", "serving_default")


class Answered:
    queue_us, compute_us, batch_rows = 300.0, 2000.0, 4


def process(requests: int = 1, *, in_flight: int = 0, waiting: int = 0) -> Metrics:
    """A process that has answered so many requests in batches of four rows, and refused one."""
    metrics = Metrics(gpus=False)
    metrics.track_version("m", 1, "AVAILABLE")
    metrics.track_load("m", 1, 0.5, "CPUExecutionProvider")
    batch = metrics.batch("m", 1, "serving_default")
    batch.depth, batch.waiting = (lambda: 4 * waiting), (lambda: waiting)
    batch.rejected += 1
    for _ in range(requests):
        exchange = Exchange(metrics, "oip-grpc", "ModelInfer", (), 100)
        exchange.decoded("m")
        exchange.inferred(Answered(), 1)
        exchange.finish(errors.OK, 10)
        batch.queue_seconds.observe(0.0003)
        batch.runs.kept += (4.0, 4.0, 0.002)
    for _ in range(in_flight):
        Exchange(metrics, "oip-grpc", "ModelInfer", ())
    return metrics


def sent(metrics: Metrics) -> Snapshot:
    """A snapshot as another process receives it."""
    snapshot: Snapshot = json.loads(json.dumps(metrics.snapshot()))
    return snapshot


def live(*processes: Metrics) -> Tables:
    parts = [Part(number, Presence.LIVE, sent(metrics)) for number, metrics in enumerate(processes)]
    return merged(parts, started=5.0)


def page(parts: Sequence[Part], restarts: Sequence[int] = (0, 0)) -> dict[str, float]:
    class Peers:
        async def collect(self) -> Collection:
            return Collection(parts, restarts, 5.0)

    pages = Pages(Peers(), Metrics(gpus=False)._gpus)
    text = asyncio.run(pages.render())[0].decode() + asyncio.run(pages.render_tensorflow_serving())[0].decode()
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def is_count(name: str) -> bool:
    """Whether a sample counts what all workers did together."""
    return "worker=" not in name and name.partition("{")[0].endswith(("_count", "_bucket", "_sum", "_total"))


def test_counts_and_histograms_add_up() -> None:
    tables = live(process(2), process(3))

    series, batch = tables.requests[OK], tables.batches[BATCHER]
    assert (series.seconds.count, series.received_bytes, series.sent_bytes) == (5, 500, 50)
    assert [histogram.count for histogram in series.steps] == [5, 5, 5, 5]
    assert series.steps[1].total == pytest.approx(5 * 0.0003)
    assert (batch.rejected, batch.queue_seconds.count, batch.runs.rows.total) == (2, 5, 20)
    assert batch.runs.by_rows[4] == (5, pytest.approx(0.01))


def test_buckets_add_up_bound_by_bound() -> None:
    one, other = process(2), process(3)
    both = live(one, other).batches[BATCHER].queue_seconds.buckets()

    apart = [metrics.tables.batches[BATCHER].queue_seconds.buckets() for metrics in (one, other)]
    assert both == [(bound, count + more) for (bound, count), (_, more) in zip(*apart, strict=True)]


def test_what_waits_and_what_is_in_flight_adds_up_over_those_that_live() -> None:
    parts = [
        Part(0, Presence.LIVE, sent(process(in_flight=1, waiting=2))),
        Part(1, Presence.LATE, sent(process(in_flight=1, waiting=3))),
        Part(2, Presence.GONE, sent(process(in_flight=7, waiting=7))),
    ]
    tables = merged(parts, started=5.0)

    batch = tables.batches[BATCHER]
    assert (batch.depth(), batch.waiting()) == (20, 5)
    assert tables.arrived["oip-grpc"] - tables.requests[OK].seconds.count == 2


def test_a_successor_goes_on_counting_where_its_predecessor_ended() -> None:
    predecessor, successor = process(3, in_flight=2), Metrics(gpus=False)
    absorb(successor.tables, sent(predecessor))
    successor.track_version("m", 1, "AVAILABLE")
    exchange = Exchange(successor, "oip-grpc", "ModelInfer", ())
    exchange.decoded("m")
    exchange.inferred(Answered(), 1)
    exchange.finish(errors.OK)

    series = successor.tables.requests[OK]
    series.settle()
    assert series.seconds.count == 4
    assert successor.tables.arrived["oip-grpc"] == 4
    assert successor.batch("m", 1, "serving_default").runs.rows.count == 3


def test_no_count_falls_from_a_death_to_the_successor_s_first_scrape() -> None:
    other, dying = process(2), process(3)
    last = sent(dying)
    restarted = Metrics(gpus=False)
    absorb(restarted.tables, last)
    states = [
        [Part(0, Presence.LIVE, sent(other)), Part(1, Presence.LIVE, last)],
        [Part(0, Presence.LIVE, sent(other)), Part(1, Presence.GONE, last)],
        [Part(0, Presence.LIVE, sent(other)), Part(1, Presence.LIVE, sent(restarted))],
    ]

    counts = [{name: value for name, value in page(parts).items() if is_count(name)} for parts in states]
    for before, after in ((0, 1), (1, 2)):
        assert {name for name, value in counts[before].items() if counts[after].get(name, -1) < value} == set()


def test_a_dead_worker_s_versions_and_loads_are_not_shown() -> None:
    tables = merged([Part(0, Presence.GONE, sent(process()))], started=5.0)

    assert (tables.states, tables.loads, tables.batches[BATCHER].depth()) == ({}, {}, 0)


def test_a_version_that_no_living_worker_knows_is_forgotten() -> None:
    successor = Metrics(gpus=False)
    absorb(successor.tables, sent(process()))
    successor.track_version("m", 2, "AVAILABLE")
    other = process()

    assert BATCHER in live(successor, other).batches
    other.forget_version("m", 1)
    assert BATCHER not in live(successor, other).batches


def test_workers_that_differ_in_a_version_s_state_are_both_on_the_page() -> None:
    one, other = process(), process()
    other.track_version("m", 1, "UNLOADING")
    tables = live(one, other)

    assert tables.states == {VersionKey("m", "1"): "AVAILABLE"}
    assert tables.other_states == {(VersionKey("m", "1"), "UNLOADING")}
    samples = page([Part(0, Presence.LIVE, sent(one)), Part(1, Presence.LIVE, sent(other))])
    for state in ("AVAILABLE", "UNLOADING"):
        assert samples[f'cornet_model_state{{model="m",state="{state}",version="1"}}'] == 1


def test_the_slowest_load_is_shown() -> None:
    one, other = process(), process()
    other.track_load("m", 1, 0.75, "CPUExecutionProvider", warm_up_seconds=0.25)

    assert live(one, other).loads == {VersionKey("m", "1"): Load(0.75, 0.25, "CPUExecutionProvider")}


def test_the_page_says_which_worker_did_not_answer_and_leaves_its_process_out() -> None:
    parts = [Part(0, Presence.LIVE, sent(process())), Part(1, Presence.LATE, sent(process()))]
    samples = page(parts, restarts=(0, 4))

    assert (samples['cornet_worker_up{worker="0"}'], samples['cornet_worker_up{worker="1"}']) == (1, 0)
    assert samples['cornet_worker_restarts_total{worker="1"}'] == 4
    assert samples['process_resident_memory_bytes{worker="0"}'] > 0
    assert 'process_resident_memory_bytes{worker="1"}' not in samples


def test_the_other_servers_pages_are_merged_too() -> None:
    samples = page([Part(number, Presence.LIVE, sent(process(2))) for number in range(2)])

    assert samples['nv_inference_request_success{model="m",version="1"}'] == 4
    assert samples['nv_inference_count{model="m",version="1"}'] == 16
    assert samples[':tensorflow:serving:request_count{model_name="m",status="OK"}'] == 4


def test_a_worker_of_which_nothing_is_known_counts_for_nothing() -> None:
    samples = page([Part(0, Presence.LIVE, sent(process())), Part(1, Presence.GONE, None)])

    assert samples["cornet_workers"] == 2
    assert samples['cornet_worker_up{worker="1"}'] == 0


@pytest.mark.parametrize("snapshot", [{}, [], None, {"format": [0]}])
def test_another_version_s_snapshot_is_not_understood(snapshot: object) -> None:
    assert not is_understood(snapshot)
    assert is_understood(sent(process()))


def test_every_table_is_in_a_snapshot() -> None:
    """`started` is the supervisor's, `other_states` comes of merging."""
    carried = set(dump(Tables())) - {"format", "process"}

    assert {field.name for field in fields(Tables)} - carried == {"started", "other_states"}
