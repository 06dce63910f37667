"""Prompts to tensors: equal seeds give equal noise, what is left out has a default, what is wrong is named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing import load_processor
from services.processing.prompt import PromptProcessor

PROCESSOR = PromptProcessor.fit(["a bold seven", "the digit, 7"] * 2, noise=4, temperature=0.5, max_length=8)


def test_a_record_becomes_words_noise_and_temperature() -> None:
    encoded = PROCESSOR.encode([{"prompt": "A bold 7", "temperature": 0.25, "seed": 1}, "seven"])
    assert {name: (rows.dtype.name, rows.shape) for name, rows in encoded.items()} == {
        "tokens": ("int32", (2, 8)),
        "noise": ("float32", (2, 4)),
        "temperature": ("float32", (2,)),
    }
    assert (encoded["tokens"] > 0).sum(axis=1).tolist() == [3, 1]
    assert encoded["temperature"].tolist() == [0.25, 0.5]
    assert ((encoded["noise"] >= 0) & (encoded["noise"] < 1)).all()


def test_equal_seeds_give_equal_noise_and_other_seeds_other() -> None:
    records = [{"prompt": "seven", "seed": seed} for seed in (3, 3, 4)]
    noise = PROCESSOR.encode(records)["noise"]
    np.testing.assert_array_equal(noise[0], noise[1])
    assert not np.array_equal(noise[0], noise[2])
    np.testing.assert_array_equal(noise[0], np.random.default_rng(3).random(4, np.float32))


def test_without_a_seed_the_noise_is_another_each_time() -> None:
    first, second = (PROCESSOR.encode(["seven"])["noise"] for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_missing_cells_of_a_table_are_left_out(missing: Any) -> None:
    prompt = PROCESSOR.read({"prompt": "seven", "temperature": missing, "seed": missing})
    assert prompt.temperature == 0.5


@pytest.mark.parametrize(("written", "seed"), [("12", 12), (12.0, 12), (np.int64(12), 12), (2**63 - 1, 2**63 - 1)])
def test_a_seed_is_a_whole_number_however_a_table_writes_it(written: Any, seed: int) -> None:
    assert PROCESSOR.read({"prompt": "seven", "seed": written}).seed == seed


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (7, "record 0: prompt: expected a text. Received: 7"),
        ({"seed": 1}, "record 0: prompt: expected a text. Received: None"),
        ("", "record 0: prompt: expected a known word, out of 7, a, bold, digit, seven, the. Received: ''"),
        ("zebra !", "record 0: prompt: expected a known word"),
        (", ,", "record 0: prompt: expected a known word"),
        ("\ud800", "record 0: prompt: expected Unicode text"),
        (
            {"prompt": "seven", "temperature": -0.1},
            "record 0: temperature: expected a number from 0 to 100. Received: -0.1",
        ),
        ({"prompt": "seven", "temperature": float("inf")}, "record 0: temperature: expected a number"),
        ({"prompt": "seven", "temperature": True}, "record 0: temperature: expected a number"),
        ({"prompt": "seven", "temperature": "hot"}, "record 0: temperature: expected a number"),
        ({"prompt": "seven", "temperature": 101}, "record 0: temperature: expected a number"),
        ({"prompt": "seven", "seed": -1}, "record 0: seed: expected a whole number from 0 to"),
        ({"prompt": "seven", "seed": 1.5}, "record 0: seed: expected a whole number"),
        ({"prompt": "seven", "seed": 2**63}, "record 0: seed: expected a whole number"),
        ({"prompt": "seven", "seed": [1]}, "record 0: seed: expected a whole number"),
        (
            {"prompt": "seven", "temprature": 1},
            "record 0: expected only prompt, temperature, seed. Received: 'temprature'",
        ),
    ],
)
def test_what_is_wrong_is_named(record: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        PROCESSOR.encode([record])
    assert message in str(error.value)


def test_it_is_the_same_after_save_and_load(tmp_path: Path) -> None:
    loaded = load_processor(tmp_path, PROCESSOR.save(tmp_path))
    records = [{"prompt": "the bold digit zebra", "seed": 5}]
    for name, rows in PROCESSOR.encode(records).items():
        np.testing.assert_array_equal(loaded.encode(records)[name], rows)


@pytest.mark.parametrize("change", [{"noise": 0}, {"noise": "64"}, {"temperature": -1.0}, {"temperature": None}])
def test_options_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    spec = PROCESSOR.save(tmp_path)
    with pytest.raises(ManifestError, match="expected noise of at least 1 and a temperature of at least 0"):
        load_processor(tmp_path, ProcessorSpec(spec.kind, {**spec.options, **change}, spec.files))
