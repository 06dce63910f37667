"""Which versions of a model should be loaded, and what to do next about it. Pure functions, no effects.

The transition keeps a model available: what is wanted is loaded before what is no longer wanted is unloaded, so both are
in memory for a while (the behaviour of TensorFlow Serving's AvailabilityPreservingPolicy).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from services.errors import Internal


class VersionState(IntEnum):
    """Life of one version, in this order; a load that fails goes to END. The numbers are TensorFlow Serving's."""

    START = 10
    """Wanted, not yet touched."""
    LOADING = 20
    """Being read and warmed up."""
    AVAILABLE = 30
    """Takes requests."""
    UNLOADING = 40
    """Takes no new requests; those it has are finished, then its memory is given back."""
    END = 50
    """Unloaded, or never loaded: its error says why."""


_MOVES: dict[VersionState, frozenset[VersionState]] = {
    VersionState.START: frozenset({VersionState.LOADING, VersionState.END}),
    VersionState.LOADING: frozenset({VersionState.AVAILABLE, VersionState.END}),
    VersionState.AVAILABLE: frozenset({VersionState.UNLOADING}),
    VersionState.UNLOADING: frozenset({VersionState.END}),
    VersionState.END: frozenset(),
}


def check_move(before: VersionState, after: VersionState) -> None:
    """Raises Internal where the state machine has no such move."""
    if after not in _MOVES[before]:
        allowed = ", ".join(state.name for state in sorted(_MOVES[before])) or "none"
        raise Internal(f"Expected a move from {before.name} to one of: {allowed}. Received: {after.name}.")


@dataclass(frozen=True, slots=True)
class Latest:
    """The `count` highest versions on disk."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version on disk."""


@dataclass(frozen=True, slots=True)
class Specific:
    """These versions, where they are on disk."""

    versions: tuple[int, ...]


VersionPolicy: TypeAlias = Latest | All | Specific


def aspired(policy: VersionPolicy, on_disk: Collection[int]) -> tuple[int, ...]:
    """The versions that should be loaded, ascending."""
    present = sorted(set(on_disk))
    match policy:
        case Latest(count):
            return tuple(present[-count:])
        case All():
            return tuple(present)
        case Specific(versions):
            return tuple(version for version in present if version in versions)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One known version. `retry_due`: its load failed, and it is time to try again."""

    version: int
    state: VersionState
    failed: bool = False
    retry_due: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    version: int


Action: TypeAlias = Load | Unload


def next_action(wanted: Collection[int], known: Sequence[Snapshot]) -> Action | None:
    """The one thing to do next for a model, or None.

    Every wanted version is in `known`, from START on. One version loads at a time, the highest first; a failed one is tried
    again after the others. A version no longer wanted is unloaded, lowest first, once each wanted one has been tried and at
    least one of them is available, or when none is wanted at all.
    """
    mine = [snapshot for snapshot in known if snapshot.version in wanted]
    if any(snapshot.state is VersionState.LOADING for snapshot in known):
        return None
    fresh = [s.version for s in mine if s.state is VersionState.START]
    if fresh:
        return Load(max(fresh))
    surplus = [s.version for s in known if s.version not in wanted and s.state is VersionState.AVAILABLE]
    if surplus and (not wanted or any(s.state is VersionState.AVAILABLE for s in mine)):
        return Unload(min(surplus))
    retries = [s.version for s in mine if s.state is VersionState.END and s.failed and s.retry_due]
    return Load(max(retries)) if retries else None
