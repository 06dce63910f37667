"""Texts to token ids, by a vocabulary of word pieces or of whole words learnt from the training texts."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer

from services.errors import DataError, ManifestError
from services.manifest import ASSETS_DIRECTORY, ProcessorSpec
from services.processing.base import Processor, Values
from services.processing.values import shown

TOKENIZER_FILE = f"{ASSETS_DIRECTORY}/tokenizer.json"
PADDING, UNKNOWN = "[PAD]", "[UNK]"
PADDING_ID, UNKNOWN_ID = 0, 1
CONTINUATION = "##"
CHARACTERS_PER_TOKEN = 64
"""A text is cut to `max_length` times this many characters first, so that a huge one costs no more than a long one."""


class TextProcessor(Processor):
    """Encodes texts as `tokens` i32 `[B, L]`, L the longest row of the batch and at most `max_length`.

    0 is padding and 1 an unknown token; a text without a token becomes one unknown token, so that no row is padding alone.
    The words `[PAD]` and `[UNK]` in a text are ordinary text.

        processor = TextProcessor.fit(texts, vocabulary_size=8000, max_length=128)
        processor.encode(["free entry!", ""])            # {"tokens": [[87, 412, 5], [1, 0, 0]]}
    """

    kind: ClassVar[str] = "text"
    pads: ClassVar[bool] = True

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        """Use `fit` or `load`. Raises ManifestError for a tokenizer without the two special ids."""
        if (tokenizer.token_to_id(PADDING), tokenizer.token_to_id(UNKNOWN)) != (PADDING_ID, UNKNOWN_ID):
            raise ManifestError(f"{TOKENIZER_FILE}: expected {PADDING} as id 0 and {UNKNOWN} as id 1.")
        self._tokenizer = tokenizer
        self._max_length = max_length

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        *,
        vocabulary_size: int = 8000,
        max_length: int = 128,
        lowercase: bool = True,
        min_frequency: int = 2,
        pieces: bool = True,
    ) -> Self:
        """Learn a vocabulary of at most `vocabulary_size` tokens, padding and unknown included; equal texts, equal ids.

        A token must occur `min_frequency` times. `lowercase` also drops accents. Without `pieces` a token is a whole word,
        and any other is unknown. Raises DataError without a word.
        """
        if vocabulary_size < 3 or max_length < 1:
            raise DataError(
                "Expected a vocabulary_size of at least 3 and a max_length of at least 1. "
                f"Received: vocabulary_size={vocabulary_size}, max_length={max_length}."
            )
        words = _words([_check(index, text) for index, text in enumerate(texts)], lowercase)
        if not words:
            raise DataError("Expected texts to learn a vocabulary from. Received: none with a word.")
        if pieces:
            vocabulary = _learn(words, vocabulary_size, min_frequency)
            return cls(_tokenizer(WordPiece(vocabulary, unk_token=UNKNOWN), lowercase), max_length)
        whole = _whole(words, vocabulary_size, min_frequency)
        return cls(_tokenizer(WordLevel(whole, unk_token=UNKNOWN), lowercase), max_length)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, padding and unknown included."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def max_length(self) -> int:
        """Most tokens of a row; the rest of a text is not read."""
        return self._max_length

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every token but the two special ones, by id."""
        size = self.vocabulary_size
        return tuple(str(self._tokenizer.id_to_token(index)) for index in range(UNKNOWN_ID + 1, size))

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text as `encode` reads it, for reports and debugging."""
        return [str(self._tokenizer.id_to_token(i)) for i in self._ids(0, text)]

    def encode(self, records: Values) -> dict[str, np.ndarray]:
        """Raises DataError naming the record that is no text."""
        rows = [self._ids(index, text) for index, text in enumerate(records)]
        tokens = np.full((len(rows), max(map(len, rows), default=1)), PADDING_ID, np.int32)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        return {"tokens": tokens}

    def save(self, directory: Path) -> ProcessorSpec:
        path = directory / TOKENIZER_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._tokenizer.to_str(pretty=False) + "\n", encoding="utf-8")
        return ProcessorSpec(self.kind, {"max_length": self._max_length}, (TOKENIZER_FILE,))

    @classmethod
    def load(cls, directory: Path, spec: ProcessorSpec) -> Self:
        max_length = spec.options.get("max_length")
        if set(spec.options) != {"max_length"} or type(max_length) is not int or max_length < 1:
            raise ManifestError(
                f"manifest.processor.options: expected max_length of at least 1. Received: {shown(dict(spec.options))}."
            )
        if spec.files != (TOKENIZER_FILE,):
            raise ManifestError(
                f"manifest.processor.files: expected {TOKENIZER_FILE}. Received: {', '.join(spec.files) or 'none'}."
            )
        try:
            text = (directory / TOKENIZER_FILE).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ManifestError(f"{TOKENIZER_FILE}: expected a text file. Received: {type(error).__name__}.") from error
        return cls(_parse(text), max_length)

    def _ids(self, index: int, text: Any) -> list[int]:
        cut = _check(index, text)[: self._max_length * CHARACTERS_PER_TOKEN]
        # One call per text: the batch call starts a thread pool, which warns in every process that forks later.
        ids: list[int] = self._tokenizer.encode(cut, add_special_tokens=False).ids[: self._max_length]
        return ids or [UNKNOWN_ID]


def _tokenizer(model: WordPiece | WordLevel, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _words(texts: list[str], lowercase: bool) -> Counter[str]:
    """How often each word occurs, normalised and split as `encode` does it."""
    normalize, split = BertNormalizer(lowercase=lowercase).normalize_str, BertPreTokenizer().pre_tokenize_str
    return Counter(word for text in texts for word, _ in split(normalize(text)))


def _learn(words: Counter[str], vocabulary_size: int, min_frequency: int) -> dict[str, int]:
    """Token to id: the two special ones, then characters, then the pieces that merging frequent pairs gives.

    The trainer numbers the characters that continue a word in the order of a hash map, and breaks ties by these numbers:
    equal texts would give different vocabularies. Naming those characters beforehand, sorted, makes it repeatable. The
    rarest characters are left out where they would fill more than half of the vocabulary: they become unknown words.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in _characters(word):
            counts[character] += count
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    kept = set(frequent[: max(1, (vocabulary_size - 2) // 2)])
    trainer = WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        special_tokens=[PADDING, UNKNOWN, *sorted(kept)],
        show_progress=False,
    )
    tokenizer = Tokenizer(WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    known = {word: count for word, count in words.items() if kept.issuperset(_characters(word))}
    tokenizer.train_from_iterator((f"{word} " * count for word, count in sorted(known.items())), trainer)
    # The caller builds its tokenizer from the vocabulary alone: the trainer's would find special tokens in a client's text.
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def _whole(words: Counter[str], vocabulary_size: int, min_frequency: int) -> dict[str, int]:
    """Token to id: the two special ones, then the most frequent words."""
    frequent = sorted((word for word in words if words[word] >= min_frequency), key=lambda word: (-words[word], word))
    return {token: index for index, token in enumerate([PADDING, UNKNOWN, *frequent[: vocabulary_size - 2]])}


def _characters(word: str) -> Iterable[str]:
    return (CONTINUATION + character if position else character for position, character in enumerate(word))


def _parse(text: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception for malformed JSON
        raise ManifestError(f"{TOKENIZER_FILE}: expected a tokenizer. Received: {shown(str(error))}.") from error


def _check(index: int, text: Any) -> str:
    if not isinstance(text, str):
        raise DataError(f"record {index}: expected a text. Received: {shown(text)}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"record {index}: expected Unicode text. Received: {error.reason} at {error.start}.") from None
    return text
