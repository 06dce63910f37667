"""Pictures as clients really send them: every mode and format, upright, on white, and nothing that is no picture."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing import load_processor
from services.processing.image import MAX_PIXELS, ImageProcessor

RGB = ImageProcessor.fit(height=8, width=12, channels=3)
GREY = ImageProcessor.fit(height=8, width=12, channels=1)
PICTURE = np.zeros((8, 12, 3), np.uint8)
PICTURE[:, :6] = (200, 30, 10)
PICTURE[:4, 6:] = (10, 220, 40)


def file(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(*records: object) -> np.ndarray:
    return RGB.encode(list(records))["image"]


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("BMP", 0), ("GIF", 0), ("WEBP", 40), ("JPEG", 40)])
def test_every_format_is_read(kind: str, tolerance: int) -> None:
    encoded = rgb(file(PICTURE, kind))
    assert (encoded.dtype, encoded.shape) == (np.uint8, (1, 8, 12, 3))
    middles = encoded[0, [2, 2, 6], [2, 9, 9]].astype(int)
    assert np.abs(middles - PICTURE[[2, 2, 6], [2, 9, 9]]).max() <= tolerance


def test_bytes_paths_arrays_and_pil_images_encode_alike(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(file(PICTURE))
    for record in (path.read_bytes(), bytearray(path.read_bytes()), path, PICTURE, Image.fromarray(PICTURE)):
        np.testing.assert_array_equal(rgb(record)[0], PICTURE)


def test_a_whole_array_of_the_target_shape_is_taken_as_it_is() -> None:
    batch = np.stack([PICTURE, PICTURE[::-1]])
    np.testing.assert_array_equal(RGB.encode(batch)["image"], batch)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    stored = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud}
    stored |= {5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1)}
    stored[8] = lambda a: np.rot90(a, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = np.ascontiguousarray(stored[orientation](PICTURE))
    np.testing.assert_array_equal(rgb(file(turned, "PNG", exif=exif.tobytes()))[0], PICTURE)


def test_a_damaged_exif_block_leaves_the_picture_as_stored() -> None:
    content = file(PICTURE, "JPEG", quality=95, exif=b"Exif\x00\x00MM\x00\x2a\x00\x00")
    assert rgb(content).shape == (1, 8, 12, 3)


def test_transparency_is_laid_on_white() -> None:
    half = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 128, np.uint8)])
    clear = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    assert (rgb(file(clear)) == 255).all()
    assert (rgb(clear) == 255).all()
    np.testing.assert_allclose(rgb(file(half))[0].astype(int), PICTURE * (128 / 255) + 127, atol=1.5)
    grey = Image.fromarray(np.dstack([np.full((8, 12), 9, np.uint8), np.zeros((8, 12), np.uint8)]))
    assert (GREY.encode([file(grey)])["image"] == 255).all()


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_transparency_is_laid_on_white(transparency: object) -> None:
    palette = Image.new("P", (12, 8), 0)
    palette.putpalette([10, 20, 30, 90, 80, 70])
    palette.paste(1, (6, 0, 12, 8))
    encoded = rgb(file(palette, "PNG", transparency=transparency))[0]
    assert (encoded[:, :6] == 255).all()
    assert (encoded[:, 6:] == (90, 80, 70)).all()


def test_grey_becomes_three_equal_channels_and_colour_becomes_luma() -> None:
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12)
    np.testing.assert_array_equal(
        rgb(file(grey), grey, grey[..., None]), np.repeat(grey[..., None], 3, 2)[None].repeat(3, 0)
    )
    luma = GREY.encode([file(PICTURE)])["image"][0, :, :, 0]
    np.testing.assert_allclose(luma, PICTURE @ [0.299, 0.587, 0.114], atol=1)


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    deep = np.linspace(0, 65535, 96).astype(np.uint16).reshape(8, 12)
    np.testing.assert_array_equal(GREY.encode([file(deep)])["image"][0, :, :, 0], deep >> 8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LA", "RGBA", "RGBX"])
def test_pil_images_of_every_mode_are_taken(mode: str) -> None:
    white = Image.new("RGB", (30, 20), "white").convert(mode)
    assert rgb(white).min() >= 254


def test_cmyk_jpeg_keeps_its_colours() -> None:
    content = file(Image.new("RGB", (12, 8), (200, 30, 10)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(rgb(content)[0].astype(int) - (200, 30, 10)).max() <= 6


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_counts(kind: str) -> None:
    frames = [Image.new("RGB", (12, 8), colour) for colour in ("white", "black")]
    assert rgb(file(frames[0], kind, save_all=True, append_images=frames[1:])).min() == 255


def test_pictures_are_stretched_to_the_target() -> None:
    large = np.kron(PICTURE, np.ones((10, 10, 1), np.uint8))
    np.testing.assert_allclose(rgb(large)[0, 1:3, 1:5].astype(int), PICTURE[1:3, 1:5], atol=1)


def test_a_large_jpeg_is_as_good_at_its_reduced_scale() -> None:
    rows, columns = np.mgrid[0:1600, 0:2400]
    large = np.dstack([rows * 255 // 1600, columns * 255 // 2400, (rows + columns) * 255 // 4000]).astype(np.uint8)
    content = file(large, "JPEG", quality=95)
    np.testing.assert_allclose(rgb(content).astype(int), rgb(Image.open(io.BytesIO(content))), atol=3)


def test_an_empty_batch_keeps_the_shape() -> None:
    assert RGB.encode([])["image"].shape == (0, 8, 12, 3)


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"%PDF-1.7", b"<svg xmlns='x'/>", b"II*\x00" + bytes(64)])
def test_what_is_no_picture_says_which_formats_are(content: bytes) -> None:
    with pytest.raises(DataError, match=r"record 1: expected an image file \(JPEG, PNG, WEBP.*Received: \d+ bytes"):
        rgb(PICTURE, content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_a_truncated_file_is_refused(kind: str) -> None:
    content = file(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), kind)
    with pytest.raises(DataError, match="record 0: expected"):
        rgb(content[: len(content) // 2])


def test_an_image_bomb_is_refused_before_it_is_decoded() -> None:
    for side in (8001, 12_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        body = zlib.compress(bytes(1000))
        data = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
        with pytest.raises(DataError, match=f"at most {MAX_PIXELS} pixels"):
            rgb(b"\x89PNG\r\n\x1a\n" + chunk + data)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (PICTURE.astype(np.float32), r"expected a uint8 array .*float32 \[8, 12, 3\]"),
        (PICTURE[None], r"\[1, 8, 12, 3\]"),
        (PICTURE[:0], r"\[0, 12, 3\]"),
        (PICTURE[:, :, :2], "expected 1, 3 or 4 channels. Received: 2"),
        ("picture.png", "expected an image file's bytes"),
        (None, "Received: None"),
        (Path("/nowhere/seven.png"), r"record 0 \(seven.png\): expected a readable file"),
    ],
)
def test_records_of_another_kind_are_refused(wrong: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rgb(wrong)


_VALID = [file(PICTURE, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")]


@given(st.sampled_from(_VALID), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_gives_a_picture_or_a_data_error(content: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(content)
    for place, value in damage:
        damaged[place % len(damaged)] = value
    try:
        encoded = rgb(bytes(damaged))
    except DataError:
        return
    assert encoded.shape == (1, 8, 12, 3)


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 3]),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.randoms(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
def test_a_loaded_processor_encodes_as_the_saved_one(
    tmp_path: Path, height: int, width: int, channels: int, size: tuple[int, int], random: object
) -> None:
    processor = ImageProcessor.fit(height, width, channels)
    picture = np.frombuffer(random.randbytes(size[0] * size[1] * 3), np.uint8).reshape(*size, 3)  # type: ignore[attr-defined]  # a Random
    loaded = load_processor(tmp_path, processor.save(tmp_path))
    assert loaded == processor
    np.testing.assert_array_equal(loaded.encode([file(picture)])["image"], processor.encode([picture])["image"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"height": 8, "width": 8},
        {"height": 8, "width": 8, "channels": 2},
        {"height": 0, "width": 8, "channels": 3},
        {"height": 8.0, "width": 8, "channels": 3},
        {"height": 8, "width": 8, "channels": 3, "mean": 0},
    ],
)
def test_malformed_options_are_a_manifest_error(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.processor\.options"):
        load_processor(tmp_path, ProcessorSpec("image", options))
