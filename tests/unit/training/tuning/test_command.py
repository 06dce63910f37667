"""`cornet tune` at its end: what it says when the training of the best options is interrupted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from training.runner import Interrupted
from training.runs import Identity, Run
from training.tuning.command import register


def test_an_interrupted_training_after_the_search_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Interrupted(Run(Path("runs/lines/now"), Identity("regressor", "lines", {}, "", "", None)), 3)

    monkeypatch.setattr("training.runner.train", stop)
    table = tmp_path / "lines.csv"
    table.write_text("x,y\n" + "".join(f"{x:.4f},{2 * x:.4f}\n" for x in np.linspace(0, 1, 40)), encoding="utf-8")
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    settings = [word for each in ("epochs=1", "units=2") for word in ("--set", each)]
    command = ["tune", "regressor", "--data", str(table), "--target", "y", "--trials", "1", "--runs", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, *settings, "--search", "dropout=0..0.1", "--train"])
    assert done.exit_code == 130, done.output
    assert "Interrupted after 3 epochs; --resume continues runs/lines/now. Give it to the cornet train" in done.stderr
