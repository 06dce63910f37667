"""Inputs and outputs on an object store: moto's S3 on loopback."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from services.batch import OutputDiffers, run


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("photos")
        yield "s3://photos"
    server.stop()


def test_pictures_come_from_a_prefix_and_rows_go_to_one(repository: Path, pictures: Path, bucket: str) -> None:
    store = fsspec.filesystem("s3", use_listings_cache=False)
    for file in sorted(pictures.iterdir()):
        store.put_file(str(file), f"photos/in/{int(file.stem) % 2}/{file.name}")
    store.pipe_file("photos/in/broken.png", b"no picture")

    def job(**options: int) -> int:
        summary = run(
            "cnn", f"{bucket}/in/", f"{bucket}/out", repository=repository, shard_rows=4, workers=0, **options
        )
        assert (summary.rows, summary.errors) == (10, 1)
        return summary.computed

    assert job() == 11
    with store.open("photos/out/rows/part-000001.parquet") as file:
        assert pq.read_table(file).column("key").to_pylist() == ["0/6.png", "0/8.png", "1/1.png", "1/3.png"]
    with store.open("photos/out/errors.parquet") as file:
        assert pq.read_table(file).column("key").to_pylist() == ["broken.png"]
    assert json.loads(store.cat_file("photos/out/summary.json"))["output"] == "s3://photos/out"
    store.rm_file("photos/out/rows/part-000001.parquet")
    assert job() == 4
    with pytest.raises(OutputDiffers):
        job(batch_rows=2)
