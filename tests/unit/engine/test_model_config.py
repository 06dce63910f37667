from pathlib import Path

import pytest

from services.engine.model_config import BatchingConfig, BatchingOptions, load_models_file
from services.engine.version_policy import All, Latest, Specific
from services.errors import InvalidArgument
from services.manifest import BatchingHints


def read(tmp_path: Path, text: str):
    path = tmp_path / "models.toml"
    path.write_text(text)
    return load_models_file(path)


def test_an_empty_table_serves_the_latest_version_beside_the_file(tmp_path):
    (config,) = read(tmp_path, "[models.regressor]")
    assert (config.name, config.path, config.policy) == ("regressor", tmp_path / "regressor", Latest(1))
    assert config.batching == BatchingConfig()


def test_paths_are_relative_to_the_file(tmp_path):
    one, other = read(tmp_path, 'repository = "store"\n[models.a]\n[models.b]\npath = "elsewhere/b"')
    assert one.path == tmp_path / "store" / "a"
    assert other.path == tmp_path / "elsewhere" / "b"


@pytest.mark.parametrize(
    ("value", "policy"),
    [
        ('"latest"', Latest(1)),
        ("{ latest = 3 }", Latest(3)),
        ('"all"', All()),
        ("[5, 3, 5]", Specific((3, 5))),
    ],
)
def test_every_version_policy_can_be_written(tmp_path, value, policy):
    (config,) = read(tmp_path, f"[models.m]\nversions = {value}")
    assert config.policy == policy


def test_labels_and_batching_are_read(tmp_path):
    (config,) = read(
        tmp_path,
        "[models.m]\nlabels = { stable = 3 }\n[models.m.batching]\nallowed_batch_rows = [1, 4]\nmax_queue_delay_us = 0",
    )
    assert config.labels == {"stable": 3}
    assert config.batching == BatchingConfig(allowed_batch_rows=(1, 4), max_queue_delay_us=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 1", "expected only the keys repository, models. Received: model"),
        ("", r"at least one \[models.<name>\]"),
        ("models = 3", "models.toml.models: expected a dict"),
        ("[models]\nm = 3", "models.m: expected a table. Received: 3"),
        (
            "[models.m]\nversion = 3",
            "models.m: expected only the keys path, versions, labels, batching. Received: version",
        ),
        ("[models.m]\npath = 3", "models.m.path: expected a str"),
        ("[models.m]\nversions = 3", r"models.m.versions: expected \"latest\""),
        ("[models.m]\nversions = []", "Received: \\[\\]"),
        ("[models.m]\nversions = { latest = 0 }", "at least 1. Received: 0"),
        ("[models.m]\nlabels = { a = 'x' }", "models.m.labels.a: expected an integer"),
        (
            "[models.m.batching]\nmax_batch_size = 4",
            "expected only the keys max_batch_rows, .* Received: max_batch_size",
        ),
        ("[models.m.batching]\nmax_batch_rows = 0", "max_batch_rows: expected an integer of at least 1. Received: 0"),
        ("[models.m.batching]\nmax_batch_rows = true", "Received: True"),
        ("[models.m.batching]\nallowed_batch_rows = [4, 1]", "ascending"),
        ("[models.m.batching]\nallowed_batch_rows = [1, 4]\nmax_batch_rows = 8", "max_batch_rows, 8. Received: 4"),
        ("[models.m", "expected TOML"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, message):
    with pytest.raises(InvalidArgument, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidArgument, match=r"no such file"):
        load_models_file(tmp_path / "models.toml")


@pytest.mark.parametrize(
    ("config", "hints", "settled"),
    [
        (BatchingConfig(), None, BatchingOptions(64, 2048, 0)),
        (BatchingConfig(), BatchingHints(16, 300), BatchingOptions(16, 512, 300)),
        (BatchingConfig(8, 10, 0), BatchingHints(16, 300), BatchingOptions(8, 10, 0)),
        (BatchingConfig(allowed_batch_rows=(2, 32)), BatchingHints(16), BatchingOptions(32, 1024, 0, (2, 32))),
    ],
)
def test_the_user_s_word_goes_before_the_manifest_s_and_that_before_the_defaults(config, hints, settled):
    assert config.resolve(hints) == settled


def test_the_documented_example_is_valid():
    path = Path(__file__).parents[3] / "deploy" / "models.toml"
    names = {config.name for config in load_models_file(path)}
    assert names == {
        "regressor",
        "classifier",
        "cnn",
        "lstm",
        "transformer",
        "autoencoder",
        "vgg16",
        "text_to_image",
        "finetune",
        "rbm",
    }
