"""Command lines of further interpreters that run a module of this very package."""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[2])

_CODE = (
    "import sys; root = sys.argv[1]; root in sys.path or sys.path.insert(0, root); "
    "from {module} import main; main(*map(int, sys.argv[3:]))"
)


def command(module: str, label: str, *descriptors: int) -> tuple[str, ...]:
    """Run `module.main(*descriptors)`, in the environment of this process. `label` is for those who list processes.

    Not `-m`, which would look into the current folder first: a user's own `services` package may be there.
    """
    return (sys.executable, "-P", "-c", _CODE.format(module=module), _ROOT, label, *map(str, descriptors))
