"""Every overlay passes the check, and the check catches what it is there for: each rule sees its violation in a render."""

import copy
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.k8s import check, prometheus_rule, rules
from deploy.k8s.workloads import workloads
from services.model_server import parse_flags
from services.settings import setting_options
from services.telemetry.metrics import Metrics

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not installed: it renders the overlays"
)
pytestmark = needs_kubectl

Resources = list[dict[str, Any]]


@cache
def _rendered(overlay: str) -> Resources:
    return check.render(overlay)


def rendered(overlay: str) -> Resources:
    """A render of a test's own, to change."""
    return copy.deepcopy(_rendered(overlay))


def find(resources: Resources, kind: str) -> dict[str, Any]:
    return next(resource for resource in resources if resource["kind"] == kind)


def container(resources: Resources) -> dict[str, Any]:
    """The container of the cpu overlay's server."""
    return find(resources, "Deployment")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("overlay", check.overlays())
def test_an_overlay_is_valid_and_holds_the_house_rules(overlay: str) -> None:
    assert list(check.problems(rendered(overlay))) == []


def test_the_overlays_are_those_that_the_readme_of_deploy_describes() -> None:
    assert check.overlays() == ["batch", "canary", "cpu", "gpu", "keda", "kserve", "monitoring", "train"]


@pytest.mark.parametrize("overlay", check.overlays())
def test_every_kind_that_runs_pods_is_looked_into(overlay: str) -> None:
    """A kind that `workloads` does not know would pass every rule about pods."""
    resources = rendered(overlay)
    looked_into = {pod.where.split("/")[0] for pod in workloads(resources)}
    with_containers = {resource["kind"] for resource in resources if '"containers"' in json.dumps(resource)}

    assert looked_into == with_containers


Change = Callable[[Resources], Any]


def _set(kind: str, *path: str | int, value: Any) -> Change:
    def change(resources: Resources) -> None:
        node: Any = find(resources, kind)
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


def _in_container(*path: str | int, value: Any = None) -> Change:
    """Set a value in the server's container; None removes the key."""

    def change(resources: Resources) -> None:
        node: Any = container(resources)
        for key in path[:-1]:
            node = node[key]
        if value is None:
            del node[path[-1]]
        else:
            node[path[-1]] = value

    return change


def _variable(name: str, value: str) -> Change:
    def change(resources: Resources) -> None:
        others = [variable for variable in container(resources)["env"] if variable["name"] != name]
        container(resources)["env"] = [*others, {"name": name, "value": value}]

    return change


