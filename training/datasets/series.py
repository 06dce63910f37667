"""Series: one row per point in time, one column per channel; a CSV or Parquet file, or statsmodels' sunspots.

The time column is parsed and checked: a time that does not parse, goes back or comes twice is an error. A gap is named in a
warning, and where it is cut no window reaches over it.
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from services.errors import DataError
from services.manifest import sha256
from training.pipeline import Loaded

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

_SEPARATORS = ",;\t"
_GAP_FACTOR = 1.5
_USUAL_QUANTILE = 0.95
_MOST_GAPS_NAMED = 5


@dataclass(frozen=True)
class Series:
    """Rows in the order of time.

    `values` f32 `[N,F]` in raw units, `times` `[N]` (datetime64 or float64), `run` int64 `[N]` numbers the stretches without
    a gap: no window may hold rows of two. `target` is the column to forecast. The first `context` rows are there to be
    looked back at alone: what is forecast begins after them.
    """

    values: np.ndarray
    times: np.ndarray
    run: np.ndarray
    columns: tuple[str, ...]
    target: int
    context: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int, look_back: int) -> "Series":
        """Rows `start` to `stop`, with up to `look_back` earlier rows as context."""
        first = max(0, start - look_back)
        rows = slice(first, stop)
        return replace(
            self, values=self.values[rows], times=self.times[rows], run=self.run[rows], context=start - first
        )


@dataclass(frozen=True)
class Windows:
    """Inputs f32 `[n,T,F]`, what follows them f32 `[n,H]` in the target column, and the times `[n,H]` of what follows."""

    inputs: np.ndarray
    targets: np.ndarray
    times: np.ndarray


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
    time: str = "",
    columns: tuple[str, ...] = (),
    missing: str = "error",
    gaps: str = "cut",
) -> Loaded[Series]:
    """Read a CSV (comma, semicolon or tab; UTF-8, a BOM or none) or Parquet file with a header.

    `time` names the time column, the first by default; `columns` the channels, all others by default; `target` the channel to
    forecast, the first by default. `missing` is `error` or `forward_fill` (the last known value: nothing is learnt from what
    comes later). `gaps` is `cut` (no window reaches over one), `bridge` (rows count as equally spaced) or `error`.
    Raises DataError naming file, row and column. Rows are counted from 1, the header not included.
    """
    table = _read_table(path)
    clock = time or str(table.columns[0])
    channels = columns or tuple(str(name) for name in table.columns if name != clock)
    for name in (clock, *channels, *([target] if target else [])):
        if name not in table.columns:
            raise DataError(f"{path.name}: expected a column {name!r}. Found: {', '.join(map(str, table.columns))}.")
    if clock in channels or not channels:
        raise DataError(f"{path.name}: expected a channel beside the time column {clock!r}. Received: {channels!r}.")
    if target and target not in channels:
        raise DataError(f"{path.name}: expected the target to be one of {', '.join(channels)}. Received: {target!r}.")
    times = _times(path, table[clock])
    values = np.stack([_channel(path, table[name], missing) for name in channels], axis=1)
    run = _runs(path, times, gaps)
    series = Series(values, times, run, channels, channels.index(target) if target else 0)
    return Loaded(series, path.name, sha256(path))


def windows(series: Series, window: int, horizon: int) -> Windows:
    """Every window of `window` rows whose next `horizon` rows are past the context, within one run. Raises DataError."""
    first = max(window, series.context)
    origins = np.arange(first, len(series) - horizon + 1)
    if len(origins):
        whole = series.run[origins - window] == series.run[origins + horizon - 1]
        origins = origins[whole]
    if not len(origins):
        raise DataError(
            f"Expected a stretch of {window + horizon} rows without a gap (window={window}, horizon={horizon}). "
            f"Received: {len(series)} rows in {len(np.unique(series.run))} stretches, {series.context} of them context. "
            "Use a shorter window or horizon, or bridge the gaps."
        )
    ahead = origins[:, None] + np.arange(horizon)
    inputs = series.values[origins[:, None] + np.arange(-window, 0)]
    return Windows(inputs, series.values[ahead, series.target], series.times[ahead])


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.is_file():
        raise DataError(f"{path}: expected a CSV or Parquet file. Found nothing.")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            with path.open(encoding="utf-8-sig") as file:
                header = file.readline()
            separator = max(_SEPARATORS, key=header.count)
            table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise DataError(f"{path.name}: expected a table with a header. Received: {error}.") from error
    if len(table) == 0 or len(table.columns) < 2:
        found = f"{len(table)} rows, columns {', '.join(map(str, table.columns))}"
        raise DataError(f"{path.name}: expected a time column, a channel and at least one row. Found: {found}.")
    return table


def _times(path: Path, column: "pd.Series[Any]") -> np.ndarray:
    """Times as datetime64 or, where they are plain numbers, float64; strictly increasing."""
    import pandas as pd

    where = f"{path.name}: column {column.name!r}"
    if pd.api.types.is_numeric_dtype(column):
        times = column.to_numpy(np.float64)
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
            f"{where}, row {row + 1}: expected a date or a number (another column is named by `time`). "
            f"Received: {column.iloc[row]!r}."
        )
    steps = np.diff(times)
    wrong = steps <= np.zeros(1, steps.dtype)
    if wrong.any():
        row = int(np.argmax(wrong)) + 1
        kind = "the same time as" if times[row] == times[row - 1] else "earlier than"
        raise DataError(
            f"{where}, row {row + 1}: expected times in ascending order. "
            f"Received: {column.iloc[row]}, {kind} row {row}'s {column.iloc[row - 1]}."
        )
    return np.asarray(times)


def _channel(path: Path, column: "pd.Series[Any]", missing: str) -> np.ndarray:
    import pandas as pd

    where = f"{path.name}: column {column.name!r}"
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = (numbers.isna() & column.notna()) | np.isinf(numbers)
    if wrong.any():
        row = int(np.argmax(wrong.to_numpy()))
        raise DataError(f"{where}, row {row + 1}: expected a finite number. Received: {column.iloc[row]!r}.")
    if missing == "forward_fill":
        numbers = numbers.ffill()
    absent = numbers.isna().to_numpy()
    if absent.any():
        row = int(np.argmax(absent))
        raise DataError(
            f"{where}, row {row + 1}: expected a number. Found none ({absent.sum()} in all; `missing=forward_fill` repeats "
            "the last one known, from the first on)."
        )
    return numbers.to_numpy(np.float32)


def _runs(path: Path, times: np.ndarray, gaps: str) -> np.ndarray:
    """Number the stretches between gaps.

    A gap is a step of more than 1.5 times the series' usual long step, its 95 % quantile: months of 31 days and the weekends
    of a weekday series are none.
    """
    steps = np.diff(times).astype(np.float64)
    usual = np.quantile(steps, _USUAL_QUANTILE) if len(steps) else 0.0
    gap = steps > _GAP_FACTOR * usual
    if gap.any():
        places = [f"{_stamp(times[row])} to {_stamp(times[row + 1])}" for row in np.flatnonzero(gap)]
        more = ", ..." if len(places) > _MOST_GAPS_NAMED else ""
        named = f"{len(places)} gaps in time: {', '.join(places[:_MOST_GAPS_NAMED])}{more}"
        if gaps == "error":
            raise DataError(f"{path.name}: expected no gap. Found {named}.")
        _log.warning("%s: %s (%s)", path.name, named, "cut" if gaps == "cut" else "bridged")
    if gaps == "bridge":
        return np.zeros(len(times), np.int64)
    return np.concatenate([[0], np.cumsum(gap)]).astype(np.int64)


def _stamp(time: Any) -> str:
    """A time as a reader would write it: the date alone where there is no time of day."""
    return str(time).removesuffix("T00:00:00.000000000").removesuffix("T00:00:00.000000").removesuffix("T00:00:00")
