import pytest

from services.engine.version_policy import (
    All,
    Latest,
    Load,
    Snapshot,
    Specific,
    Unload,
    VersionState,
    aspired,
    check_move,
    next_action,
)
from services.errors import Internal

START, LOADING, AVAILABLE, UNLOADING, END = VersionState

LEGAL = {(START, LOADING), (START, END), (LOADING, AVAILABLE), (LOADING, END), (AVAILABLE, UNLOADING), (UNLOADING, END)}


@pytest.mark.parametrize("before", VersionState)
@pytest.mark.parametrize("after", VersionState)
def test_only_the_moves_of_the_life_cycle_are_allowed(before, after):
    if (before, after) in LEGAL:
        check_move(before, after)
    else:
        with pytest.raises(Internal, match=f"from {before.name} to one of: .*Received: {after.name}"):
            check_move(before, after)


@pytest.mark.parametrize(
    ("policy", "on_disk", "expected"),
    [
        (Latest(), [], ()),
        (Latest(), [3, 1, 2], (3,)),
        (Latest(2), [3, 1, 2], (2, 3)),
        (Latest(5), [3, 1], (1, 3)),
        (All(), [10, 9], (9, 10)),
        (All(), [], ()),
        (Specific((1, 7)), [1, 2, 3], (1,)),
        (Specific((7,)), [1], ()),
    ],
)
def test_the_policy_says_which_versions_are_wanted(policy, on_disk, expected):
    assert aspired(policy, on_disk) == expected


def failed(version: int, *, due: bool) -> Snapshot:
    return Snapshot(version, END, failed=True, retry_due=due)


@pytest.mark.parametrize(
    ("wanted", "known", "action"),
    [
        pytest.param([], [], None, id="nothing wanted, nothing there"),
        pytest.param([1], [Snapshot(1, START)], Load(1), id="first load"),
        pytest.param([1, 2], [Snapshot(1, START), Snapshot(2, START)], Load(2), id="the highest loads first"),
        pytest.param([1, 2], [Snapshot(1, START), Snapshot(2, LOADING)], None, id="one loads at a time"),
        pytest.param([1], [Snapshot(1, AVAILABLE)], None, id="all is well"),
        pytest.param([2], [Snapshot(1, AVAILABLE), Snapshot(2, START)], Load(2), id="load before unload"),
        pytest.param(
            [2], [Snapshot(1, AVAILABLE), Snapshot(2, LOADING)], None, id="the old serves while the new loads"
        ),
        pytest.param([2], [Snapshot(1, AVAILABLE), Snapshot(2, AVAILABLE)], Unload(1), id="swap"),
        pytest.param([2], [Snapshot(1, AVAILABLE), failed(2, due=False)], None, id="a failed one leaves the old"),
        pytest.param([2], [Snapshot(1, AVAILABLE), failed(2, due=True)], Load(2), id="and is tried again"),
        pytest.param([2], [Snapshot(1, AVAILABLE), Snapshot(2, END)], None, id="unloaded on purpose is not retried"),
        pytest.param(
            [1, 3], [Snapshot(1, START), failed(3, due=True)], Load(1), id="what was not tried goes before retries"
        ),
        pytest.param(
            [2, 3],
            [Snapshot(1, AVAILABLE), Snapshot(2, AVAILABLE), failed(3, due=False)],
            Unload(1),
            id="surplus goes once another wanted one serves",
        ),
        pytest.param(
            [3], [Snapshot(2, AVAILABLE), Snapshot(1, AVAILABLE), Snapshot(3, AVAILABLE)], Unload(1), id="lowest first"
        ),
        pytest.param([], [Snapshot(1, AVAILABLE), Snapshot(2, AVAILABLE)], Unload(1), id="nothing wanted any more"),
        pytest.param([], [Snapshot(1, LOADING)], None, id="a load in progress is awaited"),
        pytest.param([], [Snapshot(1, UNLOADING)], None, id="an unload in progress is awaited"),
        pytest.param([], [failed(1, due=True)], None, id="what is not wanted is not retried"),
        pytest.param([1], [Snapshot(1, AVAILABLE), Snapshot(2, AVAILABLE)], Unload(2), id="back to an older version"),
    ],
)
def test_at_most_one_action_follows(wanted, known, action):
    assert next_action(wanted, known) == action