POD = ("spec", "template", "spec")
VIOLATIONS: dict[str, tuple[str, Change]] = {
    "no startup probe": ("probes", _in_container("startupProbe")),
    "a probe without a timeout": ("probes", _in_container("readinessProbe", "timeoutSeconds")),
    "a path that is not served": ("probes", _in_container("livenessProbe", "httpGet", "path", value="/healthz")),
    "a path that takes POST alone": (
        "probes",
        _in_container("livenessProbe", "httpGet", "path", value="/v1/models/m:predict"),
    ),
    "HTTP asked on gRPC's port": ("probes", _in_container("livenessProbe", "httpGet", "port", value="grpc")),
    "gRPC asked on HTTP's port": ("probes", _in_container("readinessProbe", "grpc", "port", value=8501)),
    "a port that is no default": ("ports", _in_container("ports", 0, "containerPort", value=9000)),
    "a Service to a port that is not there": (
        "ports",
        _set("Service", "spec", "ports", 0, "targetPort", value="metrics"),
    ),
    "no memory limit": ("limits", _in_container("resources", "limits", "memory")),
    "no CPU request": ("limits", _in_container("resources", "requests", "cpu")),
    "a grace period as long as the drain": (
        "drain",
        _set("Deployment", *POD, "terminationGracePeriodSeconds", value=30),
    ),
    "a longer drain": ("drain", _variable("CORNET_DRAIN_TIMEOUT_S", "40")),
    "a longer preStop": ("drain", _in_container("lifecycle", "preStop", "exec", "command", value=["sleep", "25"])),
    "keep-alive below the load balancer's": ("keep_alive", _variable("CORNET_KEEP_ALIVE_S", "60")),
    "a setting that does not exist": ("settings", _variable("CORNET_GRPC_PROT", "8500")),
    "an image that moves": ("images", _in_container("image", value="registry.example.com/cornet-serve-cpu:latest")),
    "an image without a tag": ("images", _in_container("image", value="registry.example.com:5000/cornet-serve-cpu")),
    "an image of another version": (
        "images",
        _in_container("image", value="registry.example.com/cornet-serve-cpu:0.0.1"),
    ),
    "a writable root": ("security", _in_container("securityContext", "readOnlyRootFilesystem", value=False)),
    "privilege escalation": ("security", _in_container("securityContext", "allowPrivilegeEscalation")),
    "capabilities kept": ("security", _in_container("securityContext", "capabilities", value={"drop": ["NET_RAW"]})),
    "root": ("security", _set("Deployment", *POD, "securityContext", "runAsUser", value=0)),
    "no seccomp profile": (
        "security",
        _set("Deployment", *POD, "securityContext", "seccompProfile", "type", value="Unconfined"),
    ),
    "a token for the API": ("security", _set("Deployment", *POD, "automountServiceAccountToken", value=True)),
    "the host's network": ("security", _set("Deployment", *POD, "hostNetwork", value=True)),
    "a password": ("secrets", _variable("AWS_SECRET_ACCESS_KEY", "x")),
    "a Secret": (
        "secrets",
        lambda resources: resources.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}),
    ),
    "a budget for nobody": (
        "selectors",
        _set("PodDisruptionBudget", "spec", "selector", "matchLabels", value={"app": "other"}),
    ),
    "a policy for nobody": (
        "selectors",
        _set("NetworkPolicy", "spec", "podSelector", "matchLabels", value={"app": "other"}),
    ),
    "two who decide on replicas": ("one_owner_of_replicas", _set("Deployment", "spec", "replicas", value=3)),
    "an autoscaler without behaviour": (
        "one_owner_of_replicas",
        _set("HorizontalPodAutoscaler", "spec", "behavior", value={}),
    ),
    "models that the server would refuse": (
        "models_files",
        _set("ConfigMap", "data", "models.toml", value="[models.a]\nversion = 1\n"),
    ),
}


@pytest.mark.parametrize("violation", VIOLATIONS)
def test_a_rule_catches_its_violation(violation: str) -> None:
    rule, change = VIOLATIONS[violation]
    resources = rendered("cpu")
    change(resources)

    assert list(getattr(rules, rule)(resources)) != []


def test_every_rule_has_a_violation_that_shows_it_at_work() -> None:
    assert {rule for rule, _ in VIOLATIONS.values()} == {rule.__name__ for rule in rules.RULES}


def test_a_runtime_s_drain_is_held_to_its_services_grace_period() -> None:
    resources = rendered("kserve")
    find(resources, "InferenceService")["spec"]["predictor"]["terminationGracePeriodSeconds"] = 20

    assert any(problem.endswith("[drain]") for problem in check.problems(resources))


def test_a_misspelt_field_of_a_kubernetes_kind_is_an_error() -> None:
    resources = rendered("cpu")
    container(resources)["readynessProbe"] = {"grpc": {"port": 8500}}

    assert any("readynessProbe" in problem for problem in check.problems(resources))


@pytest.mark.parametrize(
    ("overlay", "kind", "place"),
    [
        ("monitoring", "PodMonitor", "spec"),
        ("monitoring", "PrometheusRule", "spec"),
        ("keda", "ScaledObject", "spec"),
        ("kserve", "ServingRuntime", "spec"),
        ("kserve", "InferenceService", "spec"),
        ("batch", "RayJob", "spec"),
    ],
)
def test_a_misspelt_field_of_a_custom_resource_is_an_error(overlay: str, kind: str, place: str) -> None:
    resources = rendered(overlay)
    find(resources, kind)[place]["mispelt"] = 1

    assert any("mispelt" in problem for problem in check.problems(resources))


