"""How a manifest's JSON is read: every member of its kind, every path inside the version, and the place in every error."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from services.errors import ManifestError
from services.tensors import Signature, TensorSpec


class Reader:
    """Typed access to a JSON object, with the place in every error."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ManifestError(f"{where}: expected an object. Received: {value!r:.100}.")
        self._value = value
        self._where = where

    def take(self, key: str, kind: type) -> Any:
        value = self._value.get(key)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ManifestError(f"{self._where}.{key}: expected {kind.__name__}. Received: {value!r:.100}.")
        return value

    def texts(self, key: str) -> list[str]:
        values: list[str] = self.take(key, list)
        if not all(isinstance(value, str) for value in values):
            raise ManifestError(f"{self._where}.{key}: expected a list of strings. Received: {values!r:.100}.")
        return values

    def known(self, kind: type) -> dict[str, Any]:
        """The object's members as keyword arguments of a dataclass; an unknown or missing one is an error."""
        fields = kind.__dataclass_fields__  # type: ignore[attr-defined]  # every caller passes a dataclass
        unknown = sorted(set(self._value) - set(fields))
        if unknown:
            raise ManifestError(f"{self._where}: expected only {', '.join(fields)}. Received: {', '.join(unknown)}.")
        try:
            kind(**self._value)
        except TypeError as error:
            raise ManifestError(f"{self._where}: {error}.") from None
        return self._value


def read_signature(value: Any, where: str) -> Signature:
    reader = Reader(value, where)
    inputs, outputs = (
        tuple(TensorSpec.from_json(spec, f"{where}.{side}[{i}]") for i, spec in enumerate(reader.take(side, list)))
        for side in ("inputs", "outputs")
    )
    return Signature(inputs, outputs)


def read_onnx_file(value: Any, where: str, files: Mapping[str, str]) -> str:
    """The ONNX file that a signature names. One without a hash would be loaded unchecked."""
    name: str = Reader(value, where).take("onnx", str)
    check_path(name, f"{where}.onnx")
    if name not in files:
        raise ManifestError(f"{where}.onnx: expected a file with a hash in manifest.files. Received: {name!r:.100}.")
    return name


def read_hashes(files: dict[str, Any]) -> dict[str, str]:
    for name, digest in files.items():
        check_path(name, "manifest.files")
        if not isinstance(digest, str) or len(digest) != 64:
            raise ManifestError(f"manifest.files.{name}: expected a SHA-256 in hexadecimal. Received: {digest!r:.100}.")
    return files


def check_path(name: str, where: str) -> None:
    """Refuse what is outside the version, and a second spelling of a path, under which its hash would not be found."""
    path = PurePosixPath(name)
    outside = not path.parts or path.is_absolute() or ".." in path.parts
    if outside or "\0" in name or name != path.as_posix():
        raise ManifestError(
            f"{where}: expected a path inside the version directory, in its shortest form. Received: {name!r:.100}."
        )
