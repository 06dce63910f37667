import pytest

from services.workers.backoff import Backoff


def test_pauses_double_up_to_the_most() -> None:
    backoff = Backoff(first_s=1, most_s=5)

    assert [backoff.pause_s(lived_s=0) for _ in range(5)] == [1, 2, 4, 5, 5]


def test_a_long_life_starts_over() -> None:
    backoff = Backoff(first_s=1, most_s=60, long_life_s=10)
    for _ in range(3):
        backoff.pause_s(lived_s=9.9)

    assert backoff.pause_s(lived_s=10) == 1
    assert backoff.deaths == 1


@pytest.mark.parametrize("deaths", [100, 100_000])
def test_any_number_of_deaths_can_be_counted(deaths: int) -> None:
    assert Backoff(most_s=30, deaths=deaths).pause_s(lived_s=0) == 30
