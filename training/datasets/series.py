"""Series: one row per point in time; one series of one or more channels, or many series of one kind.

A file says which series a row belongs to in a column of its own, or holds each series in a column. Times are parsed and
checked within each series: one that does not parse, goes back or comes twice is an error. A gap is named in a warning, and
where it is cut no window reaches over it. No window holds rows of two series.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.errors import DataError
from services.manifest import sha256
from training.datasets.cells import check_file, is_missing, read_cells
from training.datasets.parquet import SUFFIXES
from training.datasets.places import Places
from training.pipeline import Loaded

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

_GAP_FACTOR = 1.5
_USUAL_QUANTILE = 0.95
_MOST_NAMED = 5


@dataclass(frozen=True)
class Series:
    """Rows in the order of time, one series after the other.

    `values` f32 `[N,F]` in raw units, `times` `[N]` (datetime64 or float64), `run` int64 `[N]` numbers the stretches of one
    series without a gap: no window may hold rows of two. `target` is the column to forecast. `context` bool `[N]` marks rows
    that are there to be looked back at alone: none of them is forecast. `series` int64 `[N]` are indices into `names`.
    Where they are left out, no row is context, and all are of one series.
    """

    values: np.ndarray
    times: np.ndarray
    run: np.ndarray
    columns: tuple[str, ...]
    target: int
    context: np.ndarray = field(default_factory=lambda: np.empty(0, np.bool_))
    series: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: tuple[str, ...] = ("",)

    def __post_init__(self) -> None:
        if not len(self.context):
            object.__setattr__(self, "context", np.zeros(len(self), np.bool_))
        if not len(self.series):
            object.__setattr__(self, "series", np.zeros(len(self), np.int64))

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> "Series":
        """The rows at these indices, in their order."""
        return replace(
            self,
            values=self.values[rows],
            times=self.times[rows],
            run=self.run[rows],
            context=self.context[rows],
            series=self.series[rows],
        )

    def part(self, start: int, stop: int, look_back: int) -> "Series":
        """Rows `start` to `stop` of one series, with up to `look_back` earlier rows as context."""
        rows = np.arange(max(0, start - look_back), stop)
        return replace(self.take(rows), context=rows < start)

    def each(self) -> "Iterator[Series]":
        """Every series by itself."""
        for index in range(len(self.names)):
            yield self.take(np.flatnonzero(self.series == index))

    @classmethod
    def joined(cls, parts: "Sequence[Series]") -> "Series":
        """Parts of one data set, one behind the other."""
        return replace(
            parts[0],
            values=np.concatenate([part.values for part in parts]),
            times=np.concatenate([part.times for part in parts]),
            run=np.concatenate([part.run for part in parts]),
            context=np.concatenate([part.context for part in parts]),
            series=np.concatenate([part.series for part in parts]),
        )


@dataclass(frozen=True)
class Layout:
    """What the columns of a file are.

    `time` names the time column, by default the first that is not `series`; `series` the one that says which series a row
    belongs to; `columns` the channels, by default all others. With `each_column` every one of these is a series of its own.
    """

    time: str = ""
    series: str = ""
    columns: tuple[str, ...] = ()
    each_column: bool = False


@dataclass(frozen=True)
class Windows:
    """Inputs f32 `[n,T,F]`, what follows them f32 `[n,H]` in the target column, its times `[n,H]`, and the series `[n]`."""

    inputs: np.ndarray
    targets: np.ndarray
    times: np.ndarray
    series: np.ndarray


def sunspots() -> Loaded[Series]:
    """Statsmodels' yearly sunspot numbers, 1700 to 2008."""
    from statsmodels.datasets import sunspots as dataset

    table = dataset.load_pandas().data
    values = table[["SUNACTIVITY"]].to_numpy(np.float32)
    series = Series(values, table["YEAR"].to_numpy(np.float64), np.zeros(len(values), np.int64), ("SUNACTIVITY",), 0)
    return Loaded(series, "statsmodels sunspots", hashlib.sha256(values.astype("<f4").tobytes()).hexdigest())


