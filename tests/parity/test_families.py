"""Both formats of every family answer as the Keras model does, under the same names."""

import numpy as np
import pytest

from services.engine.verification import verify
from services.parity import compare, tolerance_for
from services.processing import load_processor
from training.pipelines import pipelines

FAMILIES = tuple(pipelines())
FORMATS = ("onnx", "saved_model")

every_family = pytest.mark.parametrize("family", FAMILIES)
every_format = pytest.mark.parametrize("format_", FORMATS)
text_families = pytest.mark.parametrize(
    "family", [family for family, pipeline in pipelines().items() if pipeline.task == "text_classification"]
)


def check(published, format_, rows, want=None):
    """Raises ParityError where the format answers `rows` differently from Keras, or from `want`."""
    want = published.keras(rows) if want is None else want
    got = published.backends[format_].run("serving_default", rows, ())
    for output, answers in want.items():
        compare(format_, output, got[output], answers, tolerance_for(answers))


@every_family
@every_format
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_batch_of_any_size_is_answered_as_keras_does(exported, family, format_, batch):
    published = exported(family)
    check(published, format_, {name: rows[:batch] for name, rows in published.rows.items()})


@every_family
def test_names_types_and_shapes_are_the_same_in_onnx_and_manifest(exported, family):
    published = exported(family)
    found = published.backends["onnx"].signatures
    assert found == dict(published.exported.manifest.signatures)


@every_family
def test_the_saved_model_has_one_signature_with_exactly_the_manifest_s_tensors(exported, family):
    published = exported(family)
    found = published.backends["saved_model"].signatures
    (wanted,) = published.exported.manifest.signatures.values()
    assert list(found) == ["serving_default"]
    for side in ("inputs", "outputs"):
        specs = {spec.name: spec for spec in getattr(found["serving_default"], side)}
        assert specs == {spec.name: spec for spec in getattr(wanted, side)}


@every_family
def test_each_output_of_each_format_was_proven(exported, family):
    manifest = exported(family).exported.manifest
    proven = {(record.format, record.output) for record in manifest.parity if record.format != "padding"}
    (signature,) = manifest.signatures.values()
    assert proven == {(format_, spec.name) for format_ in FORMATS for spec in signature.outputs}


@every_family
def test_verification_runs_both_formats_again(exported, family):
    result = verify(exported(family).exported.path, saved_model=True)
    assert result.problems == ()
    assert {record.format for record in result.parity} == set(FORMATS)


@every_family
def test_the_processor_is_found_again_beside_the_model(exported, family):
    published = exported(family)
    spec = published.exported.manifest.processor
    assert load_processor(published.exported.path, spec).save(published.exported.path) == spec


@text_families
@every_format
@pytest.mark.parametrize("length", [1, 5, 17])
def test_texts_of_any_length_are_answered_as_keras_does(exported, family, format_, length):
    published = exported(family)
    check(published, format_, {"tokens": published.rows["tokens"][:5, :length]})


@text_families
@every_format
def test_padding_does_not_change_an_answer(exported, family, format_):
    published = exported(family)
    tokens = published.rows["tokens"][:7, :6]
    padded = np.pad(tokens, ((0, 0), (0, 9)))
    check(published, format_, {"tokens": padded}, want=published.keras({"tokens": tokens}))
