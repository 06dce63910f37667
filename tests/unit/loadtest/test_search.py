import asyncio

import pytest

from services.loadtest.search import Found, find_max


class Server:
    """Carries any load up to `limit`."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.tried: list[float] = []

    async def __call__(self, load: float) -> bool:
        self.tried.append(load)
        return load <= self.limit


@pytest.mark.parametrize("limit", [100.0, 137.0, 999.0, 12_345.0])
def test_the_limit_is_found_within_the_tolerance(limit: float) -> None:
    server = Server(limit)

    found = asyncio.run(find_max(server, 100.0, tolerance=0.05))

    assert found.best <= limit < found.failed
    assert found.failed - found.best <= 0.05 * found.best
    assert len(server.tried) < 16


def test_whole_numbers_are_found_exactly_where_the_tolerance_allows() -> None:
    server = Server(13)

    assert asyncio.run(find_max(server, 1, tolerance=0.01, whole=True)) == Found(13, 14)
    assert all(load == int(load) for load in server.tried)


def test_a_start_that_is_too_high_is_halved_until_it_passes() -> None:
    found = asyncio.run(find_max(Server(90.0), 1000.0, tolerance=0.1))

    assert found.best <= 90.0 < found.failed
    assert found.best > 80.0


def test_a_server_that_carries_nothing_has_no_best() -> None:
    assert asyncio.run(find_max(Server(0), 8, whole=True)).best is None


def test_the_search_ends_at_the_most_that_is_allowed() -> None:
    server = Server(1e9)

    assert asyncio.run(find_max(server, 1, most=100)) == Found(100, None)
    assert max(server.tried) == 100