def load_series(
    path: Path,
    *,
    target: str | None,
    layout: Layout | None = None,
    missing: str = "error",
    gaps: str = "cut",
) -> Loaded[Series]:
    """Read a text file (CSV, TSV; a BOM or none) or Parquet file with a header.

    `target` is the channel to forecast, the first by default. `missing` is `error` or `forward_fill` (the last known value of
    that series: nothing is learnt from what comes later). `gaps` is `cut` (no window reaches over one), `bridge` (rows count
    as equally spaced) or `error`. Raises DataError naming file, line and column.
    """
    layout = layout or Layout()
    table, places = _read_table(path)
    names = [str(name) for name in table.columns]
    clock = layout.time or next(name for name in names if name != layout.series)
    channels = layout.columns or tuple(name for name in names if name not in (clock, layout.series))
    wanted = (clock, *channels, *([layout.series] if layout.series else []), *([target] if target else []))
    for name in wanted:
        if name not in names:
            raise DataError(f"{path.name}: expected a column {name!r}. Found: {', '.join(names)}.")
    if clock in channels or layout.series in (clock, *channels) or not channels:
        raise DataError(
            f"{path.name}: expected a channel beside the time column {clock!r}"
            f"{f' and the series column {layout.series!r}' if layout.series else ''}. Received: {channels!r}."
        )
    if target and (target not in channels or layout.each_column):
        found = "each column to be a series" if layout.each_column else repr(target)
        raise DataError(f"{path.name}: expected the target to be one of {', '.join(channels)}. Received: {found}.")
    reader = _Reader(path, table, places, clock, missing, gaps)
    if layout.each_column:
        parts = [reader.one((name,), name, np.arange(len(table))) for name in channels]
        series = _numbered(parts, channels, ("value",), 0)
    else:
        groups = _groups(path, table, layout.series, places) if layout.series else {"": np.arange(len(table))}
        parts = [reader.one(channels, name, rows) for name, rows in groups.items()]
        series = _numbered(parts, tuple(groups), channels, channels.index(target) if target else 0)
    _check_varying(path, series)
    return Loaded(series, path.name, sha256(path))


def windows(series: Series, window: int, horizon: int) -> Windows:
    """Every window of `window` rows whose next `horizon` rows are past the context, within one run. Raises DataError."""
    origins = np.arange(window, len(series) - horizon + 1)
    if len(origins):
        whole = series.run[origins - window] == series.run[origins + horizon - 1]
        origins = origins[whole & ~series.context[origins]]
    _check_found(series, series.series[origins], window, horizon)
    ahead = origins[:, None] + np.arange(horizon)
    inputs = series.values[origins[:, None] + np.arange(-window, 0)]
    return Windows(inputs, series.values[ahead, series.target], series.times[ahead], series.series[origins])


def _check_found(series: Series, found: np.ndarray, window: int, horizon: int) -> None:
    """Raises DataError for series without a window; `found` holds the series of every window there is."""
    lost = [name for index, name in enumerate(series.names) if not (found == index).any()]
    if not lost:
        return
    stretch = f"{window + horizon} rows without a gap (window={window}, horizon={horizon})"
    mend = "Use a shorter window or horizon, or bridge the gaps"
    if len(series.names) == 1:
        raise DataError(
            f"Expected a stretch of {stretch}. Received: {len(series)} rows in {len(np.unique(series.run))} stretches, "
            f"{series.context.sum()} of them context. {mend}."
        )
    named = ", ".join(lost[:_MOST_NAMED]) + (", ..." if len(lost) > _MOST_NAMED else "")
    raise DataError(
        f"Expected a stretch of {stretch} of every series in each part. Found none in {len(lost)} of {len(series.names)} "
        f"series: {named}. {mend}, or leave these series out."
    )


def _read_table(path: Path) -> "tuple[pd.DataFrame, Places]":
    """The columns of a file as they are written, a missing cell as None, and where the rows lie."""
    import pandas as pd

    check_file(path)
    if path.suffix.lower() in SUFFIXES:
        try:
            table, places = pd.read_parquet(path), Places()
        except (ValueError, OSError) as error:
            raise DataError(f"{path.name}: expected a Parquet file. Received: {error}.") from error
    else:
        cells = read_cells(path)
        plain = {
            name: [
                None if is_missing(cell) else cell.strip().replace(",", ".") if cells.decimal_comma else cell.strip()
                for cell in column
            ]
            for name, column in cells.columns()
        }
        table, places = pd.DataFrame(plain, dtype=object), cells.places
    if len(table) == 0 or len(table.columns) < 2:
        found = f"{len(table)} rows, columns {', '.join(map(str, table.columns))}"
        raise DataError(f"{path.name}: expected a time column, a channel and at least one row. Found: {found}.")
    return table, places


def _groups(path: Path, table: "pd.DataFrame", column: str, places: Places) -> dict[str, np.ndarray]:
    """Row indices by series, series in the order of their first row. Raises DataError where a row names none."""
    names = table[column]
    absent = np.flatnonzero(names.isna().to_numpy())
    if len(absent):
        raise DataError(
            f"{path.name}, {places.of(int(absent[0]))}, column {column!r}: expected the name of a series. Found none."
        )
    codes, known = names.astype(str).factorize()
    return {str(name): np.flatnonzero(codes == index) for index, name in enumerate(known)}


def _numbered(parts: Sequence[Series], names: tuple[str, ...], columns: tuple[str, ...], target: int) -> Series:
    """Series that were read one by one as one data set, their runs numbered through."""
    numbered, runs = [], 0
    for index, part in enumerate(parts):
        numbered.append(replace(part, run=part.run + runs, series=np.full(len(part), index, np.int64)))
        runs += int(part.run[-1]) + 1
    return replace(Series.joined(numbered), names=names, columns=columns, target=target)


