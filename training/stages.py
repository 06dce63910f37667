"""What each stage of a run came to, and what the later ones bought, for the terminal and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from training.report import is_error, number

if TYPE_CHECKING:
    from training.callbacks import Checkpoint


@dataclass(frozen=True)
class StageResult:
    """One stage of several. `best_epoch` counts from 1 over all stages; `metrics` are those of its best weights on held-out
    rows. `published`: whether they are the weights that were exported, as its validation loss is the least.
    """

    name: str
    epochs: int
    best_epoch: int
    validation_loss: float
    metrics: Mapping[str, float]
    published: bool


def stage_results(
    names: Sequence[str], checkpoint: "Checkpoint", metrics: Mapping[int, Mapping[str, float]]
) -> list[StageResult]:
    """What a checkpoint holds of each stage, with the metrics of its weights by stage; nothing for a run of one stage."""
    if len(names) < 2:
        return []
    results, before = [], 0
    for stage, (name, history) in enumerate(zip(names, checkpoint.histories, strict=True)):
        best = checkpoint.best_epoch(stage)
        loss = history[best]["val_loss"]
        published = stage == checkpoint.best_stage
        results.append(StageResult(name, len(history), before + best + 1, loss, metrics[stage], published))
        before += len(history)
    return results


def bought(results: Sequence[StageResult], metric: str) -> list[str]:
    """A sentence for each later stage: the metric on held-out rows before and after it, and what is published."""
    sentences = []
    for before, after in pairwise(results):
        if metric not in before.metrics:
            continue
        was, became = before.metrics[metric], after.metrics[metric]
        better = became < was if is_error(metric) else became > was
        verdict = "no change" if became == was else "better" if better else "worse"
        published = next(result.name for result in results if result.published)
        sentences.append(
            f"{after.name} took {metric} on held-out rows from {number(was)} to {number(became)} ({verdict}). "
            f"Published: the weights of {published}, whose validation loss is the least."
        )
    return sentences


def print_stages(console: Console, results: Sequence[StageResult], metric: str) -> None:
    """The stages' table on the terminal; nothing for a run of one stage."""
    if not results:
        return
    table = Table(title="stages", title_justify="left")
    for heading in ("stage", "epochs", "best epoch", "validation loss", metric, ""):
        table.add_column(heading, justify="left" if heading in ("stage", "") else "right")
    for result in results:
        value = number(result.metrics[metric]) if metric in result.metrics else ""
        mark = "published" if result.published else ""
        loss = number(result.validation_loss)
        table.add_row(result.name, str(result.epochs), str(result.best_epoch), loss, value, mark)
    console.print(table)
    for sentence in bought(results, metric):
        console.print(sentence, soft_wrap=True)
