"""Options of families that learn one of several tasks."""

from collections.abc import Mapping
from dataclasses import fields
from inspect import get_annotations
from typing import Any

from services.errors import InvalidArgument
from training.options import value_text


def check_task(options: Any, tasks: Mapping[str, type]) -> None:
    """Raises InvalidArgument for an option of another task than `options.task` that is not left at its default.

    `tasks` are the dataclasses of options by task. What the family's own class declares is for all of them.
    """
    shared = {field.name for field in fields(tasks[options.task])} | set(get_annotations(type(options)))
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in shared and value != field.default:
            received = f"{field.name}={value_text(value)}, which is for another task"
            raise InvalidArgument(f"Expected options of task={options.task}. Received: {received}.")
