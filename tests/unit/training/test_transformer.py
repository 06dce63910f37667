"""The text classifiers, transformer and recurrent: padding changes nothing, any token id has an answer, length stays free."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.engine.backend import BackendOptions, OnnxBackend
from services.errors import InvalidArgument
from training.datasets.text import Texts
from training.environment import import_keras
from training.formats import serving_function
from training.onnx_format import write_onnx
from training.options import parse
from training.pipeline import Examples, Pipeline, ServingModel, Source
from training.pipelines import lstm
from training.pipelines.transformer import PIPELINE, Options
from training.runner import predict

WORDS = ("free", "entry", "win", "prize", "hello", "lunch", "home", "soon")


def options(*settings: str) -> Options:
    small = ("width=8", "heads=2", "feed_forward=16", "length=24", "vocabulary_size=60", "epochs=2")
    return parse(Options, [*small, *settings])


def messages() -> Texts:
    texts = tuple(" ".join(pair) for pair in itertools.product(WORDS, WORDS))
    targets = np.array([int(WORDS.index(text.split()[0]) < 4) for text in texts])
    return Texts(texts, targets, ("ham", "spam"))


def recurrent(*settings: str) -> lstm.Options:
    small = ("task=text_classification", "width=8", "units=6", "length=24", "vocabulary_size=60")
    return parse(lstm.Options, [*small, *settings])


def serving_of(chosen: Any) -> tuple[ServingModel, Examples]:
    data = messages()
    pipeline: Pipeline[Any, Any] = (PIPELINE if isinstance(chosen, Options) else lstm.PIPELINE).chosen(chosen)
    processor = pipeline.fit_processor(data, chosen)
    rows = pipeline.examples(data, processor, chosen)
    import_keras(chosen.seed, deterministic=False)
    model = pipeline.build(rows, processor, chosen)
    random = np.random.default_rng(2)
    weights = model.trainable_weights
    for weight in weights:
        weight.assign(np.asarray(weight) + random.normal(size=weight.shape, scale=0.3))
    return pipeline.serving_model(model, rows, rows, processor, chosen), rows


def answer(serving: ServingModel, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(serving.model({"tokens": tokens.astype(np.int32)}, training=False)["probabilities"])


VARIANTS = {
    "default": options(),
    "learned positions, max": options("positions=learned", "pooling=max", "blocks=1"),
    "one head": options("heads=1"),
    "bidirectional lstm, max": recurrent("layers=2", "bidirectional=true", "pooling=max"),
    "simple rnn": recurrent("cell=simple_rnn"),
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> ServingModel:
    return serving_of(VARIANTS[request.param])[0]


@pytest.mark.parametrize("padding", [1, 3, 8, 17])
def test_padding_changes_no_answer(variant: ServingModel, padding: int) -> None:
    tokens = np.random.default_rng(0).integers(1, 20, (5, 7))
    padded = np.pad(tokens, ((0, 0), (0, padding)))
    np.testing.assert_allclose(answer(variant, padded), answer(variant, tokens), rtol=2e-6)


def test_a_token_anywhere_does_change_the_answer(variant: ServingModel) -> None:
    tokens = np.random.default_rng(0).integers(1, 20, (1, 7))
    for place in range(7):
        other = tokens.copy()
        other[0, place] = 21
        assert np.abs(answer(variant, other) - answer(variant, tokens)).max() > 1e-5


def test_the_order_of_tokens_matters(variant: ServingModel) -> None:
    tokens = np.array([[3, 4, 5, 6, 7, 8]])
    assert np.abs(answer(variant, tokens[:, ::-1]) - answer(variant, tokens)).max() > 1e-5


def test_a_neighbour_in_the_batch_changes_no_answer(variant: ServingModel) -> None:
    tokens = np.random.default_rng(0).integers(1, 20, (5, 7))
    together = answer(variant, tokens)
    apart = np.concatenate([answer(variant, row[None]) for row in tokens])
    np.testing.assert_allclose(together, apart, rtol=2e-6)


def test_what_is_past_the_length_is_not_read(variant: ServingModel) -> None:
    tokens = np.random.default_rng(0).integers(1, 20, (2, 40))
    np.testing.assert_allclose(answer(variant, tokens), answer(variant, tokens[:, :24]), rtol=2e-6)


def test_ids_outside_the_vocabulary_are_unknown_tokens(variant: ServingModel) -> None:
    strange = answer(variant, np.array([[3, 10_000, -5, 4]]))
    np.testing.assert_array_equal(strange, answer(variant, np.array([[3, 1, 1, 4]])))


def test_a_row_of_padding_alone_has_an_answer(variant: ServingModel) -> None:
    assert np.isfinite(answer(variant, np.zeros((2, 4)))).all()


def test_batch_and_length_are_free_in_the_onnx_file(variant: ServingModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    function = serving_function(variant.model, variant.signature)
    write_onnx(path, variant.model, function, variant.signature, name="transformer")
    backend = OnnxBackend(path, BackendOptions())
    random = np.random.default_rng(0)
    for rows, length in itertools.product((1, 5), (1, 8, 24, 40)):
        tokens = random.integers(0, 70, (rows, length)).astype(np.int32)
        got = backend.run("serving_default", {"tokens": tokens}, ())["probabilities"]
        np.testing.assert_allclose(got, answer(variant, tokens), rtol=1e-5, atol=1e-7)
    backend.close()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras's saving
def test_a_model_of_our_layers_is_saved_and_loaded(tmp_path: Path) -> None:
    serving, rows = serving_of(options())
    import keras

    serving.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tokens = rows.inputs["tokens"]
    np.testing.assert_array_equal(loaded({"tokens": tokens})["probabilities"], answer(serving, tokens))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InvalidArgument, match="heads=3, width=8"):
        options("heads=3")


def test_the_sinusoids_are_those_of_the_paper() -> None:
    import_keras(0, deterministic=False)
    from training.layers.text import sinusoids

    table = sinusoids(50, 6)
    np.testing.assert_array_equal(table[0], [0, 1, 0, 1, 0, 1])
    np.testing.assert_allclose(table[7, 2], np.sin(7 / 10_000 ** (2 / 6)), rtol=1e-6)
    np.testing.assert_allclose(table[7, 3], np.cos(7 / 10_000 ** (2 / 6)), rtol=1e-6)


def test_the_vocabulary_is_learnt_from_the_training_part_alone() -> None:
    data = messages()
    rare = Texts(("zebra zebra zebra",), np.array([0]), data.labels)
    processor = PIPELINE.fit_processor(data, options())
    assert (PIPELINE.examples(rare, processor, options()).inputs["tokens"] == 1).all()


def test_batches_hold_each_row_once_and_follow_the_epoch() -> None:
    import_keras(0, deterministic=False)
    from training.batches import training_batches, validation_batches

    lengths = np.random.default_rng(0).integers(1, 24, 50)
    tokens = np.where(np.arange(24) < lengths[:, None], 5, 0).astype(np.int32)
    rows = Examples({"tokens": tokens}, np.arange(50))
    dataset = training_batches(rows, 8, seed=1)
    epochs = [[targets.tolist() for _, targets in dataset.as_numpy_iterator()] for _ in range(2)]
    assert [sorted(itertools.chain(*epoch)) for epoch in epochs] == [list(range(50))] * 2
    assert epochs[0] != epochs[1]
    resumed = training_batches(rows, 8, seed=1, first_epoch=1)
    assert [targets.tolist() for _, targets in resumed.as_numpy_iterator()] == epochs[1]
    for inputs, targets in validation_batches(rows, 8).as_numpy_iterator():
        np.testing.assert_array_equal((inputs["tokens"] != 0).sum(axis=1), lengths[targets])


def test_real_spam_is_found_after_a_few_epochs(fitted: Callable[..., Any], real_data: Path) -> None:
    chosen = parse(Options, ["epochs=4", "blocks=1"])
    run = fitted(PIPELINE, chosen, Source(real_data / "sms_spam.tsv"))
    outputs = predict(run.serving, run.test.inputs)
    metrics = PIPELINE.evaluate(outputs, run.test, chosen)
    baseline = PIPELINE.baseline(run.train, run.test, chosen).metrics
    for plot in PIPELINE.figures(outputs, run.test, run.serving, chosen):
        plot.figure.canvas.draw()
    assert metrics["accuracy"] > 0.975
    assert metrics["f1_spam"] > 0.9
    assert baseline["f1_spam"] > 0.9
