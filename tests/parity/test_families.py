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
    "family",
    [family for family, pipeline in pipelines().items() if pipeline.task in {"text_classification", "text_to_image"}],
)


def check(published, format_, rows, want=None, signature="serving_default"):
    """Raises ParityError where the format answers `rows` differently from Keras, or from `want`."""
    want = published.keras(rows, signature) if want is None else want
    got = published.backends[format_].run(signature, rows, ())
    for output, answers in want.items():
        compare(format_, output, got[output], answers, tolerance_for(answers))


@every_family
@every_format
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_batch_of_any_size_is_answered_as_keras_does(exported, family, format_, batch):
    published = exported(family)
    for signature, endpoint in published.serving.endpoints.items():
        held_out = published.rows if endpoint.rows is None else endpoint.rows(published.rows)
        rows = {spec.name: held_out[spec.name][:batch] for spec in endpoint.signature.inputs}
        check(published, format_, rows, signature=signature)


@every_family
def test_names_types_and_shapes_are_the_same_in_onnx_and_manifest(exported, family):
    published = exported(family)
    found = published.backends["onnx"].signatures
    assert found == dict(published.exported.manifest.signatures)


@every_family
def test_the_saved_model_has_exactly_the_manifest_s_signatures_and_tensors(exported, family):
    published = exported(family)
    found, wanted = published.backends["saved_model"].signatures, published.exported.manifest.signatures
    assert set(found) == set(wanted)
    for key, signature in wanted.items():
        for side in ("inputs", "outputs"):
            specs = {spec.name: spec for spec in getattr(found[key], side)}
            assert specs == {spec.name: spec for spec in getattr(signature, side)}


@every_family
def test_each_output_of_each_format_was_proven(exported, family):
    manifest = exported(family).exported.manifest
    proven = {(record.signature, record.format, record.output) for record in manifest.parity}
    assert {each for each in proven if each[1] != "padding"} == {
        (key, format_, spec.name)
        for key, signature in manifest.signatures.items()
        for format_ in FORMATS
        for spec in signature.outputs
    }


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
    rows = {name: values[:5] for name, values in published.rows.items()}
    check(published, format_, {**rows, "tokens": rows["tokens"][:, :length]})


@text_families
@every_format
def test_padding_does_not_change_an_answer(exported, family, format_):
    published = exported(family)
    rows = {name: values[:7] for name, values in published.rows.items()}
    tokens = rows["tokens"][:, :6]
    padded = np.pad(tokens, ((0, 0), (0, 9)))
    check(published, format_, {**rows, "tokens": padded}, want=published.keras({**rows, "tokens": tokens}))
