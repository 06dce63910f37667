"""Image data sets: what fits is read exactly, what does not is named."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.errors import DataError
from services.processing.image import ImageProcessor
from training.datasets.images import digits, holds_images, image_shape, is_idx, load_classes, load_images, read_idx
from training.datasets.probes import photographs, probe_folder

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 5, 4), np.uint8)
CLASSES = np.array([3, 1, 3, 7, 1, 7], np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(CLASSES)))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(PICTURES)))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for name, count in (("cat", 3), ("dog", 2)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 6), (index * 20, 0, 0)).save(root / name / f"{index}.png")
    return root


def test_gzipped_idx_finds_its_labels_beside_it(mnist: Path) -> None:
    loaded = load_images(mnist)
    np.testing.assert_array_equal(loaded.data.images, PICTURES)
    assert loaded.data.labels == ("1", "3", "7")
    assert loaded.data.targets.tolist() == [1, 0, 1, 2, 0, 2]


def test_plain_idx_reads_like_gzipped(mnist: Path, tmp_path: Path) -> None:
    plain = tmp_path / "t10k-images-idx3-ubyte"
    plain.write_bytes(gzip.decompress(mnist.read_bytes()))
    np.testing.assert_array_equal(load_images(plain).data.images, PICTURES)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "magic number"),
        (b"\x00\x00\x0d\x03" + idx(PICTURES)[4:], "magic number"),
        (idx(PICTURES)[:9], "header of 16 bytes"),
        (idx(PICTURES)[:-1], r"expected 120 bytes for shape \(6, 5, 4\).*Found: 119"),
        (idx(PICTURES) + b"\x00", "Found: 121"),
        (gzip.compress(idx(PICTURES))[:-9], "whole gzip file"),
    ],
)
def test_damaged_idx_is_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{complaint}"):
        read_idx(path)


def test_idx_without_labels_says_where_they_were_expected(mnist: Path) -> None:
    (mnist.parent / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"):
        load_images(mnist)


def test_idx_with_too_few_labels_is_refused(mnist: Path) -> None:
    (mnist.parent / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(CLASSES[:5])))
    with pytest.raises(DataError, match="expected 6 labels"):
        load_images(mnist)


def test_folder_names_are_the_classes(folder: Path) -> None:
    (folder / "cat" / ".hidden").write_text("no picture")
    (folder / "cat" / "Thumbs.db").write_text("no picture")
    data = load_images(folder).data
    assert data.labels == ("cat", "dog")
    assert data.targets.tolist() == [0, 0, 0, 1, 1]
    assert [Path(str(image)).name for image in data.images] == ["0.png", "1.png", "2.png", "0.png", "1.png"]


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "dog" / "notes.png").write_text("not a picture")
    with pytest.raises(DataError, match=r"dog/notes\.png: expected an image file"):
        load_images(folder)


def test_every_file_that_is_no_whole_image_is_named_before_training(folder: Path) -> None:
    whole = (folder / "cat" / "0.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[:45])
    (folder / "dog" / "0.png").write_bytes(whole[:45])
    data = load_images(folder).data
    with pytest.raises(DataError) as caught:
        data.encode(ImageProcessor.fit(4, 4, 3))
    for name in ("cat/1.png", "dog/0.png"):
        assert f"{name}: expected a whole image file" in str(caught.value).replace(f"{folder}/", "").replace(
            " (1.png)", ""
        )


def test_a_class_of_too_few_pictures_is_named_with_them(folder: Path) -> None:
    with pytest.raises(DataError, match=r"pets: expected at least 3 rows of every class.*'dog' twice \(.*dog/0\.png, "):
        load_classes(folder)


def test_an_empty_class_is_named(folder: Path) -> None:
    (folder / "emu").mkdir()
    with pytest.raises(DataError, match="emu: expected image files"):
        load_images(folder)


def test_the_hash_of_a_folder_follows_its_content(folder: Path) -> None:
    before = load_images(folder).sha256
    assert load_images(folder).sha256 == before
    Image.new("RGB", (8, 6), "white").save(folder / "cat" / "0.png")
    assert load_images(folder).sha256 != before


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y")])
def test_npz_reads_images_and_text_labels(tmp_path: Path, keys: tuple[str, str]) -> None:
    path = tmp_path / "pets.npz"
    np.savez(path, **{keys[0]: PICTURES.astype(np.float32), keys[1]: np.array(["b", "a"] * 3)})
    data = load_images(path).data
    assert isinstance(data.images, np.ndarray)
    assert data.images.dtype == np.uint8
    np.testing.assert_array_equal(data.images, PICTURES)
    assert data.labels == ("a", "b")


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"images": PICTURES}, "`images` and `labels`"),
        ({"images": PICTURES / 255.0, "labels": CLASSES}, "whole numbers from 0 to 255"),
        ({"images": PICTURES.astype(int) + 256, "labels": CLASSES}, "whole numbers from 0 to 255"),
        ({"images": PICTURES[..., None].repeat(2, -1), "labels": CLASSES}, r"\[N,H,W,1 or 3\]"),
        ({"images": PICTURES, "labels": CLASSES[:4]}, r"expected shape \(6,\)"),
        ({"images": PICTURES, "labels": CLASSES / 2}, "integers or strings"),
        ({"images": PICTURES, "labels": CLASSES * 0}, "two classes"),
    ],
)
def test_npz_that_does_not_fit_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str) -> None:
    path = tmp_path / "pets.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]  # a stub's **kwds
    with pytest.raises(DataError, match=rf"pets\.npz: .*{complaint}"):
        load_images(path)


def test_a_pickle_in_an_npz_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "pets.npz"
    np.savez(path, images=np.array([object()], dtype=object), labels=CLASSES[:1])
    with pytest.raises(DataError, match="plain arrays"):
        load_images(path)


def test_digits_use_the_whole_range_of_a_byte() -> None:
    loaded = digits()
    assert isinstance(loaded.data.images, np.ndarray)
    assert loaded.data.images.shape == (1797, 8, 8)
    assert (loaded.data.images.min(), loaded.data.images.max()) == (0, 255)
    assert loaded.sha256 == digits().sha256


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 3)])
def test_shape_comes_from_the_header(tmp_path: Path, mode: str, channels: int) -> None:
    path = tmp_path / "picture.png"
    Image.new(mode, (9, 4)).save(path)
    assert image_shape(path) == (4, 9, channels)


def test_probe_photographs_are_the_same_every_time() -> None:
    first, second = photographs(6), photographs(6)
    assert first.sha256 == second.sha256
    assert first.data.labels == ("china", "flower")
    assert first.data.targets.tolist() == [0, 1, 0, 1, 0, 1]


def test_probes_are_dealt_from_the_classes_in_turn(folder: Path) -> None:
    assert probe_folder(folder, 4).data.targets.tolist() == [0, 1, 0, 1]


def test_probes_without_classes_come_twice(folder: Path) -> None:
    data = probe_folder(folder / "cat", 6).data
    assert data.labels == ("0.png", "1.png", "2.png")
    assert data.targets.tolist() == [0, 0, 1, 1, 2, 2]


def test_tables_are_not_taken_for_pictures(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "part-0.parquet").touch()
    assert holds_images(tmp_path / "pictures")
    assert not holds_images(tmp_path / "table")
    for name in ("fidx.csv", "idx.csv", "idx3.parquet"):
        assert not is_idx(tmp_path / name)
    for name in ("t10k-images-idx3-ubyte.gz", "train-images.idx3-ubyte", "images.idx"):
        assert is_idx(tmp_path / name)
