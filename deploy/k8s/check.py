"""`python -m deploy.k8s.check`: render every overlay, validate it against the API schemas, and hold it to the house rules.

Offline: `kubectl kustomize` renders, `kubernetes-validate` brings the schemas of Kubernetes's own kinds, and those of the
custom resources in use lie in schemas/, written from their public documentation. A kind without a schema is an error.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate.utils
import referencing
import yaml

from deploy.k8s.rules import RULES
from deploy.k8s.workloads import Resource, title, workloads

HERE = Path(__file__).resolve().parent
OVERLAYS = HERE / "overlays"
SCHEMAS = HERE / "schemas"
KUBERNETES_VERSIONS = ("1.31", "1.37")
"""The oldest and the newest API that the manifests are valid for."""

INSTALL = "expected kubectl on the PATH: `apt-get install kubernetes-client` on Debian, `brew install kubectl` on macOS"


class CheckFailed(Exception):
    """An overlay that cannot be rendered."""


def overlays() -> list[str]:
    return sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))


def render(overlay: str) -> list[dict[str, Any]]:
    """The resources of an overlay. Raises CheckFailed where kubectl is absent or refuses."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise CheckFailed(INSTALL)
    command = [kubectl, "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - kubectl, our folder
    if done.returncode != 0:
        raise CheckFailed(done.stderr.strip())
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def problems(resources: Sequence[Resource]) -> Iterator[str]:
    """Everything that is wrong with a render: schemas first, and the house rules where they hold."""
    found = [problem for resource in resources for problem in schema_problems(resource)]
    if not found:
        found = [problem for pod in workloads(resources) for problem in _core_problems(_as_pod(pod.where, pod.pod))]
    if not found:
        found = [f"{problem} [{rule.__name__}]" for rule in RULES for problem in rule(resources)]
    yield from found


def schema_problems(resource: Resource) -> Iterator[str]:
    """What the schema of a resource's kind says against it."""
    group = resource["apiVersion"].rpartition("/")[0]
    path = SCHEMAS / f"{resource['kind'].lower()}.{group}.json"
    if path.is_file():
        for error in _custom(path).iter_errors(resource):
            yield f"{title(resource)}: {error.json_path}: {error.message}"
    else:
        yield from _core_problems(resource)


@cache
def _custom(path: Path) -> Any:
    return jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


def _core_problems(resource: Resource) -> Iterator[str]:
    for version in KUBERNETES_VERSIONS:
        validator = _core(resource["kind"], resource["apiVersion"], version)
        if validator is None:
            kind = f"{resource['apiVersion']} {resource['kind']}"
            yield f"{title(resource)}: no schema of {kind} in Kubernetes {version}; a custom resource needs one in schemas/"
        else:
            for error in validator.iter_errors(resource):
                yield f"{title(resource)}: {error.json_path}: {error.message} (Kubernetes {version})"


@cache
def _core(kind: str, api_version: str, version: str) -> Any:
    """The strict validator of one of Kubernetes's own kinds, read once: its definitions are megabytes. None: no such kind."""
    group, _, revision = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], revision) if part)
    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    try:
        schema = kubernetes_validate.utils.schema_contents(f"{folder}/{name}.json", version)
    except FileNotFoundError:
        return None
    return jsonschema.Draft202012Validator(schema, registry=_definitions(folder, version))


@cache
def _definitions(folder: str, version: str) -> Any:
    contents = kubernetes_validate.utils.schema_contents(f"{folder}/_definitions.json", version)
    return referencing.Resource.from_contents(contents) @ referencing.Registry()


def _as_pod(where: str, spec: Any) -> Resource:
    """A pod template of a custom resource as a Pod, which has a schema."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": where}, "spec": spec}


def main() -> int:
    """Check every overlay, print what is wrong, return the exit status."""
    failed = False
    for overlay in overlays():
        try:
            resources = render(overlay)
            found = list(problems(resources))
        except CheckFailed as error:
            resources, found = [], [str(error)]
        failed = failed or bool(found)
        sys.stdout.write(f"{overlay}: {'; '.join(found) or f'{len(resources)} resources, all as they should be'}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
