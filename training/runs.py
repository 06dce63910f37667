"""The folder of one training run, and how an interrupted one is found again.

runs/<name>/<start in UTC>/
  run.json          what is trained on what with which options, how it went
  checkpoint.npz    the state after the last full epoch; gone when the run is done
  tensorboard/      event files
  report.html       written at the end
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from services.errors import DataError, FailedPrecondition, NotFound
from services.files import TEMPORARY, write_whole, writing

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Identity:
    """What must be equal for one run to continue another. `options` is JSON-able."""

    family: str
    name: str
    options: Mapping[str, Any]
    data: str
    data_sha256: str
    target: str | None
    base_weights: str = ""
    """What training starts from, a file by its SHA-256."""

    def differences(self, other: "Identity") -> list[str]:
        """`key: theirs, now ours` for all that differs from `other`, options by name."""
        ours, theirs = _flat(self), _flat(other)
        return [
            f"{key} was {theirs.get(key)!r} and is now {ours.get(key)!r}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]


@dataclass(frozen=True)
class Run:
    """One run's folder. Made by `start` or `resume`; ends with `finish`, or stays resumable."""

    directory: Path
    identity: Identity
    resumed: bool = False

    @classmethod
    def start(cls, root: Path, identity: Identity) -> Self:
        """A fresh folder below `root`."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        run = cls(root / identity.name / stamp, identity)
        with writing(f"the folder of runs {root}"):
            run.directory.mkdir(parents=True)
        run._write({"status": "running"})
        return run

    @classmethod
    def resume(cls, root: Path, identity: Identity) -> Self:
        """The newest unfinished run of that name.

        Raises NotFound where there is none, FailedPrecondition where its options, data or weights are not these.
        """
        for directory in sorted((root / identity.name).glob("*/"), reverse=True):
            record = _read(directory / RUN_FILE)
            if record is None or record["status"] == "done":
                continue
            differences = identity.differences(record["identity"])
            if differences:
                raise FailedPrecondition(
                    f"Cannot resume {directory}: expected the options, data and weights it was started with. "
                    f"Received: {'; '.join(differences)}. Leave --resume out to start afresh."
                )
            for unfinished in directory.glob(f"{TEMPORARY}*"):  # of a process that was killed while it wrote
                unfinished.unlink()
            return cls(directory, identity, resumed=True)
        raise NotFound(
            f"Nothing to resume: expected an unfinished run of {identity.name!r} below {root}. Received: none."
        )

    @property
    def checkpoint(self) -> Path:
        return self.directory / "checkpoint.npz"

    @property
    def tensorboard(self) -> Path:
        return self.directory / "tensorboard"

    @property
    def report(self) -> Path:
        return self.directory / "report.html"

    def finish(self, **results: Any) -> None:
        """Record the results; the run can no longer be resumed."""
        self._write({"status": "done", **results})
        self.checkpoint.unlink(missing_ok=True)

    def _write(self, state: Mapping[str, Any]) -> None:
        text = json.dumps({"identity": asdict(self.identity), **state}, indent=2, ensure_ascii=False)
        write_whole(self.directory / RUN_FILE, text + "\n")


def finished_run(root: Path, name: str, version: int, data_sha256: str) -> dict[str, Any] | None:
    """The record of the run that published a version from that data: `history` and, if it was kept, `seconds` of fitting."""
    for directory in sorted((root / name).glob("*/"), reverse=True):
        record = _read(directory / RUN_FILE)
        if (
            record is not None
            and (record["status"], record.get("version")) == ("done", version)
            and record["identity"].data_sha256 == data_sha256
        ):
            return record
    return None


def _flat(identity: Identity) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(identity)))
    return {**plain.pop("options"), **plain}


def _read(path: Path) -> dict[str, Any] | None:
    """The record of a run, its `identity` as one; None where there is none. Raises DataError where it is something else."""
    try:
        record = json.loads(path.read_bytes())
        return {**record, "status": record["status"], "identity": Identity(**record["identity"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected the JSON record of a run. Received: {error}.") from error
