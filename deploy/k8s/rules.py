"""The house rules: what every rendered overlay must hold beyond being valid. Each rule yields what breaks it, in words."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.k8s.workloads import Resource, title, workloads
from services.engine.engine import Engine, EngineOptions
from services.engine.model_config import load_models_file
from services.errors import InvalidArgument
from services.frontends.rest import health, tfs, v2
from services.frontends.rest.routes import RouteTable
from services.server_info import ServerInfo
from services.settings import setting_options
from services.telemetry.metrics import Metrics

Rule = Callable[[Sequence[Resource]], Iterator[str]]

OUR_IMAGES = "registry.example.com/cornet-"
SERVING_IMAGE = OUR_IMAGES + "serve-"
LOAD_BALANCER_IDLE_S = 65
"""The longest idle time of the load balancers in common use; a server that closes first makes them answer 502."""

_PREFIX = "CORNET_"
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIAL|ACCESS_KEY|API_KEY|PRIVATE_KEY", re.IGNORECASE)
_PINNED = re.compile(r"^[^:@]+(?::\d+/[^:@]+)?(?::(?P<tag>[\w.-]+))?(?P<digest>@sha256:[0-9a-f]{64})?$")


def default(name: str) -> Any:
    """A field's default in services/settings.py."""
    return setting_options()[name].default


def probes(resources: Sequence[Resource]) -> Iterator[str]:
    """A server has all three probes, each with a timeout, on paths and ports that the server has."""
    table = route_table()
    for where, container in _servers(resources):
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind)
            if probe is None:
                yield f"{where}: expected a {kind}"
                continue
            if "timeoutSeconds" not in probe:
                yield f"{where}: expected timeoutSeconds in {kind}"
            http, grpc = probe.get("httpGet"), probe.get("grpc")
            if http is not None:
                found = table.find(http["path"])
                if found is None or "GET" not in found[0].methods:
                    yield f"{where}: {kind} asks for {http['path']}, which the server does not have"
                if _port(http["port"], container) != default("http_port"):
                    yield f"{where}: {kind} asks port {http['port']}, expected HTTP's {default('http_port')}"
            elif grpc is not None:
                if grpc["port"] != default("grpc_port"):
                    yield f"{where}: {kind} asks port {grpc['port']}, expected gRPC's {default('grpc_port')}"
            else:
                yield f"{where}: expected {kind} by httpGet or grpc"


def ports(resources: Sequence[Resource]) -> Iterator[str]:
    """A server's ports are the defaults of services/settings.py, and Services lead to ports that their pods have."""
    expected = {default("grpc_port"), default("http_port")}
    for where, container in _servers(resources):
        for port in container.get("ports", ()):
            if port["containerPort"] not in expected:
                yield f"{where}: containerPort {port['containerPort']}, expected one of {sorted(expected)}"
    pods = list(workloads(resources))
    for service in _of_kind(resources, "Service"):
        behind = [pod for pod in pods if _selects(service["spec"].get("selector", {}), pod.labels)]
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in behind:
                if not any(
                    target in (open_port["containerPort"], open_port.get("name"))
                    for container in pod.containers()
                    for open_port in container.get("ports", ())
                ):
                    yield f"{title(service)}: port {target} is not open in {pod.where}"


def limits(resources: Sequence[Resource]) -> Iterator[str]:
    """Every container has requests and limits for CPU and memory."""
    for pod in workloads(resources):
        for container in pod.containers():
            for side in ("requests", "limits"):
                for resource in ("cpu", "memory"):
                    if resource not in container.get("resources", {}).get(side, {}):
                        yield f"{pod.where} {container['name']}: expected resources.{side}.{resource}"


def drain(resources: Sequence[Resource]) -> Iterator[str]:
    """preStop, drain delay and drain timeout together are shorter than the grace period."""
    for pod in workloads(resources):
        for container in pod.containers():
            if not _is_server(container):
                continue
            needed_s = _pre_stop_s(container) + sum(
                float(_environment(container).get(f"{_PREFIX}{name.upper()}", default(name)))
                for name in ("drain_delay_s", "drain_timeout_s")
            )
            if needed_s >= pod.grace_s:
                yield (
                    f"{pod.where}: preStop, drain delay and drain timeout take {needed_s:g} s, "
                    f"expected less than the grace period's {pod.grace_s} s"
                )


def keep_alive(resources: Sequence[Resource]) -> Iterator[str]:
    """A server's idle connections outlive a load balancer's."""
    for where, container in _servers(resources):
        seconds = float(_environment(container).get("CORNET_KEEP_ALIVE_S", default("keep_alive_s")))
        if seconds <= LOAD_BALANCER_IDLE_S:
            yield f"{where}: keep-alive of {seconds:g} s, expected more than {LOAD_BALANCER_IDLE_S}"


def settings(resources: Sequence[Resource]) -> Iterator[str]:
    """Every CORNET_* variable is one that services/settings.py reads."""
    known = {f"{_PREFIX}{name.upper()}" for name in setting_options()}
    for pod in workloads(resources):
        for container in pod.containers():
            for variable in container.get("env", ()):
                if variable["name"].startswith(_PREFIX) and variable["name"] not in known:
                    yield f"{pod.where} {container['name']}: no setting is called {variable['name']}"


def images(resources: Sequence[Resource]) -> Iterator[str]:
    """Every image has a tag that does not move, or a digest; ours carry the version of this checkout."""
    version = ServerInfo().version
    for pod in workloads(resources):
        for container in pod.containers():
            image = str(container.get("image", ""))
            match = _PINNED.match(image)
            if match is None or (match["digest"] is None and match["tag"] in (None, "latest", "stable", "main")):
                yield f"{pod.where} {container['name']}: expected a pinned image, received {image!r}"
            elif image.startswith(OUR_IMAGES) and match["tag"] != version:
                yield f"{pod.where} {container['name']}: {image}, expected tag {version}"


