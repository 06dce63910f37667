"""Text data sets: quotes, encodings and rows that do not fit."""

import sys
from pathlib import Path

import numpy as np
import pytest

from services.errors import DataError
from training.datasets.text import docstrings, load_texts


def write(tmp_path: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_quotes_in_a_tsv_are_plain_text(tmp_path: Path) -> None:
    path = write(tmp_path, "sms.tsv", "label\ttext\n" + 3 * 'ham\t"Hello, he said\nspam\tfree "entry" now\n')
    data = load_texts(path).data
    assert data.texts[:2] == ('"Hello, he said', 'free "entry" now')
    assert data.labels == ("ham", "spam")
    assert data.targets.tolist() == [0, 1] * 3


def test_quotes_in_a_csv_hold_fields_together(tmp_path: Path) -> None:
    path = write(tmp_path, "sms.csv", "text,label\r\n" + 3 * '"Hello, ""you"",\r\nthere",ham\r\nfree entry,spam\r\n')
    assert load_texts(path).data.texts[:2] == ('Hello, "you",\r\nthere', "free entry")


def test_a_bom_is_no_part_of_the_header(tmp_path: Path) -> None:
    path = write(tmp_path, "sms.tsv", "\ufefflabel\ttext\n" + 3 * "ham\thello there\nspam\tfree entry\n")
    assert load_texts(path, target="label").data.labels == ("ham", "spam")


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    path = write(
        tmp_path, "mail.tsv", "id\tsubject\tbody\tkind\n" + 3 * "1\thi\ta long one\tx\n2\tyo\tanother long one\ty\n"
    )
    assert load_texts(path, target="kind", text="subject").data.texts[:2] == ("hi", "yo")
    assert load_texts(path, target="kind").data.texts[:2] == ("a long one", "another long one")


def test_another_encoding_is_an_option(tmp_path: Path) -> None:
    path = write(tmp_path, "sms.tsv", "label\ttext\n" + 3 * "ham\tcafé au lait\nspam\tfree entry\n", "latin-1")
    assert load_texts(path, encoding="latin-1").data.texts[0] == "café au lait"
    with pytest.raises(DataError, match=r"sms\.tsv, line 2: expected utf-8 text.*0xe9"):
        load_texts(path)
    with pytest.raises(DataError, match="known text encoding"):
        load_texts(path, encoding="klingon")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("label\ttext\nham\thello\nspam\t  \n", "line 3, column 'text': expected a text. Found an empty one"),
        ("label\ttext\nham\thello\n\tfree\n", "line 3, column 'label'"),
        ("label\ttext\nham\thello\nspam\n", r"line 3: expected 2 fields \(label, text\). Found: 1"),
        ("label\ttext\nham\ta\tb\nspam\tfree\n", "line 2: expected 2 fields.*Found: 3"),
        ("label\ttext\nham\thello\nham\tfree\n", "at least two classes. Found only 'ham'"),
        (
            "label\ttext\nham\thello\nspam\thello\n",
            "column 'text': expected texts that differ. Found 'hello' in every row",
        ),
        (
            "label\ttext\n" + 3 * "ham\thello\n" + "\nspam\tfree\n",
            r"column 'label': expected at least 3 rows of every class.*Found 'spam' once \(line 6\)",
        ),
        ("label\ttext\n", "a header of two columns at least, and rows"),
        ("label\tlabel\nham\tspam\n", "different column names"),
        ("hello\nthere\n", "the first with 1 fields"),
        ("", "Found: 0 lines"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=rf"sms\.tsv.*{complaint}"):
        load_texts(write(tmp_path, "sms.tsv", text), target="label" if "label" in text else None)


def test_an_unknown_column_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "sms.tsv", "label\ttext\nham\thello\nspam\tfree\n")
    with pytest.raises(DataError, match=r"expected a column 'kind'\. Found: label, text"):
        load_texts(path, target="kind")


def test_broken_csv_quoting_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sms\.csv, line 3: expected CSV"):
        load_texts(write(tmp_path, "sms.csv", 'label,text\nham,hello\nham,"hello"there\nspam,free\n'))


def test_docstrings_come_from_files_and_are_repeatable() -> None:
    before = set(sys.modules)
    first = docstrings({"numpy": "numpy", "scipy": "scipy"})
    assert not {name for name in set(sys.modules) - before if name.partition(".")[0] == "scipy"}
    assert first.data.labels == ("numpy", "scipy")
    assert np.bincount(first.data.targets).tolist() == [500, 500]
    assert first.sha256 == docstrings({"numpy": "numpy", "scipy": "scipy"}).sha256


def test_docstrings_need_two_packages() -> None:
    with pytest.raises(DataError, match="two installed packages"):
        docstrings({"numpy": "numpy", "nowhere": "nowhere_to_be_found"})


def test_the_real_messages_keep_every_row(real_data: Path) -> None:
    data = load_texts(real_data / "sms_spam.tsv").data
    assert data.labels == ("ham", "spam")
    assert np.bincount(data.targets).tolist() == [4827, 747]