def _check_varying(path: Path, series: Series) -> None:
    """Raises DataError for channels that hold the same in every row, all of them named."""
    steady = [name for name, values in zip(series.columns, series.values.T, strict=True) if np.ptp(values) == 0]
    if not steady:
        return
    value = series.values[0, series.columns.index(steady[0])]
    others = [name for name in series.columns if name not in steady]
    hint = f" Leave out with --set columns={','.join(others)}." if series.columns[series.target] in others else ""
    raise DataError(
        f"{path.name}, column {steady[0]!r}: expected values that vary. Found the same in every row, {value:g}"
        f"{f', as in the columns {steady[1:]}' if steady[1:] else ''}.{hint}"
    )


@dataclass(frozen=True)
class _Reader:
    """Reads the rows of one series out of a table."""

    path: Path
    table: "pd.DataFrame"
    places: Places
    clock: str
    missing: str
    gaps: str

    def one(self, channels: tuple[str, ...], name: str, rows: np.ndarray) -> Series:
        """The series of these rows. `name` says in messages which it is, '' where there is but one."""
        part, places = self.table.iloc[rows], self.places.take(rows)
        of = f", series {name!r}" if name else ""
        times = self._times(part[self.clock], places, of)
        values = np.stack([self._channel(part[channel], places, of) for channel in channels], axis=1)
        return Series(values, times, _runs(f"{self.path.name}{of}", times, self.gaps), channels, 0)

    def _times(self, column: "pd.Series[Any]", places: Places, of: str) -> np.ndarray:
        """Times as datetime64 or, where they are plain numbers, float64; strictly increasing."""
        import pandas as pd

        def where(row: int) -> str:
            return f"{self.path.name}, {places.of(row)}, column {column.name!r}{of}"

        numbers = None if pd.api.types.is_datetime64_any_dtype(column) else pd.to_numeric(column, errors="coerce")
        if numbers is not None and numbers.notna().any():
            times = numbers.to_numpy(np.float64)
            unreadable = ~np.isfinite(times)
        else:
            parsed = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
            if parsed.isna().all():
                parsed = pd.to_datetime(column, errors="coerce", utc=True)
            unreadable = parsed.isna().to_numpy()
            times = parsed.dt.tz_localize(None).to_numpy()
        if unreadable.any():
            row = int(np.argmax(unreadable))
            raise DataError(
                f"{where(row)}: expected a date or a number (another column is named by `time`). "
                f"Received: {column.iloc[row]!r}."
            )
        steps = np.diff(times)
        wrong = steps <= np.zeros(1, steps.dtype)
        if wrong.any():
            row = int(np.argmax(wrong)) + 1
            same = times[row] == times[row - 1]
            hint = (
                ""
                if of or not same
                else " Where the rows are of several series, name their column: --set series=COLUMN."
            )
            raise DataError(
                f"{where(row)}: expected times in ascending order. Received: {column.iloc[row]}, "
                f"{'the same time as' if same else 'earlier than'} {places.of(row - 1)}'s {column.iloc[row - 1]}.{hint}"
            )
        return np.asarray(times)

    def _channel(self, column: "pd.Series[Any]", places: Places, of: str) -> np.ndarray:
        import pandas as pd

        def where(row: int) -> str:
            return f"{self.path.name}, {places.of(row)}, column {column.name!r}{of}"

        numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
        wrong = (numbers.isna() & column.notna()) | np.isinf(numbers)
        if wrong.any():
            row = int(np.argmax(wrong.to_numpy()))
            raise DataError(f"{where(row)}: expected a finite number. Received: {column.iloc[row]!r}.")
        if self.missing == "forward_fill":
            numbers = numbers.ffill()
        absent = numbers.isna().to_numpy()
        if absent.any():
            row = int(np.argmax(absent))
            raise DataError(
                f"{where(row)}: expected a number. Found none ({absent.sum()} in all; `missing=forward_fill` repeats "
                "the last one known, from the first on)."
            )
        return numbers.to_numpy(np.float32)


def _runs(title: str, times: np.ndarray, gaps: str) -> np.ndarray:
    """Number the stretches between gaps.

    A gap is a step of more than 1.5 times the series' usual long step, its 95 % quantile: months of 31 days and the weekends
    of a weekday series are none.
    """
    steps = np.diff(times).astype(np.float64)
    usual = np.quantile(steps, _USUAL_QUANTILE) if len(steps) else 0.0
    gap = steps > _GAP_FACTOR * usual
    if gap.any():
        places = [f"{_stamp(times[row])} to {_stamp(times[row + 1])}" for row in np.flatnonzero(gap)]
        more = ", ..." if len(places) > _MOST_NAMED else ""
        named = f"{len(places)} gaps in time: {', '.join(places[:_MOST_NAMED])}{more}"
        if gaps == "error":
            raise DataError(f"{title}: expected no gap. Found {named}.")
        _log.warning("%s: %s (%s)", title, named, "cut" if gaps == "cut" else "bridged")
    if gaps == "bridge":
        return np.zeros(len(times), np.int64)
    return np.concatenate([[0], np.cumsum(gap)]).astype(np.int64)


def _stamp(time: Any) -> str:
    """A time as a reader would write it: the date alone where there is no time of day."""
    return str(time).removesuffix("T00:00:00.000000000").removesuffix("T00:00:00.000000").removesuffix("T00:00:00")
