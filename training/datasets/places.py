"""Where the rows of a data set lie in the user's file, as messages say it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_NAMED = 5


@dataclass(frozen=True)
class Places:
    """Names a row by its line in a text file, the header counted, or by its number, from 1, in any other file.

    `lines` int64 `[rows]` are the lines that the rows begin in; `None` where the file has none. `rows` int64 `[rows]` are
    their indices in the file; `None` where these are all rows of it.
    """

    lines: np.ndarray | None = None
    rows: np.ndarray | None = None

    def of(self, row: int) -> str:
        """`line 12`, or `row 11`, of the row at that index."""
        return f"{self._word} {self._number(row)}"

    def listed(self, rows: Sequence[int] | np.ndarray) -> str:
        """`line 12`, or `lines 12, 15, 20 and 4 more`, of the rows at these indices."""
        named = ", ".join(str(self._number(row)) for row in rows[:_MOST_NAMED])
        more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
        return f"{self._word}{'s' if len(rows) > 1 else ''} {named}{more}"

    def take(self, rows: np.ndarray) -> "Places":
        """The places of the rows at these indices."""
        own = rows if self.rows is None else self.rows[rows]
        return Places(None if self.lines is None else self.lines[rows], own)

    @property
    def _word(self) -> str:
        return "row" if self.lines is None else "line"

    def _number(self, row: int) -> int:
        if self.lines is not None:
            return int(self.lines[row])
        return int(row if self.rows is None else self.rows[row]) + 1
