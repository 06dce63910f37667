"""Image files and arrays to one uint8 tensor of fixed size.

What is done to a picture, in this order: the size is checked before anything is decoded; a JPEG is decoded at the
smallest of its native scales that is at least twice the target; the first frame counts; EXIF orientation is applied;
16-bit grey keeps its high byte; transparency is laid on white; colours become RGB, or grey by ITU-R 601 luma, embedded
colour profiles ignored; the whole picture is stretched to the target with an antialiased bilinear filter.
"""

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from PIL import ExifTags, Image

from services.errors import DataError, ManifestError
from services.manifest import ProcessorSpec
from services.processing.base import Processor, Values
from services.processing.values import shown

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 64_000_000
"""Largest picture that is decoded: width times height, as its header says."""

_MODES = {1: "L", 3: "RGB"}
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, struct.error)
"""What Pillow's decoders raise for malformed files."""

_TURNS: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, tag 0x0112: what turns the stored picture upright."""


@dataclass(frozen=True)
class ImageProcessor(Processor):
    """Encodes pictures as `image` u8 `[B, height, width, channels]`, 0..255; 1 channel is grey, 3 are RGB.

    A record is the bytes of a file (JPEG, PNG, WebP, GIF, BMP), a Path to one, a PIL image, or a uint8 array `[H, W]` or
    `[H, W, C]` with 1, 3 or 4 channels. A picture of the target size and colours keeps every pixel. A PIL image is taken as
    it is, at full scale: give files as bytes or Path in training too, so that both see a JPEG at the same scale.

        processor = ImageProcessor.fit(height=28, width=28, channels=1)
        processor.encode([Path("seven.png").read_bytes()])      # {"image": uint8 [1, 28, 28, 1]}
    """

    kind: ClassVar[str] = "image"

    height: int
    width: int
    channels: int

    @classmethod
    def fit(cls, height: int, width: int, channels: int) -> Self:
        """Raises DataError for a size below one pixel, or other than 1 or 3 channels."""
        if height < 1 or width < 1 or channels not in _MODES:
            raise DataError(
                "Expected a height and width of at least 1 and 1 or 3 channels. "
                f"Received: height={height}, width={width}, channels={channels}."
            )
        return cls(height, width, channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one encoded picture."""
        return self.height, self.width, self.channels

    def encode(self, records: Values, *, first: int = 0) -> dict[str, np.ndarray]:
        """Raises DataError naming the record, counted from `first`, and what is wrong with it."""
        if isinstance(records, np.ndarray) and records.dtype == np.uint8 and records.shape[1:] == self.shape:
            return {"image": np.ascontiguousarray(records)}
        encoded = np.empty((len(records), *self.shape), np.uint8)
        for index, record in enumerate(records):
            encoded[index] = self._encode(f"record {first + index}", record)
        return {"image": encoded}

    def save(self, directory: Path) -> ProcessorSpec:  # noqa: ARG002  # the options say it all: there is no asset to write
        return ProcessorSpec(self.kind, {"height": self.height, "width": self.width, "channels": self.channels})

    @classmethod
    def load(cls, directory: Path, spec: ProcessorSpec) -> Self:  # noqa: ARG003  # the options say it all
        options = dict(spec.options)
        if set(options) != {"height", "width", "channels"} or not all(type(value) is int for value in options.values()):
            raise ManifestError(
                f"manifest.processor.options: expected height, width and channels. Received: {shown(options)}."
            )
        try:
            return cls.fit(**options)
        except DataError as error:
            raise ManifestError(f"manifest.processor.options: {error}") from None

    def _encode(self, where: str, record: Any) -> np.ndarray:
        if isinstance(record, np.ndarray):
            return self._fitted(_from_array(where, record))
        if isinstance(record, Image.Image):
            return self._decoded(where, record)
        if isinstance(record, Path):
            where = f"{where} ({record.name})"
            try:
                record = record.read_bytes()
            except OSError as error:
                raise DataError(f"{where}: expected a readable file. Received: {error.strerror}.") from error
        if not isinstance(record, bytes | bytearray | memoryview):
            raise DataError(f"{where}: expected an image file's bytes, a path or an array. Received: {shown(record)}.")
        with _opened(where, bytes(record)) as image:
            _check_size(where, image)
            longest = 2 * max(self.height, self.width)
            image.draft(None, (longest, longest))
            return self._decoded(where, image)

    def _decoded(self, where: str, image: Image.Image) -> np.ndarray:
        try:
            image.load()
            return self._fitted(_upright(image))
        except _FAULTS as error:
            raise DataError(f"{where}: expected a whole image file. Received: {shown(str(error))}.") from error

    def _fitted(self, image: Image.Image) -> np.ndarray:
        mode = _MODES[self.channels]
        plain = _opaque(image)
        if plain.mode != mode:
            plain = plain.convert(mode)
        if plain.size != (self.width, self.height):
            plain = plain.resize((self.width, self.height), Image.Resampling.BILINEAR)
        return np.asarray(plain).reshape(self.shape)


def _opened(where: str, content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where}: expected an image of at most {MAX_PIXELS} pixels. Received: a larger one.") from None
    except _FAULTS:
        start = content[:16]
        raise DataError(
            f"{where}: expected an image file ({', '.join(FORMATS)}). Received: {len(content)} bytes that start {start!r}."
        ) from None


def _check_size(where: str, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{where}: expected an image of at most {MAX_PIXELS} pixels. Received: {image.width} x {image.height}."
        )


def _from_array(where: str, array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(
            f"{where}: expected a uint8 array of shape [H, W] or [H, W, C]. "
            f"Received: {array.dtype.name} {list(array.shape)}."
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        raise DataError(f"{where}: expected 1, 3 or 4 channels. Received: {array.shape[2]}.")
    return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _FAULTS:
        # A picture whose EXIF block is damaged is taken as it is stored.
        return image
    return image if turn is None else image.transpose(turn)


def _opaque(image: Image.Image) -> Image.Image:
    """L or RGB, or a mode that converts to them without loss of meaning (1, P, CMYK)."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image
