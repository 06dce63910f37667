"""`python -m deploy.k8s.prometheus_rule [--check]`: deploy/prometheus/rules.yml as the monitoring overlay's PrometheusRule.

kustomize cannot wrap a file into a resource, so the resource is generated and committed; `--check` compares it.
"""

import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
RULES = HERE.parent / "prometheus" / "rules.yml"
RESOURCE = HERE / "overlays" / "monitoring" / "prometheusrule.yaml"

_HEADER = "# Written by `python -m deploy.k8s.prometheus_rule` from deploy/prometheus/rules.yml; change that file.\n"


def generate(rules: str) -> str:
    """The manifest for the text of a rules file."""
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "cornet", "namespace": "cornet"},
        "spec": yaml.safe_load(rules),
    }
    body: str = yaml.safe_dump(resource, sort_keys=False, width=120)
    return _HEADER + body


def main(arguments: list[str]) -> int:
    """Write the resource, or with `--check` compare it. Returns the exit status."""
    manifest = generate(RULES.read_text(encoding="utf-8"))
    if "--check" not in arguments:
        RESOURCE.write_text(manifest, encoding="utf-8")
    elif not RESOURCE.is_file() or RESOURCE.read_text(encoding="utf-8") != manifest:
        sys.stderr.write(f"{RESOURCE.name} is not what rules.yml says; run: python -m deploy.k8s.prometheus_rule\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
