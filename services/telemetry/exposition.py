"""Prometheus' text format (0.0.4) by hand, for names that prometheus_client would change."""

from collections.abc import Iterable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Page:
    """Families in the order they are written.

    page = Page()
    page.family("nv_inference_count", "counter", "Number of inferences performed")
    page.sample("nv_inference_count", {"model": "m", "version": "1"}, 4)
    page.encode()
    """

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str = "") -> None:
        """Begin a family; its samples follow."""
        if text:
            self._lines.append(f"# HELP {name} {text}")
        self._lines.append(f"# TYPE {name} {kind}")

    def sample(self, name: str, labels: Mapping[str, str], value: float) -> None:
        written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        self._lines.append(f"{name}{{{written}}} {value:.17g}" if written else f"{name} {value:.17g}")

    def histogram(
        self, name: str, labels: Mapping[str, str], buckets: Iterable[tuple[str, float]], total: float
    ) -> None:
        """The samples of one histogram from its cumulative buckets."""
        count = 0.0
        for bound, count in buckets:  # the last one is the count
            self.sample(f"{name}_bucket", {**labels, "le": bound}, count)
        self.sample(f"{name}_sum", labels, total)
        self.sample(f"{name}_count", labels, count)

    def plain(self, name: str, kind: str, text: str, samples: Sequence[tuple[Mapping[str, str], float]]) -> None:
        """A whole family of plain values; nothing where there are none."""
        if samples:
            self.family(name, kind, text)
            for labels, value in samples:
                self.sample(name, labels, value)

    def encode(self) -> bytes:
        return "".join(f"{line}\n" for line in self._lines).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
