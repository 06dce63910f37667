"""The Locust file runs, headless, and every request of its users succeeds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.launch import ServerProcess


@pytest.mark.parametrize("user", ["HttpUserOfModel", "GrpcUserOfModel"])
def test_locust_users_get_answers(server: ServerProcess, project: Path, user: str) -> None:
    command = (sys.executable, "-m", "locust", "-f", str(project / "tests" / "load" / "locustfile.py"), user)
    options = ("--headless", "--json", "--skip-log", "-u", "2", "-r", "2", "-t", "6s", "--host", server.http_url)
    environment = {**os.environ, "CORNET_LOAD_MODEL": "mlp", "CORNET_LOAD_GRPC": server.grpc_address}

    run = subprocess.run((*command, *options), cwd=project, env=environment, capture_output=True, text=True, timeout=60)

    assert run.returncode == 0, run.stderr[-2000:]
    entries = json.loads(run.stdout)
    assert sum(entry["num_requests"] for entry in entries) > 10
    assert sum(entry["num_failures"] for entry in entries) == 0
