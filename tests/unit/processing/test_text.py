"""Texts to token ids: equal for equal input, never an empty row, and the same after save and load."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing import load_processor
from services.processing.text import CHARACTERS_PER_TOKEN, TOKENIZER_FILE, TextProcessor

TEXTS = [
    "Free entry in a weekly draw!",
    "Are you free on Friday?",
    "Win a prize, text WIN to 80086",
    "See you on Friday",
] * 3
PROCESSOR = TextProcessor.fit(TEXTS, vocabulary_size=120, max_length=16)


def tokens(*texts: str) -> list[list[int]]:
    return PROCESSOR.encode(list(texts))["tokens"].tolist()  # type: ignore[no-any-return]  # numpy's tolist is Any


def test_rows_are_padded_with_zero_to_the_longest() -> None:
    encoded = PROCESSOR.encode(["free", "see you on friday"])["tokens"]
    assert encoded.dtype == np.int32
    assert encoded.shape == (2, 4)
    assert (encoded[0, 1:] == 0).all()
    assert (encoded[1] > 1).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    assert tokens("free", "see you on friday")[0][:1] == tokens("free")[0]


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\x00", "漢"])
def test_a_text_without_a_known_token_is_one_unknown_token(text: str) -> None:
    assert tokens(text) == [[1]]


def test_long_texts_are_cut_to_the_maximum() -> None:
    assert PROCESSOR.encode(["you " * 1000])["tokens"].shape == (1, 16)


def test_characters_beyond_the_bound_are_not_read() -> None:
    far = " " * (PROCESSOR.max_length * CHARACTERS_PER_TOKEN)
    assert tokens(far + "free") == [[1]]


def test_special_words_in_a_text_are_ordinary_text() -> None:
    assert 0 not in tokens("[PAD]")[0]
    assert len(tokens("[UNK]")[0]) > 1


def test_whole_words_are_known_or_not() -> None:
    whole = TextProcessor.fit(TEXTS, max_length=16, pieces=False)
    ids = whole.encode(["Free fridays, friday"])["tokens"][0]
    assert [whole.vocabulary[index - 2] if index > 1 else "" for index in ids] == ["free", "", ",", "friday"]


def test_equal_texts_learn_equal_vocabularies(tmp_path: Path) -> None:
    assets = set()
    for run in range(5):
        TextProcessor.fit(TEXTS, vocabulary_size=60, max_length=16).save(tmp_path / str(run))
        assets.add((tmp_path / str(run) / TOKENIZER_FILE).read_bytes())
    assert len(assets) == 1


@pytest.mark.parametrize("size", [3, 10, 30, 120])
def test_the_vocabulary_is_bounded_and_every_id_is_below_its_size(size: int) -> None:
    processor = TextProcessor.fit(TEXTS, vocabulary_size=size, max_length=16)
    assert processor.vocabulary_size <= size
    assert processor.encode(TEXTS)["tokens"].max() < processor.vocabulary_size


def test_case_and_accents_are_dropped_unless_asked_for() -> None:
    assert tokens("FREE Fríday") == tokens("free friday")
    cased = TextProcessor.fit(TEXTS, vocabulary_size=120, max_length=16, lowercase=False)
    assert cased.tokens("Win WIN") != cased.tokens("win win")


def test_tokens_names_what_encode_numbers() -> None:
    assert PROCESSOR.tokens("friday, free!") == ["friday", ",", "free", "!"]


def test_an_empty_batch_is_an_empty_tensor() -> None:
    assert PROCESSOR.encode([])["tokens"].shape == (0, 1)


@pytest.mark.parametrize("wrong", [None, 3, b"free", ["free"], {"text": "free"}, "\ud800"])
def test_what_is_no_text_is_refused_with_its_record(wrong: object) -> None:
    with pytest.raises(DataError, match=r"record 1: expected .*text"):
        PROCESSOR.encode(["free", wrong])


@pytest.mark.parametrize("texts", [[], ["", "  "]])
def test_texts_without_words_cannot_be_learnt_from(texts: list[str]) -> None:
    with pytest.raises(DataError, match="to learn a vocabulary from"):
        TextProcessor.fit(texts)


@pytest.mark.parametrize("options", [{"vocabulary_size": 2}, {"max_length": 0}])
def test_sizes_must_leave_room(options: dict[str, int]) -> None:
    with pytest.raises(DataError, match="vocabulary_size"):
        TextProcessor.fit(TEXTS, **options)  # type: ignore[arg-type]  # both options are integers


@given(st.lists(st.text(), min_size=1, max_size=5), st.lists(st.text(), max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_a_loaded_processor_encodes_as_the_saved_one(tmp_path: Path, training: list[str], texts: list[str]) -> None:
    processor = TextProcessor.fit([*TEXTS, *training], vocabulary_size=80, max_length=8)
    loaded = load_processor(tmp_path, processor.save(tmp_path))
    assert isinstance(loaded, TextProcessor)
    assert (loaded.vocabulary_size, loaded.max_length) == (processor.vocabulary_size, processor.max_length)
    np.testing.assert_array_equal(loaded.encode(texts)["tokens"], processor.encode(texts)["tokens"])


@pytest.mark.parametrize("content", ["no JSON", "{}", "[]", '{"model": {"type": "WordPiece", "vocab": {}}}'])
def test_a_malformed_asset_is_a_manifest_error(tmp_path: Path, content: str) -> None:
    spec = PROCESSOR.save(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=TOKENIZER_FILE):
        load_processor(tmp_path, spec)


@pytest.mark.parametrize(
    "options", [{}, {"max_length": "8"}, {"max_length": 0}, {"max_length": True}, {"max_length": 8, "x": 1}]
)
def test_malformed_options_are_a_manifest_error(tmp_path: Path, options: dict[str, object]) -> None:
    spec = PROCESSOR.save(tmp_path)
    with pytest.raises(ManifestError, match=r"manifest\.processor\.options"):
        load_processor(tmp_path, ProcessorSpec("text", options, spec.files))
