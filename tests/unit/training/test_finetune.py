"""Transfer learning: two stages on a small network, what is frozen in each, and that transfer transfers."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from services.errors import DataError, FailedPrecondition, InvalidArgument
from services.manifest import sha256
from training.environment import import_keras
from training.options import parse
from training.pipeline import Examples, Source
from training.pipelines.finetune import PIPELINE, Options
from training.pretrained import settle
from training.runner import Interrupted, Job, Outcome, train

import_keras(0, deterministic=False)

import keras  # noqa: E402  # after the quiet import

# Keras turns TensorFlow variables into arrays by a protocol that numpy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TINY = ("backbone=vgg16", "height=32", "width=32", "deterministic=false")


def options(*settings: str) -> Options:
    return parse(Options, [*TINY, "weights=random", *settings])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of pictures in colour, told apart by their brightness, one class rarer."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("photos")
    for name, count, level in (("day", 30, 160), ("night", 12, 20)):
        (folder / name).mkdir()
        for index in range(count):
            pixels = level + random.integers(0, 60, (40, 40, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def job(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    work = tmp_path_factory.mktemp("work")
    chosen = options("epochs=3", "fine_epochs=2", "batch_size=8", "learning_rate=0.02")
    return Job(PIPELINE, chosen, Source(folder), "daytime", work / "models", work / "runs", diagnose=True)


def run(job: Job) -> tuple[Outcome, str]:
    console = Console(file=io.StringIO(), width=120)
    outcome = train(job, console)
    assert isinstance(console.file, io.StringIO)
    return outcome, console.file.getvalue()


@pytest.fixture(scope="module")
def whole(job: Job) -> tuple[Outcome, str]:
    return run(job)


def built(data: Source, chosen: Options) -> tuple[keras.Model, Examples, Examples]:
    split = PIPELINE.split(PIPELINE.load(data, chosen).data, chosen)
    processor = PIPELINE.fit_processor(split.train, chosen)
    train_part, validation = (PIPELINE.examples(part, processor, chosen) for part in (split.train, split.validation))
    import_keras(chosen.seed, deterministic=False)
    return PIPELINE.build(train_part, processor, chosen), train_part, validation


def test_a_folder_is_learnt_in_two_stages_exported_and_reported(whole: tuple[Outcome, str]) -> None:
    outcome, printed = whole
    assert outcome.metrics["accuracy"] > 0.8
    assert [round(entry["learning_rate"], 6) for entry in outcome.history] == [0.02, 0.02, 0.02, 0.002, 0.002]
    for text in (printed, outcome.run.report.read_text(encoding="utf-8")):
        assert "fine-tuning took accuracy on held-out rows from" in text
    assert "features of the frozen backbone: " in printed
    assert outcome.exported.manifest.labels == ("day", "night")
    assert outcome.exported.manifest.provenance.base_weights == "random"
    assert outcome.exported.manifest.provenance.options["backbone"] == "vgg16"


def test_the_head_is_diagnosed_on_features_and_then_what_is_unfrozen_with_it(whole: tuple[Outcome, str]) -> None:
    diagnosis = whole[0].diagnosis
    assert diagnosis
    assert [(epoch.epoch, epoch.stage) for epoch in diagnosis.epochs] == [
        *((epoch, "head") for epoch in (1, 2, 3)),
        *((epoch, "fine-tuning") for epoch in (4, 5)),
    ]
    assert [len(epochs[0].gradient_norm) for epochs in diagnosis.stages.values()] == [1, 5]
    assert diagnosis.layers[-1] in diagnosis.epochs[0].update_ratio
    assert diagnosis.layers[0].startswith("block4_conv3")


def test_a_run_resumed_in_its_second_stage_ends_as_if_never_interrupted(
    job: Job, whole: tuple[Outcome, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.callbacks import EpochProgress

    class Interrupting(EpochProgress):
        seen = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if self.seen == 4:
                raise KeyboardInterrupt
            self.seen += 1

    job = replace(job, name="after-4")
    with monkeypatch.context() as patched:
        patched.setattr("training.callbacks.EpochProgress", Interrupting)
        with pytest.raises(Interrupted, match="after 4 epochs"):
            run(job)
    outcome, _ = run(replace(job, resume=True))
    losses = [[entry["loss"] for entry in result.history] for result in (outcome, whole[0])]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    assert outcome.diagnosis
    assert [epoch.epoch for epoch in outcome.diagnosis.epochs] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("pretrained", [True, False])
def test_the_first_stage_changes_the_head_and_the_second_the_last_layers_and_normalisation_that_was_not_pretrained(
    folder: Path, tmp_path: Path, pretrained: bool
) -> None:
    weights = tmp_path / "base.weights.h5"
    if pretrained:
        network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 32, 3))
        settle(network, np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32))
        network.save_weights(weights)
    start = f"weights={weights}" if pretrained else "weights=random"
    chosen = options("backbone=mobilenet", "epochs=1", "fine_epochs=1", "unfreeze=2", start)
    model, train_part, validation = built(Source(folder), chosen)
    head, fine = PIPELINE.stages(chosen)
    base = next(layer for layer in model.layers if layer.name.startswith("mobilenet"))

    before = base.get_weights()
    PIPELINE.fit(model, train_part, validation, head.options, [])
    assert all(np.array_equal(a, b) for a, b in zip(before, base.get_weights(), strict=True))

    PIPELINE.begin(model, train_part, fine.options)
    PIPELINE.fit(model, train_part, validation, fine.options, [])
    changed = [
        weight.path
        for weight, was in zip(base.weights, before, strict=True)
        if not np.array_equal(np.asarray(weight), was)
    ]
    kernels = {"conv_dw_13", "conv_pw_13"}
    normalisation = set() if pretrained else {"conv_dw_13_bn", "conv_pw_13_bn"}
    assert {path.split("/")[0] for path in changed} == kernels | normalisation


def test_features_that_are_computed_once_train_as_pictures_do(folder: Path) -> None:
    losses = []
    for augment in ("never", "always"):
        chosen = options("epochs=2", "unfreeze=0", "dropout=0", f"augment={augment}")
        model, train_part, validation = built(Source(folder), chosen)
        for layer in model.layers:
            if layer.name.startswith("random_"):
                layer.call = lambda images, **_: images  # nothing is moved, so that both ways see the same pictures
        history = keras.callbacks.History()
        PIPELINE.fit(model, train_part, validation, chosen, [history])
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_balanced_weights_and_their_absence(folder: Path) -> None:
    weighed = built(Source(folder), options("class_weights=balanced"))[1]
    assert weighed.weights is not None
    sums = [weighed.weights[weighed.targets == label].sum() for label in (0, 1)]
    assert sums[0] == pytest.approx(sums[1])
    assert built(Source(folder), options())[1].weights is None


@pytest.mark.parametrize(
    ("settings", "side"),
    [(("backbone=resnet50",), 64), (("backbone=xception",), 71), (("height=48", "width=96"), (48, 96))],
)
def test_small_pictures_are_enlarged_to_what_the_backbone_can_use(settings: tuple[str, ...], side: Any) -> None:
    chosen = parse(Options, ["weights=random", *settings])
    data = PIPELINE.load(Source(), chosen).data
    height, width, channels = PIPELINE.fit_processor(data, chosen).shape
    assert (height, width) == (side if isinstance(side, tuple) else (side, side))
    assert channels == 3


def test_large_pictures_come_down_to_the_backbone_s_own_size() -> None:
    chosen = parse(Options, ["weights=random", "backbone=efficientnetv2-b1"])
    data = replace(PIPELINE.load(Source(), chosen).data, images=[np.zeros((900, 700, 3), np.uint8)] * 1797)
    assert PIPELINE.fit_processor(data, chosen).shape == (240, 240, 3)


def test_a_mirror_is_only_where_it_was_asked_for(folder: Path) -> None:
    names = [
        [layer.name for layer in built(Source(folder), options(*more))[0].layers if layer.name.startswith("random")]
        for more in ((), ("mirror=true",), ("augment=never",))
    ]
    assert [len(found) for found in names] == [3, 4, 0]
    assert names[1][3].startswith("random_flip")


def test_a_weights_file_is_known_by_its_hash_and_another_does_not_resume_a_run(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "base.weights.h5"
    path.write_bytes(b"no weights")
    job = replace(job, name="weighed", options=parse(Options, [*TINY, f"weights={path}"]))
    with pytest.raises(DataError, match=r"base\.weights\.h5: expected the weights of VGG16"):
        run(job)
    before = sha256(path)
    path.write_bytes(b"none either")
    changed = f"base_weights was 'sha256:{before}' and is now 'sha256:{sha256(path)}'"
    with pytest.raises(FailedPrecondition, match=changed):
        run(replace(job, resume=True))
    path.unlink()
    with pytest.raises(InvalidArgument, match="where there is no file"):
        run(job)


def test_a_published_version_is_known_by_the_hash_of_its_weights(whole: tuple[Outcome, str]) -> None:
    exported = whole[0].exported
    known = exported.manifest.files["variables/variables.data-00000-of-00001"]
    assert PIPELINE.base_weights(options(f"weights={exported.path}")) == f"sha256:{known}"


def test_what_cannot_be_is_refused_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="Did you mean mobilenetv2"):
        options("backbone=mobilenetv5")
    with pytest.raises(InvalidArgument, match="expected at least 32 pixels for vgg16"):
        options("height=16")
    with pytest.raises(InvalidArgument, match="Option unfreeze: expected at most"):
        built(Source(folder), options("unfreeze=500"))
    for name, count in (("many", 20), ("few", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (40, 40)).save(tmp_path / name / f"{index}.png")
    with pytest.raises(DataError, match="few"):
        built(Source(tmp_path), options())
