"""The HTML report of a study; written anew after every trial, so that a long study can be watched."""

from datetime import UTC, datetime

from services.files import write_whole
from training.report import environment, image
from training.tuning.plots import history_plot, importance_plot, slices_plot
from training.tuning.space import plain, settings_of, short
from training.tuning.study import Study


def write_report(study: Study) -> None:
    """Write `report.html` in the study's folder; nothing before the first trial is done."""
    trials, plan = study.trials(), study.plan
    if not any(trial.state == "done" for trial in trials):
        return
    importances = study.importances()
    plots = [history_plot(study), *([importance_plot(importances)] if importances else []), slices_plot(study)]
    ranked = study.ranked()
    first = next((trial for trial in ranked if trial.options == plan.base), None)
    states = ("done", "pruned", "failed", "interrupted")
    pages = environment()
    pages.filters["short"] = short
    html = pages.get_template("tuning.html").render(
        identity=study.identity,
        objective=plan.objective,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts={state: sum(trial.state == state for trial in trials) for state in states},
        best=ranked[0],
        first=first,
        space=plain(plan.axes),
        rows=[(trial, settings_of(trial.options, plan.axes)) for trial in ranked if trial.options],
        failed=[trial for trial in trials if trial.state == "failed"],
        images=[(plot.title, plot.caption, image(plot.figure)) for plot in plots],
    )
    write_whole(study.report, html, f"the report {study.report}")