def security(resources: Sequence[Resource]) -> Iterator[str]:
    """Pod Security's `restricted` profile, a read-only root file system, and no token for the Kubernetes API."""
    for pod in workloads(resources):
        whole = pod.pod.get("securityContext", {})
        if not pod.is_template_only and pod.pod.get("automountServiceAccountToken") is not False:
            yield f"{pod.where}: expected automountServiceAccountToken: false"
        for container in pod.containers():
            own = container.get("securityContext", {})
            both = {**whole, **own}
            held = {
                "runAsNonRoot: true": both.get("runAsNonRoot") is True,
                "a runAsUser other than 0": both.get("runAsUser", 0) != 0,
                "seccompProfile RuntimeDefault": both.get("seccompProfile", {}).get("type") == "RuntimeDefault",
                "readOnlyRootFilesystem: true": own.get("readOnlyRootFilesystem") is True,
                "allowPrivilegeEscalation: false": own.get("allowPrivilegeEscalation") is False,
                "capabilities to drop ALL and add none": own.get("capabilities") == {"drop": ["ALL"]},
                "no privileged: true": not own.get("privileged"),
            }
            for what, holds in held.items():
                if not holds:
                    yield f"{pod.where} {container['name']}: expected {what}"
        for shared in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.pod.get(shared):
                yield f"{pod.where}: expected no {shared}"


def secrets(resources: Sequence[Resource]) -> Iterator[str]:
    """No manifest carries a secret: no Secret with content, no secret's name with a literal value."""
    for secret in _of_kind(resources, "Secret"):
        yield f"{title(secret)}: a Secret does not belong into a manifest"
    for pod in workloads(resources):
        for container in pod.containers():
            for variable in container.get("env", ()):
                if _SECRET_NAME.search(variable["name"]) and "value" in variable:
                    yield f"{pod.where} {container['name']}: {variable['name']} has a literal value"


def selectors(resources: Sequence[Resource]) -> Iterator[str]:
    """Whatever selects pods selects some of this render."""
    labels = [pod.labels for pod in workloads(resources)]
    for resource in resources:
        selector = _selector(resource)
        if selector is not None and not any(_selects(selector, some) for some in labels):
            yield f"{title(resource)}: selects no pod of this overlay: {dict(selector)}"


def one_owner_of_replicas(resources: Sequence[Resource]) -> Iterator[str]:
    """A Deployment has a fixed number of pods or an autoscaler, and the autoscaler scales in with care."""
    scaled = set()
    for resource in resources:
        if resource["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            spec = resource["spec"]
            scaled.add(spec["scaleTargetRef"]["name"])
            plain = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}) if "triggers" in spec else spec
            if {"scaleUp", "scaleDown"} - set(plain.get("behavior", {})):
                yield f"{title(resource)}: expected behavior.scaleUp and behavior.scaleDown"
    for deployment in _of_kind(resources, "Deployment"):
        if ("replicas" in deployment["spec"]) == (deployment["metadata"]["name"] in scaled):
            yield f"{title(deployment)}: expected either replicas or an autoscaler"


def models_files(resources: Sequence[Resource]) -> Iterator[str]:
    """Every models.toml in a ConfigMap is one that the server reads."""
    for config_map in _of_kind(resources, "ConfigMap"):
        text = config_map.get("data", {}).get("models.toml")
        if text is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "models.toml"
                path.write_text(text, encoding="utf-8")
                try:
                    load_models_file(path)
                except InvalidArgument as error:
                    yield f"{title(config_map)}: {error}"


RULES: tuple[Rule, ...] = (
    *(probes, ports, limits, drain, keep_alive, settings, images, security, secrets, selectors),
    *(one_owner_of_replicas, models_files),
)


def route_table() -> RouteTable:
    """The HTTP routes of a server."""
    engine = Engine(EngineOptions(), [], metrics=(metrics := Metrics()))
    return RouteTable((*tfs.routes(engine), *v2.routes(engine, ServerInfo()), *health.routes(engine, metrics)))


def _is_server(container: Mapping[str, Any]) -> bool:
    return str(container.get("image", "")).startswith(SERVING_IMAGE)


def _servers(resources: Sequence[Resource]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for pod in workloads(resources):
        for container in pod.containers():
            if _is_server(container):
                yield f"{pod.where} {container['name']}", container


def _of_kind(resources: Sequence[Resource], kind: str) -> Iterator[Resource]:
    return (resource for resource in resources if resource["kind"] == kind)


def _selector(resource: Resource) -> Mapping[str, str] | None:
    spec = resource.get("spec", {})
    match resource["kind"]:
        case "Service":
            return dict(spec.get("selector", {}))
        case "PodDisruptionBudget" | "PodMonitor":
            return dict(spec["selector"]["matchLabels"])
        case "NetworkPolicy":
            return dict(spec["podSelector"].get("matchLabels", {}))
        case "Deployment":
            return dict(spec["selector"]["matchLabels"])
    return None


def _selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def _port(port: int | str, container: Mapping[str, Any]) -> int | None:
    """A port's number, by its name where it is given by name."""
    if isinstance(port, int):
        return port
    return next((p["containerPort"] for p in container.get("ports", ()) if p.get("name") == port), None)


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container.get("env", ()) if "value" in variable}


def _pre_stop_s(container: Mapping[str, Any]) -> float:
    hook = container.get("lifecycle", {}).get("preStop", {})
    if "sleep" in hook:
        return float(hook["sleep"]["seconds"])
    command = hook.get("exec", {}).get("command", [])
    return float(command[1]) if command[:1] == ["sleep"] else 0.0
