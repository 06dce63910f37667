"""How long to wait before a worker that died is started again."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """`first_s` after the first death, then twice as long each time, up to `most_s`; a life of `lived_s` starts it over.

    backoff = Backoff()
    backoff.pause_s(lived_s=0.2)  # 0.5
    backoff.pause_s(lived_s=0.2)  # 1.0
    """

    first_s: float = 0.5
    most_s: float = 30.0
    long_life_s: float = 60.0
    deaths: int = 0
    """In a row, none of them after a long life."""

    def pause_s(self, lived_s: float) -> float:
        """Seconds to wait after a death; `lived_s` is how long the worker had been ready."""
        self.deaths = 1 if lived_s >= self.long_life_s else self.deaths + 1
        return min(self.most_s, self.first_s * 2.0 ** min(self.deaths - 1, 30))
