"""What a rendered overlay runs: every pod it asks for, whatever kind of resource asks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Resource = Mapping[str, Any]

DEFAULT_GRACE_S = 30
"""Kubernetes's terminationGracePeriodSeconds where a pod sets none."""


@dataclass(frozen=True)
class Workload:
    """The pods of one resource. `where` names it in messages; `pod` is a PodSpec; `grace_s` is the time it has to end.

    `is_template_only`: the pod is completed by a controller (a KServe runtime), so what belongs to the whole pod is set
    elsewhere.
    """

    where: str
    labels: Mapping[str, str]
    pod: Mapping[str, Any]
    grace_s: int
    is_template_only: bool = False

    def containers(self) -> list[Mapping[str, Any]]:
        """Init containers and containers."""
        return [*self.pod.get("initContainers", ()), *self.pod.get("containers", ())]


def title(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def workloads(resources: Sequence[Resource]) -> Iterator[Workload]:
    """Every pod template of a render."""
    for resource in resources:
        if resource["kind"] == "ServingRuntime":
            yield _runtime(resource, resources)
        else:
            for place, template in _templates(resource):
                pod = template["spec"]
                grace_s = int(pod.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))
                labels = template.get("metadata", {}).get("labels", {})
                yield Workload(f"{title(resource)}{place}", labels, pod, grace_s)


def _templates(resource: Resource) -> Iterator[tuple[str, Mapping[str, Any]]]:
    spec = resource.get("spec", {})
    match resource["kind"]:
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            yield "", spec["template"]
        case "CronJob":
            yield "", spec["jobTemplate"]["spec"]["template"]
        case "RayJob":
            cluster = spec["rayClusterSpec"]
            yield " head", cluster["headGroupSpec"]["template"]
            for group in cluster["workerGroupSpecs"]:
                yield f" workers {group['groupName']}", group["template"]
            if "submitterPodTemplate" in spec:
                yield " submitter", spec["submitterPodTemplate"]


def _runtime(runtime: Resource, resources: Sequence[Resource]) -> Workload:
    """A KServe runtime; its pods take their grace period from the InferenceServices that name it: the shortest counts."""
    predictors = [
        resource["spec"]["predictor"]
        for resource in resources
        if resource["kind"] == "InferenceService"
        and resource["spec"]["predictor"]["model"].get("runtime") == runtime["metadata"]["name"]
    ]
    grace_s = min(
        (int(predictor.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S)) for predictor in predictors),
        default=DEFAULT_GRACE_S,
    )
    spec = runtime["spec"]
    pod = {"containers": spec["containers"], "volumes": spec.get("volumes", [])}
    return Workload(title(runtime), spec.get("labels", {}), pod, grace_s, is_template_only=True)
