"""How much the generated tests try: always the same examples, within seconds; or, for a long run, many others.

CORNET_FUZZ_EXAMPLES=100000 make test
"""

import os
from typing import Any

from hypothesis import HealthCheck, settings


def fuzzed(examples: int) -> Any:
    """Decorates a property with so many examples, which are the same in every run unless the environment asks for more."""
    asked = int(os.environ.get("CORNET_FUZZ_EXAMPLES", "0"))
    return settings(
        max_examples=asked or examples,
        derandomize=not asked,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
