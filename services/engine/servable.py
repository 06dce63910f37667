"""One loaded version of a model: what it takes and gives, and the way to run it.

`load` (services.engine.loader) makes it in a thread; `open` gives it its batchers on the loop; requests enter by `submit`;
`close` gives its memory back, after the last holder has released it.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from services.engine.backend import Backend
from services.engine.batching import Batcher
from services.engine.costs import CostTable
from services.engine.lanes import Lane, Receiver, Validity
from services.engine.model_config import BatchingOptions
from services.engine.request import Done, InferenceRequest
from services.engine.scheduling import Identity, Pending, Scheduling
from services.engine.validation import SignaturePlan
from services.errors import ModelNotReady, ShuttingDown, SignatureNotFound
from services.manifest import Manifest
from services.telemetry.metrics import Metrics
from services.tensors import DEFAULT_SIGNATURE, Signature

_NUMBERS = "iuf"
"""Kinds of numpy types whose every byte may be taken as it came: of a bool's, only 0 and 1."""


class Servable:
    """A version that is loaded. Its attributes are read-only and may be used while a `Handle` on it is held.

    `signatures` are the manifest's where there is one, else the model file's own. `platform` is `onnxruntime_onnx` or
    `tensorflow_savedmodel`; `providers` what really runs it, the first one first; `batching` the settled options,
    `warm_up_s` the seconds its warm-up took.
    """

    def __init__(
        self,
        name: str,
        version: int,
        path: Path,
        backend: Backend,
        *,
        signatures: Mapping[str, Signature],
        manifest: Manifest | None,
        batching: BatchingOptions,
        costs: Mapping[str, CostTable] | None = None,
        warm_up_s: float = 0.0,
    ) -> None:
        self.name = name
        self.version = version
        self.path = path
        self.signatures = signatures
        self.manifest = manifest
        self.platform = backend.platform
        self.providers = backend.providers
        self.batching = batching
        self.warm_up_s = warm_up_s
        self._backend = backend
        self._costs = costs or {}
        self._plans = {
            key: SignaturePlan(signature, advisory_shapes=backend.advisory_shapes)
            for key, signature in signatures.items()
        }
        self._entrances: dict[str, tuple[SignaturePlan, Batcher]] = {}
        self._references = 0
        self._when_idle: Callable[[], None] | None = None

    def open(self, scheduling: Scheduling, metrics: Metrics) -> None:
        """Give every signature its batcher. On the loop, once, before the first `submit`."""
        threads = self._backend.threads
        if threads is not None:
            scheduling = replace(scheduling, executor=threads, inline_s=0.0)
        for key, plan in self._plans.items():
            batcher = Batcher(
                self._runner(key),
                Identity(self.name, self.version, key),
                self.batching,
                scheduling,
                batchable=plan.batchable,
                costs=self._costs.get(key) or CostTable(),
                lease=self,
                metrics=metrics.batch(self.name, self.version, key),
            )
            self._entrances[key] = (plan, batcher)

    def submit(self, request: InferenceRequest, done: Done) -> Pending:
        """Validate and queue. Raises what is wrong at once; otherwise `done` is called once, later."""
        batcher, outputs, rows, key = self._enter(request)
        return batcher.enqueue(request.inputs, rows, key, outputs, request.deadline, done)

    def lane(self, request: InferenceRequest, receiver: Receiver, validity: Validity) -> Lane | None:
        """The lane for requests of this one's form. Raises what is wrong with it; None where there is no lane for it.

        There is one for requests of a single tensor of numbers that are not larger than a batch.
        """
        batcher, outputs, rows, key = self._enter(request)
        arrays = list(request.inputs.values())
        if not batcher.batchable or len(arrays) != 1 or rows > self.batching.max_batch_rows:
            return None
        if not arrays[0].size or arrays[0].dtype.kind not in _NUMBERS:
            return None
        return Lane(batcher, key, outputs, request.inputs, receiver, validity)

    def _enter(self, request: InferenceRequest) -> tuple[Batcher, tuple[str, ...], int, Hashable]:
        """The batcher, the outputs, the rows, and what is equal for requests that may share a run. Validates."""
        entrance = self._entrances.get(request.signature or DEFAULT_SIGNATURE)
        if entrance is None:
            if not self._entrances:
                raise ModelNotReady(f"{self.name} version {self.version} is not open for requests.")
            raise SignatureNotFound(request.signature, tuple(self.signatures))
        plan, batcher = entrance
        outputs = plan.choose(request.outputs) if request.outputs else plan.outputs
        rows, shape = plan.check(request.inputs)
        return batcher, outputs, rows, shape if outputs is plan.outputs else (shape, outputs)

    @property
    def default_signature(self) -> Signature:
        """The signature of protocols that have no word for others. Raises SignatureNotFound."""
        try:
            return self.signatures[DEFAULT_SIGNATURE]
        except KeyError:
            raise SignatureNotFound(DEFAULT_SIGNATURE, tuple(self.signatures)) from None

    @property
    def healthy(self) -> bool:
        """False once the device it runs on is lost, for good."""
        return self._backend.healthy

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a batch, over all signatures."""
        return sum(batcher.queued_rows for _, batcher in self._entrances.values())

    def retain(self) -> None:
        self._references += 1

    def release(self) -> None:
        self._references -= 1
        if not self._references and self._when_idle is not None:
            callback, self._when_idle = self._when_idle, None
            callback()

    @property
    def idle(self) -> bool:
        """Whether nobody holds it and no request of its is on its way."""
        return not self._references

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once, when the last holder releases it; at once where nobody holds it."""
        if self.idle:
            callback()
        else:
            self._when_idle = callback

    def refuse(self) -> None:
        """Complete whatever is queued with ShuttingDown, and take nothing more."""
        for _, batcher in self._entrances.values():
            batcher.close(ShuttingDown(f"{self.name} version {self.version} is being unloaded."))

    def close(self) -> None:
        """Give the model's memory back. May run in a thread."""
        self._backend.close()

    def _runner(self, key: str) -> Callable[[Mapping[str, np.ndarray], tuple[str, ...]], dict[str, np.ndarray]]:
        run = self._backend.run
        return lambda inputs, outputs: run(key, inputs, outputs)


class Handle:
    """A counted hold on a servable, which is not unloaded before it is released.

        with engine.acquire("regressor") as handle:
            handle.servable.manifest

    It may be released early; a second release changes nothing.
    """

    __slots__ = ("_held", "servable")

    def __init__(self, servable: Servable) -> None:
        self.servable = servable
        self._held = True
        servable.retain()

    def release(self) -> None:
        """Give the hold up. May be called twice."""
        if self._held:
            self._held = False
            self.servable.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()
