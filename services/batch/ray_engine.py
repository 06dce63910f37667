"""The engine for many machines: a Ray Data pipeline whose rows are shards.

    shards  ->  a pool of actors, one per model session: read, decode, compute, write  ->  a row of counts per shard

Only descriptions of shards and their counts pass through Ray's object store, a block for each: records and answers stay
within an actor, between the input and the output. Scheduling, retries and the pool that grows with the cluster are Ray's.
A shard that is processed twice because its first actor was lost is written twice under one name, and so is there once.

A cluster's nodes need this package, and the model repository, input and output under the same paths or URLs.
"""

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from services.batch.job import Job, JobOptions, Report, Shard, ShardResult, StageSeconds
from services.batch.shards import Session, open_session, process
from services.batch.storage import Storage
from services.cpus import available_cpus
from services.errors import CornetError, FailedPrecondition, Unavailable

_BLOCKS = 10_000  # more shards than that share blocks, as every block costs the driver a little
_RETRIES = 3  # of a shard whose actor dies: enough for lost nodes, and an end for a shard that kills whoever takes it
_OBJECT_STORE_BYTES = 128 * 2**20
_CONNECT_S = 10.0
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, 3.4
_HTTP2_SETTINGS = b"\x04"  # the type of the frame that a server begins with


def run_shards(job: Job, shards: Sequence[Shard], options: JobOptions, report: Report) -> None:
    """Process every shard on Ray; see `RunShards`.

    On `options.address`, else on the cluster that RAY_ADDRESS or this process's own `ray.init` names, else on a Ray of this
    machine's CPUs and GPUs, which is stopped at the end. An actor takes one CPU, or `num_gpus_per_actor` GPUs: with a
    fraction, several share a GPU, so that some decode while others compute. Raises FailedPrecondition where Ray is not
    installed or a local one lacks the GPUs, Unavailable where its cluster cannot be reached or a shard is given up.
    """
    if not shards:
        return
    with _ray(options.address, options.num_gpus_per_actor) as ray:
        rows = _pipeline(ray, job, shards, options.num_gpus_per_actor)
        with closing(_results(ray, rows)) as results:  # closed, the pipeline stops, whoever raised
            for result in results:
                report.advanced(result.rows + result.errors, result.errors)
                report.finished(result)


class ShardActor:
    """What Ray keeps alive per model session: takes descriptions of shards, answers counts.

    The model is opened with the first shard and not when the actor is made: what is wrong with it is then an answer like
    any other, and no dead actor that Ray starts again.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._session: Session | None = None

    def __call__(self, shards: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([self._process(Shard(**row)) for row in shards.to_pylist()])

    def _process(self, shard: Shard) -> dict[str, Any]:
        try:
            self._session = self._session or open_session(self._job)
            return asdict(process(self._session, shard)) | {"failure": None}
        except (CornetError, OSError) as error:
            return asdict(ShardResult(shard.index, 0, 0, StageSeconds())) | {"failure": f"Shard {shard.index}: {error}"}


def _pipeline(ray: Any, job: Job, shards: Sequence[Shard], gpus: float) -> Any:
    """The dataset of results, not yet running."""
    per_actor, name = (gpus, "GPU") if gpus else (1.0, "CPU")
    fit = int(ray.cluster_resources().get(name, 0) / per_actor)
    # Start what fits at once; the upper bound is for a cluster that grows, and Ray's own resources bound it below that.
    pool = ray.data.ActorPoolStrategy(
        min_size=1, initial_size=max(1, min(fit, len(shards))), max_size=len(shards), max_tasks_in_flight_per_actor=2
    )
    storage = Storage(job.output)
    job = replace(
        job,
        output=storage.root if storage.is_local else job.output,  # an actor has a working directory of its own
        intra_op_threads=job.intra_op_threads if gpus else 1,
    )
    with warnings.catch_warnings():
        # Of Ray's own use of its settings, and of its parameter for the retries of a task, which has no successor yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False  # the job has its own
        context.print_on_execution_start = False
        with ray.data.DataContext.current(context):
            rows = ray.data.from_items(
                [asdict(shard) for shard in shards], override_num_blocks=min(len(shards), _BLOCKS)
            )
            return rows.map_batches(
                ShardActor,
                fn_constructor_args=(job,),
                batch_size=1,
                batch_format="pyarrow",
                compute=pool,
                num_cpus=None if gpus else 1,
                num_gpus=gpus or None,
                max_task_retries=_RETRIES,
            )


def _results(ray: Any, rows: Any) -> Generator[ShardResult, None, None]:
    """Results as they come in. Raises what stopped a shard."""
    try:
        for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in table.to_pylist():
                failure = row.pop("failure")
                if failure is not None:
                    raise FailedPrecondition(failure)
                yield ShardResult(**row | {"seconds": StageSeconds(**row["seconds"])})
    except (ray.exceptions.RayTaskError, ray.exceptions.UserCodeException):
        raise  # a fault of ours: its traceback is what helps
    except ray.exceptions.RayError as error:
        raise Unavailable(
            f"Expected Ray to finish every shard. Received: {type(error).__name__}; the actor of one died {_RETRIES + 1} "
            "times, as it does when its machine is short of memory. What is finished is kept: run again to continue."
        ) from error


@contextmanager
def _ray(address: str | None, gpus: float) -> Iterator[Any]:
    """Ray, connected; see `run_shards` for to what. Raises FailedPrecondition, Unavailable."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    local = address is None
    ray = sys.modules.get("ray")
    if address is not None and not (ray and ray.is_initialized()):
        _look_for(address)  # before the import, which takes seconds
    ray = _import_ray(local=local)
    if ray.is_initialized():  # a notebook's own
        yield ray
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if local:
            ray.init(
                address="local",
                num_cpus=available_cpus(),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        raise Unavailable(f"Expected a Ray cluster{f' at {address}' if address else ''}. Received: {error}") from error
    try:
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which ends the process at once
        if local and gpus > ray.cluster_resources().get("GPU", 0):
            raise FailedPrecondition(
                f"Expected {gpus:g} GPUs per actor on this machine. Received: too few for one actor."
            )
        yield ray
    finally:
        ray.shutdown()  # leaves a cluster, and stops what this call has started


def _look_for(address: str) -> None:
    """Raises Unavailable where no gRPC server is at HOST:PORT or ray://HOST:PORT: Ray would look for its own for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` and whatever else Ray knows
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
                return
            connection.sendall(_HTTP2_PREFACE)
            begin = connection.recv(9)
    except (OSError, OverflowError, UnicodeError) as error:
        raise Unavailable(f"Expected a Ray cluster at {address}. Received: {error}.") from error
    if begin[3:4] != _HTTP2_SETTINGS:
        raise Unavailable(f"Expected a Ray cluster at {address}. Received: another server, such as Ray's dashboard.")


def _import_ray(*, local: bool) -> Any:
    """Import Ray as a batch job wants it: no usage statistics, and one of its own open to nobody else.

    Ray reads these names while it is imported and handed to its processes. What the user has set stays.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is raised, and said once
    if local and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        # On every platform what decides whether Ray binds to the loopback alone, in spite of its name.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray.data
    except ImportError as error:
        raise FailedPrecondition(
            "Expected the package ray for --engine ray. Received: an environment without it; install cornet[batch]."
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
