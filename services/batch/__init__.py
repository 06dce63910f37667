"""Batch jobs: any model of a repository over files, a table or a bucket, to Parquet.

    from services.batch import run

    summary = run("vgg16", "photos/", "features/", progress=print)
    pandas.read_parquet("features/rows")

The same processing, backend and numbers as online serving. ONNX Runtime may round differently for another number of rows
in a run, in the last bits: answers are bit for bit those of an online request with the same rows; the batches of a shard
depend on the job's arguments alone, so that a restart gives the same bits, on one kind of machine and provider.

In a script that is run as a program, call `run` under `if __name__ == "__main__":`: decoding processes import the script
again. A notebook needs no such care.
"""

from os import fspath
from pathlib import Path
from typing import Literal

from services.batch.driver import ErrorRateExceeded, OutputDiffers, Progress, execute
from services.batch.job import JobOptions
from services.batch.summary import Summary
from services.tensors import DEFAULT_SIGNATURE

__all__ = ["ErrorRateExceeded", "JobOptions", "OutputDiffers", "Summary", "execute", "run"]


def run(
    model: str,
    input: str | Path,  # noqa: A002  # the command's own word
    output: str | Path,
    *,
    repository: str | Path = "exported_models",
    signature: str = DEFAULT_SIGNATURE,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    num_gpus_per_actor: float = 0.0,
    key: str | None = None,
    column: str | None = None,
    batch_rows: int = 0,
    shard_rows: int = 0,
    workers: int | None = None,
    limit: int | None = None,
    max_error_rate: float | None = None,
    overwrite: bool = False,
    providers: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Summary:
    """Run a model over an input and return the summary; called again with the same arguments it does what is missing.

    `model` is `NAME` or `NAME/VERSION`, and `signature` what of it is run; `input` a folder, glob, table (CSV, JSONL,
    Parquet) or fsspec URL; `output` a folder or URL. `progress` is called with (records done, bad ones, records in all).
    JobOptions explains the rest.

    Raises CornetError where the job cannot run, OutputDiffers where `output` belongs to another job, ErrorRateExceeded.
    """
    options = JobOptions(
        model,
        fspath(input),
        fspath(output),
        repository=Path(repository),
        engine=engine,
        address=address,
        num_gpus_per_actor=num_gpus_per_actor,
        key=key,
        column=column,
        batch_rows=batch_rows,
        shard_rows=shard_rows,
        workers=workers,
        limit=limit,
        max_error_rate=max_error_rate,
        overwrite=overwrite,
        providers=providers,
        signature=signature,
    )
    return execute(options, progress)
