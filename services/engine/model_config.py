"""Which models to serve, which versions of them, and how to batch: models.toml.

    repository = "../exported_models"        # where models without a path live; relative to this file

    [models.regressor]                       # every key is optional
    path = "../exported_models/regressor"    # holds <version>/ folders; default: <repository>/<name>
    versions = { latest = 2 }                # or "latest", "all", or a list: [3, 5]
    labels = { stable = 3, canary = 5 }      # names that requests may use instead of a version

    [models.regressor.batching]              # what is left out is taken from the manifest, then from the defaults
    max_batch_rows = 128
    max_queue_delay_us = 500

An unknown key is an error that names the known ones.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from services.engine.version_policy import All, Latest, Specific, VersionPolicy
from services.errors import InvalidArgument
from services.manifest import BatchingHints

_QUEUED_BATCHES = 32
_HINTS = BatchingHints()


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """How one model's requests are batched; every number is settled.

    `max_batch_rows`: most rows per run. `max_queue_rows`: most rows that may wait. `max_queue_delay_us`: how long the
    first request of a batch may wait for others, 0 for not at all. `allowed_batch_rows`: ascending sizes that a batch is
    filled up to (a GPU engine built per size), the last one `max_batch_rows`; empty for any size. `concurrent_batches`:
    runs at a time.

    A GPU has two runs at a time where a user sets none, and a few sizes where it convolves: see `services.engine.loader`.
    """

    max_batch_rows: int = _HINTS.max_batch_rows
    max_queue_rows: int = _QUEUED_BATCHES * _HINTS.max_batch_rows
    max_queue_delay_us: int = 0
    allowed_batch_rows: tuple[int, ...] = ()
    concurrent_batches: int = 1


@dataclass(frozen=True, slots=True)
class BatchingConfig:
    """The part of `BatchingOptions` that a user set; None leaves it to the manifest's hints, then to the defaults."""

    max_batch_rows: int | None = None
    max_queue_rows: int | None = None
    max_queue_delay_us: int | None = None
    allowed_batch_rows: tuple[int, ...] = ()
    concurrent_batches: int | None = None

    def resolve(self, hints: BatchingHints | None = None) -> BatchingOptions:
        """Settle every number. `max_queue_rows` defaults to 32 full batches."""
        hints = hints or _HINTS
        rows = self.max_batch_rows
        if rows is None:
            rows = self.allowed_batch_rows[-1] if self.allowed_batch_rows else hints.max_batch_rows
        delay_us = hints.max_queue_delay_us if self.max_queue_delay_us is None else self.max_queue_delay_us
        queue = _QUEUED_BATCHES * rows if self.max_queue_rows is None else self.max_queue_rows
        return BatchingOptions(rows, queue, delay_us, self.allowed_batch_rows, self.concurrent_batches or 1)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model to serve: `path` holds its `<version>/` folders; `labels` maps a label to a version."""

    name: str
    path: Path
    policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    batching: BatchingConfig = field(default_factory=BatchingConfig)


def load_models_file(path: Path) -> list[ModelConfig]:
    """Read a models.toml. Raises InvalidArgument naming the place, what was expected and what was received."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidArgument(f"Expected a models file at {path}. Received: no such file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path.name}: expected TOML. Received: {error}.") from error
    where = path.name
    _only(document, ("repository", "models"), where)
    repository = path.parent / _take(document, "repository", str, where, default=".")
    models = _take(document, "models", dict, where, default={})
    if not models:
        raise InvalidArgument(f"{where}: expected at least one [models.<name>] table. Received: none.")
    return [_model(name, table, path.parent, repository, f"{where}: models.{name}") for name, table in models.items()]


def to_tables(configs: Iterable[ModelConfig]) -> dict[str, Any]:
    """The `[models.<name>]` tables that say the same, for another process: plain values throughout."""
    return {
        config.name: {
            "path": str(config.path.resolve()),
            "versions": _policy_value(config.policy),
            "labels": dict(config.labels),
            "batching": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(config.batching).items()
                if value is not None
            },
        }
        for config in configs
    }


def from_tables(tables: Mapping[str, Any]) -> list[ModelConfig]:
    """What `to_tables` was given."""
    return [_model(name, table, Path(), Path(), f"models.{name}") for name, table in tables.items()]


def _model(name: str, table: Any, base: Path, repository: Path, where: str) -> ModelConfig:
    if not isinstance(table, dict):
        raise InvalidArgument(f"{where}: expected a table. Received: {table!r}.")
    _only(table, ("path", "versions", "labels", "batching"), where)
    path = _take(table, "path", str, where, default=None)
    labels = _take(table, "labels", dict, where, default={})
    for label, version in labels.items():
        _integer(version, f"{where}.labels.{label}", least=1)
    return ModelConfig(
        name=name,
        path=(repository / name if path is None else base / path).resolve(),
        policy=_policy(table.get("versions", "latest"), f"{where}.versions"),
        labels=labels,
        batching=_batching(_take(table, "batching", dict, where, default={}), f"{where}.batching"),
    )


def _policy(value: Any, where: str) -> VersionPolicy:
    if value == "latest":
        return Latest()
    if value == "all":
        return All()
    if isinstance(value, dict) and set(value) == {"latest"}:
        return Latest(_integer(value["latest"], f"{where}.latest", least=1))
    if isinstance(value, list) and value:
        return Specific(tuple(sorted({_integer(v, where, least=1) for v in value})))
    raise InvalidArgument(
        f'{where}: expected "latest", "all", {{ latest = n }} or a list of versions. Received: {value!r}.'
    )


def _policy_value(policy: VersionPolicy) -> Any:
    match policy:
        case Latest(count):
            return {"latest": count}
        case Specific(versions):
            return list(versions)
    return "all"


def _batching(table: dict[str, Any], where: str) -> BatchingConfig:
    _only(table, tuple(f.name for f in fields(BatchingConfig)), where)
    values: dict[str, Any] = {
        key: _integer(value, f"{where}.{key}", least=0 if key == "max_queue_delay_us" else 1)
        for key, value in table.items()
        if key != "allowed_batch_rows"
    }
    allowed = _take(table, "allowed_batch_rows", list, where, default=[])
    values["allowed_batch_rows"] = tuple(_integer(rows, f"{where}.allowed_batch_rows", least=1) for rows in allowed)
    if sorted(set(allowed)) != allowed:
        raise InvalidArgument(f"{where}.allowed_batch_rows: expected ascending sizes. Received: {allowed}.")
    config = BatchingConfig(**values)
    if allowed and config.max_batch_rows not in (None, allowed[-1]):
        raise InvalidArgument(
            f"{where}: expected the last of allowed_batch_rows to be max_batch_rows, {config.max_batch_rows}. "
            f"Received: {allowed[-1]}."
        )
    return config


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InvalidArgument(f"{where}: expected only the keys {', '.join(known)}. Received: {', '.join(unknown)}.")


def _take(table: Mapping[str, Any], key: str, kind: type, where: str, *, default: Any) -> Any:
    value = table.get(key, default)
    if value is not default and not isinstance(value, kind):
        raise InvalidArgument(f"{where}.{key}: expected a {kind.__name__}. Received: {value!r}.")
    return value


def _integer(value: Any, where: str, *, least: int) -> int:
    if type(value) is not int or value < least:
        raise InvalidArgument(f"{where}: expected an integer of at least {least}. Received: {value!r}.")
    return value
