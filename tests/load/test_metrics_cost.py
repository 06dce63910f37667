"""The script that measures what the metrics cost leaves out parts of the server, by name: it must find them all."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("metrics_cost.py")


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed (Debian: nghttp2-client)")
def test_every_load_is_measured_with_the_metrics_and_without() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "3"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    costs = re.findall(r"of the server's CPU per request, \S+ us of (\S+) us", done.stdout)
    assert len(costs) == 3
    assert all(float(cost) > 0 for cost in costs)
