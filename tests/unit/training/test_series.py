"""Series data sets: time is checked, gaps are named, and no window reaches where it must not."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from services.errors import DataError
from training.datasets.series import Layout, Series, load_series, sunspots, windows


def csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "series.csv"
    path.write_text(text, encoding="utf-8")
    return path


def daily(tmp_path: Path, days: list[str]) -> Path:
    return csv(tmp_path, "day,temperature\n" + "".join(f"{day},{index}\n" for index, day in enumerate(days)))


def series(rows: int, *, run: np.ndarray | None = None) -> Series:
    values = np.stack([np.arange(rows), 100 + np.arange(rows)], axis=1).astype(np.float32)
    return Series(
        values,
        np.arange(rows, dtype=np.float64),
        np.zeros(rows, np.int64) if run is None else run,
        ("a", "b"),
        1,
    )


def test_a_bom_semicolons_and_several_channels_are_read(tmp_path: Path) -> None:
    path = csv(tmp_path, "\ufeffwhen;a;b\n2024-01-01;1;10\n2024-01-02;2;20\n2024-01-03;3;30\n")
    data = load_series(path, target="b").data
    assert data.columns == ("a", "b")
    assert data.target == 1
    np.testing.assert_array_equal(data.values, [[1, 10], [2, 20], [3, 30]])
    assert data.times[1] == np.datetime64("2024-01-02")


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    pd.DataFrame({"when": pd.date_range("2024-01-01", periods=3), "a": [1.0, 2.0, 3.0]}).to_parquet(path)
    assert load_series(path, target=None).data.values.ravel().tolist() == [1, 2, 3]


def test_the_time_column_and_the_channels_are_chosen_by_name(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,year,c\n1,10,1990,x\n2,20,1991,y\n")
    data = load_series(path, target=None, layout=Layout(time="year", columns=("b", "a"))).data
    assert data.columns == ("b", "a")
    assert data.times.tolist() == [1990, 1991]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t,a\n2024-01-01,1\nsoon,2\n", r"line 3, column 't': expected a date or a number.*'soon'"),
        (
            "t,a\n2024-01-02,1\n2024-01-01,2\n",
            "line 3, column 't': expected times in ascending order.*earlier than line 2's",
        ),
        ("t,a\n2024-01-01,1\n2024-01-01,2\n", r"line 3, .*the same time as line 2's .*--set series=COLUMN"),
        ("t,a\n1,1\n2,warm\n", r"line 3, column 'a': expected a finite number\. Received: 'warm'"),
        ("t,a\n1,1\n2,inf\n", "line 3, column 'a': expected a finite number"),
        ("t,a\n1,1\n2,\n3,\n", r"line 3, column 'a': expected a number\. Found none \(2 in all"),
        ("t\n1\n", "a time column, a channel"),
        ("t,a\n", "expected rows below the header"),
        ("t,a,a\n1,1,2\n", "each column name once. Found more than once: a"),
        ("t,a\n1,1\n2,2,3\n", "line 3: expected 2 cells, as in the first line. Found 3"),
        ("t,a,b\n1,1,7\n2,2,7\n", "column 'b': expected values that vary.*every row, 7.*--set columns=a"),
        ("t,a\n1,7\n2,7\n", "column 'a': expected values that vary"),
        ("t,a\n1,1\n", "expected a column 'z'. Found: t, a"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    target = "z" if "'z'" in complaint else None
    with pytest.raises(DataError, match=complaint):
        load_series(csv(tmp_path, text), target=target)


def test_a_missing_value_is_filled_from_the_past_alone(tmp_path: Path) -> None:
    path = csv(tmp_path, "t,a\n1,5\n2,\n3,7\n")
    assert load_series(path, target=None, missing="forward_fill").data.values.ravel().tolist() == [5, 5, 7]


def test_a_gap_is_named_and_cuts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    days = [f"2024-01-{day:02}" for day in range(1, 31) if day != 15]
    with caplog.at_level(logging.WARNING):
        data = load_series(daily(tmp_path, days), target=None).data
    assert "1 gaps in time: 2024-01-14 to 2024-01-16 (cut)" in caplog.text
    assert data.run.tolist() == [0] * 14 + [1] * 15


def test_a_gap_can_be_bridged_or_refused(tmp_path: Path) -> None:
    path = daily(tmp_path, [f"2024-01-{day:02}" for day in range(1, 31) if day != 15])
    assert not load_series(path, target=None, gaps="bridge").data.run.any()
    with pytest.raises(DataError, match="expected no gap"):
        load_series(path, target=None, gaps="error")


@pytest.mark.parametrize("frequency", ["MS", "B", "h", "YS"])
def test_the_calendar_has_no_gaps(tmp_path: Path, frequency: str) -> None:
    path = tmp_path / "series.csv"
    pd.DataFrame({"t": pd.date_range("2020-01-01", periods=80, freq=frequency), "a": range(80)}).to_csv(
        path, index=False
    )
    assert not load_series(path, target=None, gaps="error").data.run.any()


def test_windows_hold_the_past_and_targets_what_follows() -> None:
    cut = windows(series(6), window=3, horizon=2)
    assert cut.inputs.shape == (2, 3, 2)
    np.testing.assert_array_equal(cut.inputs[1], [[1, 101], [2, 102], [3, 103]])
    np.testing.assert_array_equal(cut.targets, [[103, 104], [104, 105]])
    np.testing.assert_array_equal(cut.times, [[3, 4], [4, 5]])


def test_no_window_reaches_over_a_gap() -> None:
    cut = windows(series(10, run=np.repeat([0, 1], 5)), window=2, horizon=2)
    assert cut.targets[:, 0].tolist() == [102, 103, 107, 108]


def test_nothing_of_the_context_is_forecast() -> None:
    whole = series(20)
    part = whole.part(12, 20, look_back=4)
    cut = windows(part, window=4, horizon=3)
    assert cut.times.min() == 12
    assert cut.inputs[0, :, 0].tolist() == [8, 9, 10, 11]


def test_consecutive_parts_share_no_target() -> None:
    whole = series(30)
    times = [windows(part, 4, 3).times for part in (whole.part(0, 15, 0), whole.part(15, 22, 4), whole.part(22, 30, 4))]
    assert [(part.min(), part.max()) for part in times] == [(4, 14), (15, 21), (22, 29)]


def test_a_series_too_short_says_what_it_takes() -> None:
    with pytest.raises(DataError, match="a stretch of 9 rows without a gap"):
        windows(series(8), window=6, horizon=3)


def test_sunspots_are_yearly() -> None:
    data = sunspots().data
    assert (len(data), data.times[0], data.times[-1]) == (309, 1700, 2008)


def test_the_real_temperatures_have_two_gaps(real_data: Path) -> None:
    data = load_series(real_data / "daily_min_temperatures.csv", target=None).data
    assert (len(data), data.columns, data.run[-1]) == (3650, ("Temp",), 2)


PANEL = "day,shop,sold,price\n" + "".join(
    f"2024-01-{day:02},{shop},{level + day},{day % 3}\n"
    for day in range(1, 31)
    for shop, level in (("north", 10), ("south", 1000))
)


def test_a_column_says_which_series_a_row_belongs_to(tmp_path: Path) -> None:
    data = load_series(csv(tmp_path, PANEL), target="sold", layout=Layout(series="shop")).data
    assert data.names == ("north", "south")
    assert data.columns == ("sold", "price")
    north, south = data.each()
    assert north.values[:, 0].tolist() == [10 + day for day in range(1, 31)]
    assert (south.values[:, 0] > 1000).all()
    assert (south.times == north.times).all()


def test_each_column_may_be_a_series(tmp_path: Path) -> None:
    path = csv(tmp_path, "day,north,south\n2024-01-01,1,10\n2024-01-02,2,20\n2024-01-03,3,30\n")
    data = load_series(path, target=None, layout=Layout(each_column=True)).data
    assert (data.names, data.columns) == (("north", "south"), ("value",))
    assert [one.values.ravel().tolist() for one in data.each()] == [[1, 2, 3], [10, 20, 30]]


def test_no_window_holds_rows_of_two_series(tmp_path: Path) -> None:
    data = load_series(csv(tmp_path, PANEL), target="sold", layout=Layout(series="shop")).data
    cut = windows(data, window=4, horizon=2)
    assert np.bincount(cut.series).tolist() == [25, 25]
    levels = np.concatenate([cut.inputs[..., 0], cut.targets], axis=1) > 500
    np.testing.assert_array_equal(levels, np.repeat(cut.series[:, None] == 1, 6, axis=1))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("2024-01-03,south", "2024-01-02,south", r"line 7, column 'day', series 'south': .*the same time as line 5's"),
        ("2024-01-03,south", "2024-01-03,", "line 7, column 'shop': expected the name of a series. Found none"),
        ("2024-01-03,south,1003", "2024-01-03,south,many", "line 7, column 'sold', series 'south': .*'many'"),
    ],
)
def test_what_does_not_fit_in_one_of_many_series_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        load_series(csv(tmp_path, PANEL.replace(old, new)), target="sold", layout=Layout(series="shop"))


def test_rows_of_several_series_without_their_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3, column 'day': .*the same time as line 2's.*--set series=COLUMN"):
        load_series(csv(tmp_path, PANEL), target="sold", layout=Layout(columns=("sold",)))


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    pd.DataFrame({"t": [1, 2, 1], "of": ["a", "a", "b"], "v": [1.0, None, 3.0]}).to_parquet(path)
    with pytest.raises(DataError, match=r"series\.parquet, row 2, column 'v', series 'a': expected a number"):
        load_series(path, target=None, layout=Layout(series="of"))