def test_a_misspelt_field_in_a_custom_resource_s_pod_is_an_error() -> None:
    resources = rendered("batch")
    cluster = find(resources, "RayJob")["spec"]["rayClusterSpec"]
    cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resource"] = {}

    assert any("resource" in problem for problem in check.problems(resources))


def test_a_kind_without_a_schema_is_an_error() -> None:
    unknown = {"apiVersion": "example.com/v1", "kind": "Mystery", "metadata": {"name": "m"}, "spec": {}}

    assert any("Mystery" in problem for problem in check.problems([*rendered("cpu"), unknown]))


def test_the_check_prints_a_line_an_overlay_and_fails_with_any(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def render(overlay: str) -> Resources:
        resources = rendered(overlay)
        if overlay == "cpu":
            _in_container("livenessProbe")(resources)
        return resources

    monkeypatch.setattr(check, "render", render)

    assert check.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "as they should be" not in line] == [
        "cpu: Deployment/cornet cornet: expected a livenessProbe [probes]"
    ]


def test_without_kubectl_the_check_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check.shutil, "which", lambda _: None)

    assert check.main() == 1
    assert "kubernetes-client" in capsys.readouterr().out


def test_the_metric_that_the_autoscalers_ask_for_is_exposed_with_its_labels() -> None:
    metrics = Metrics()
    metrics.batch("m", 1, "serving_default").queue_seconds.observe(0.01)
    body = metrics.render()[0].decode()
    rule = find(rendered("monitoring"), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    adapter = next(
        resource["data"]["config.yaml"]
        for resource in rendered("monitoring")
        if resource["metadata"]["name"] == "cornet-adapter-rules"
    )
    query = find(rendered("keda"), "ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]

    assert f"as: {rule}" in adapter
    for name in ("cornet_queue_seconds_sum", "cornet_queue_seconds_count"):
        assert name in adapter
        assert name in query
        assert f"{name}{{" in body


def _command_lines() -> set[tuple[str, ...]]:
    """What the manifests have our images run; a container without arguments gets its command from an operator."""
    lines = set()
    for overlay in check.overlays():
        resources = rendered(overlay)
        for pod in workloads(resources):
            for one in pod.containers():
                if one["image"].startswith(rules.OUR_IMAGES) and "args" in one:
                    lines.add((*one.get("command", ["cornet"]), *one["args"]))
        lines |= {tuple(shlex.split(job["spec"]["entrypoint"])) for job in resources if job["kind"] == "RayJob"}
    return lines


def test_the_manifests_run_commands_with_options_that_cornet_has() -> None:
    lines = {line for line in _command_lines() if line[0] == "cornet"}

    assert {line[1] for line in lines} == {"serve", "train", "batch"}
    for _, *arguments in sorted(lines):
        command = [sys.executable, "-m", "services.cli", *arguments, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"


def test_the_runtimes_flags_open_the_ports_that_their_probes_ask() -> None:
    (line,) = {line for line in _command_lines() if line[0] == "cornet-model-server"}

    settings = parse_flags(line[1:]).settings

    defaults = {name: setting_options()[name].default for name in ("grpc_port", "http_port")}
    assert {"grpc_port": settings.grpc_port, "http_port": settings.http_port} == defaults


def test_the_cluster_s_alerts_are_those_of_the_rules_file_and_find_what_the_monitor_scrapes() -> None:
    resources = rendered("monitoring")
    monitor = find(resources, "PodMonitor")["spec"]
    labels = find(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    text = prometheus_rule.RULES.read_text(encoding="utf-8")

    assert find(resources, "PrometheusRule")["spec"] == yaml.safe_load(text)
    assert f'job="{labels[monitor["jobLabel"]]}"' in text


def test_a_changed_rules_file_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert prometheus_rule.main(["--check"]) == 0
    changed = tmp_path / "rules.yml"
    changed.write_text(
        prometheus_rule.RULES.read_text(encoding="utf-8").replace("for: 2m", "for: 3m"), encoding="utf-8"
    )
    monkeypatch.setattr(prometheus_rule, "RULES", changed)

    assert prometheus_rule.main(["--check"]) == 1
