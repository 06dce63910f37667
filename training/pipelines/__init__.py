"""The model families: one file each, found by looking into this folder.

A family's file imports Keras inside its functions, so that listing the families costs nothing.
"""

import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib import import_module

from services.errors import NotFound
from training.pipeline import Pipeline


@cache
def pipelines() -> dict[str, Pipeline]:
    """Every `PIPELINE` of this folder's files by family, in alphabetical order."""
    modules = (import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    declared: list[Pipeline] = [module.PIPELINE for module in modules if hasattr(module, "PIPELINE")]
    return {pipeline.family: pipeline for pipeline in sorted(declared, key=lambda pipeline: pipeline.family)}


def find(family: str) -> Pipeline:
    """The pipeline of a family. Raises NotFound listing the known ones."""
    known = pipelines()
    if family in known:
        return known[family]
    close = get_close_matches(family, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise NotFound(f"Expected a family out of {', '.join(known)}. Received: {family!r}.{hint}")
