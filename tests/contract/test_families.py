"""Every family over the wire: each official client gets Keras's answers to held-out rows from one server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.launch import ServerProcess
from services.parity import compare, read_samples, tolerance_for
from services.processing import load_processor
from services.processing.answers import decode
from services.tensors import DEFAULT_SIGNATURE
from training.demo_clients import Clients, payload_of
from training.pipelines import pipelines

ROWS = 2
WORDS = ("label", "image")
"""Members of an answer that are exact."""

every_family = pytest.mark.parametrize("family", pipelines())


@pytest.fixture(scope="module")
def clients(exported: Callable[[str], Any], exported_repository: Path) -> Iterator[Clients]:
    """Clients of a server of all families."""
    for family in pipelines():
        exported(family)
    with ServerProcess(exported_repository) as server, Clients(server) as connected:
        yield connected


@every_family
@pytest.mark.parametrize("protocol", ["tfs_grpc", "oip_grpc", "tfs_rest", "oip_rest"])
def test_each_protocol_gives_keras_s_answers(
    clients: Clients, exported: Callable[[str], Any], family: str, protocol: str
) -> None:
    published = exported(family).exported
    inputs, want = ({name: rows[:ROWS] for name, rows in arrays.items()} for arrays in read_samples(published.path))
    outputs = {spec.name: spec for spec in published.manifest.signatures[DEFAULT_SIGNATURE].outputs}
    call = getattr(clients, protocol)

    got = call(family, inputs) if protocol.endswith("grpc") else call(family, inputs, outputs)

    assert set(got) == set(want)
    for name, rows in want.items():
        compare(protocol, name, got[name], rows, tolerance_for(rows))


@every_family
def test_the_typed_endpoint_names_keras_s_answers(
    clients: Clients, exported: Callable[[str], Any], family: str
) -> None:
    published, pipeline = exported(family), pipelines()[family]
    manifest = published.exported.manifest
    processor = load_processor(published.exported.path, manifest.processor)
    if pipeline.task == "text_classification":
        payload: list[Any] = ["Return the mean of the values along an axis.", "A plot."]
        inputs = processor.encode(payload)
    elif pipeline.task == "text_to_image":
        payload = [{"prompt": "a seven, bold", "temperature": 0.0, "seed": 1}, {"prompt": "the digit 3", "seed": 7}]
        inputs = processor.encode(payload)
    else:
        inputs = {name: rows[:ROWS] for name, rows in published.rows.items()}
        payload = payload_of(pipeline.task, next(iter(inputs.values())))
    want = decode(pipeline.task, published.keras(inputs), manifest.labels, columns=processor.names)

    got = clients.typed(pipeline.task, family, payload)

    for answer, expected in zip(got, want, strict=True):
        assert set(answer) == set(expected)
        assert [answer.get(name) for name in WORDS] == [expected.get(name) for name in WORDS]
        numbers, wanted = (_numbers({k: v for k, v in a.items() if k not in WORDS}) for a in (answer, expected))
        np.testing.assert_allclose(numbers, wanted, rtol=1e-3, atol=1e-4)


def _numbers(value: Any) -> list[float]:
    """Every number of a JSON value, by key where there are keys."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in _numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [float(value)]
