import subprocess
import sys
from pathlib import Path

from services.workers.interpreter import command

_HEAVY = ("onnxruntime", "numpy", "bentoml", "pydantic", "typer", "prometheus_client")


def test_a_services_package_in_the_current_folder_is_not_ours(tmp_path: Path) -> None:
    package = tmp_path / "services"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit(9)\n", encoding="utf-8")

    done = subprocess.run(command("services.cpus", "label"), cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1, done.stderr
    assert "cannot import name 'main' from 'services.cpus'" in done.stderr


def test_the_supervisor_imports_nothing_that_serves() -> None:
    program = "import sys, services.workers.process; print(sorted(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert [name for name in _HEAVY if f"'{name}'" in done.stdout] == []
