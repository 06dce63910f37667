import json
from pathlib import Path

import pytest

from services.engine.model_config import BatchingConfig, ModelConfig, from_tables, to_tables
from services.engine.version_policy import All, Latest, Specific, VersionPolicy
from services.settings import Settings
from services.workers.plan import Plan


def test_a_plan_comes_out_as_it_went_in() -> None:
    plan = Plan(2, "::1", 0, None, 26.0, "info", "json", {"repository": "models"}, {"m": {"path": "/m"}})

    assert Plan.decode(plan.encode()) == plan


def test_settings_come_out_as_they_went_in_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        repository=Path("models"), providers=("CUDAExecutionProvider", "CPUExecutionProvider"), workers=3
    )
    dumped = json.dumps(settings.plain())
    for name in ("REPOSITORY", "MODELS_FILE", "HTTP_PORT", "PROVIDERS", "WORKERS"):
        monkeypatch.setenv(f"CORNET_{name}", "7")

    assert Settings(**json.loads(dumped)) == settings


@pytest.mark.parametrize("policy", [Latest(), Latest(3), All(), Specific((2, 5))])
def test_models_come_out_as_they_went_in(policy: VersionPolicy, tmp_path: Path) -> None:
    batching = BatchingConfig(max_batch_rows=8, max_queue_delay_us=0, allowed_batch_rows=(4, 8), concurrent_batches=2)
    configs = [
        ModelConfig("plain", tmp_path / "plain"),
        ModelConfig("full", tmp_path / "full", policy, {"stable": 2}, batching),
    ]

    assert from_tables(json.loads(json.dumps(to_tables(configs)))) == configs
