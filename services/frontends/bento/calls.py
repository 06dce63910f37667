"""A typed call: choose the model, encode the records, infer, name the answers."""

import asyncio
import base64
import binascii
import functools
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from services.engine.engine import Engine
from services.engine.request import InferenceRequest, InferenceResponse
from services.engine.servable import Servable
from services.errors import CornetError, DataError, FailedPrecondition, InvalidArgument, NotFound, QueueFull
from services.frontends.bento.endpoints import BY_TASK, IMAGES, Endpoint
from services.manifest import FP32, Manifest
from services.processing import Processor, load_processor
from services.processing.answers import decode, images_of, png
from services.processing.image import ImageProcessor
from services.processing.imputation import IMPUTE, columns_of, completed, with_mask
from services.processing.prompt import DRAWN_SEEDS
from services.processing.values import is_missing
from services.telemetry.exchange import CURRENT

T = TypeVar("T")

HEAVY = 512
"""Cells or texts above which a call is encoded in a thread, so that it does not hold up the event loop."""
DEFAULT_SCALE = 16
MAX_SCALE = 64
"""Pixels of the file for each pixel that was drawn, in both directions."""
MAX_SIDE = 4096
"""Pixels of such a file at most, in either direction, unless the model itself draws more."""
MAX_PICTURES = 1000
"""Pictures of one call."""
_PICTURES_AT_ONCE = 16
"""Pictures encoded in one turn in a thread: between turns others have theirs, and the call of a client that is gone ends."""
_LONG_TEXT = 4096
_WAITING_ENCODES = 256


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks: records, and optionally which model, which version of it, how many classes, how large a picture."""

    records: list[Any]
    model: str | None = None
    version: int | None = None
    top_k: int | None = None
    scale: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file that was drawn, what drew it, and the seed that draws it again."""

    model: str
    version: int
    seed: int
    png: bytes


class TypedCalls:
    """Answers typed calls on an engine. Each loaded version's processor is read once, and dropped with the version.

        calls = TypedCalls(engine)
        await calls.answer(ENDPOINTS["classify_text"], Call(["free entry!"]))
        # {"model": "transformer", "version": 1, "predictions": [{"label": "spam", "probabilities": {...}}]}

    Pictures and large batches are encoded in a few threads; more than a few hundred waiting calls are refused.
    """

    def __init__(self, engine: Engine, *, threads: int = 0) -> None:
        """`threads` encode at a time; 0 is one per core, at most four."""
        self.engine = engine
        self._processors: WeakKeyDictionary[Servable, asyncio.Future[Processor]] = WeakKeyDictionary()
        workers = threads or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="cornet-encode")
        self._waiting = 0

    def close(self) -> None:
        """Give the threads back."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def answer(self, endpoint: Endpoint, call: Call) -> dict[str, Any]:
        """Model, version and one prediction per record. Raises CornetError: what was expected and what was received."""
        response, labels, processor = await self._infer(endpoint, call)

        def answers() -> list[dict[str, Any]]:
            if endpoint.signature == IMPUTE:
                return completed(response.outputs, processor)
            return decode(endpoint.task, response.outputs, labels, columns=processor.names, top=call.top_k)

        pictures = any(output.ndim == 4 for output in response.outputs.values())  # which become PNG files
        predictions = await self.in_thread(answers) if pictures else answers()
        return {"model": response.model, "version": response.version, "predictions": predictions}

    async def draw(self, endpoint: Endpoint, call: Call) -> Picture:
        """The picture of a call's one record, `scale` pixels wide for each of the model's.

        A seed is drawn where none is given; without a scale the picture has the usual one, or the largest within
        `MAX_SIDE`. Raises CornetError: what was expected and what was received.
        """
        scale = call.scale
        if scale is not None and (type(scale) is not int or not 1 <= scale <= MAX_SCALE):
            raise InvalidArgument(f"scale: expected a whole number from 1 to {MAX_SCALE}. Received: {scale!r:.80}.")
        (record,) = call.records
        if is_missing(record.get("seed")):
            record = {**record, "seed": secrets.randbelow(DRAWN_SEEDS)}
        try:
            response, _, _ = await self._infer(endpoint, replace(call, records=[record]))
        except DataError as error:
            raise InvalidArgument(str(error).removeprefix("record 0: ")) from error
        (image,) = images_of(response.outputs)
        content = await self.in_thread(lambda: png(image, fitting_scale(image, scale)))
        return Picture(response.model, response.version, int(record["seed"]), content)

    async def _infer(self, endpoint: Endpoint, call: Call) -> tuple[InferenceResponse, tuple[str, ...], Processor]:
        """What the model answers to the records, the names of its classes, and its processor."""
        check(endpoint, call)
        name = self.choose(endpoint, call.records) if call.model is None else call.model
        with self.engine.acquire(name, call.version) as handle:
            servable = handle.servable
            manifest = _fitting(servable, endpoint)
            processor = await self.processor(servable)
            if endpoint.signature == IMPUTE:
                inputs = with_mask(await self._encode(endpoint, name, columns_of(processor), call.records))
            else:
                inputs = await self._encode(endpoint, name, processor, call.records)
            request = InferenceRequest(name, inputs, version=servable.version, signature=endpoint.signature)
            exchange = CURRENT.get()
            if exchange is not None:
                exchange.decoded(name)
                exchange.request = request
            response = await self.engine.infer(request)
            if exchange is not None:
                exchange.inferred(response, response.version)
        return response, manifest.labels, processor

    def choose(self, endpoint: Endpoint, records: Sequence[Any] = ()) -> str:
        """The model that answers when none is asked for: the family's, else the only one of the task.

        Where a task has models of pictures and others, those count that take what the `records` are.
        A variant in another precision answers where it is named, or where nothing else is for the task. Raises NotFound
        where no served model is for the task, InvalidArgument where several are.
        """
        tasks = {name: self.task(name) for name in self.engine.models()}
        if not tasks:
            self.engine.acquire(endpoint.family).release()  # raises: the server is stopping, or serves nothing
        kind = ""
        possible = {name for name, task in tasks.items() if task in (endpoint.task, None)}
        if endpoint.pictures and records:
            wanted = isinstance(records[0], bytes)
            kind = f" of {IMAGES if wanted else endpoint.field}"
            possible = {name for name in possible if self._takes_pictures(name) in (wanted, None)}
        if endpoint.family in possible:
            return endpoint.family
        fitting = sorted(name for name in possible if tasks[name] is not None)
        fitting = [name for name in fitting if not self._is_variant(name)] or fitting
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise InvalidArgument(f"model: expected one of {', '.join(fitting)}. Received: none.")
        served = ", ".join(f"{name} ({task or 'no task'})" for name, task in sorted(tasks.items())) or "none"
        raise NotFound(f"Expected a model for {endpoint.task}{kind}. Served: {served}.")

    def task(self, model: str) -> str | None:
        """The task of a model's latest version, '' where it declares none, None where no version is available."""
        try:
            with self.engine.acquire(model) as handle:
                manifest = handle.servable.manifest
                return "" if manifest is None else manifest.task
        except CornetError:
            return None

    def _is_variant(self, model: str) -> bool:
        """Whether a model's latest version is in another precision than what was trained."""
        try:
            with self.engine.acquire(model) as handle:
                manifest = handle.servable.manifest
                return manifest is not None and manifest.precision != FP32
        except CornetError:  # it was unloaded since it was asked for its task
            return False

    def _takes_pictures(self, model: str) -> bool | None:
        """Whether a model's latest version takes pictures, None where no version is available."""
        try:
            with self.engine.acquire(model) as handle:
                manifest = handle.servable.manifest
                spec = None if manifest is None else manifest.processor
                return spec is not None and spec.kind == "image"
        except CornetError:
            return None

    async def processor(self, servable: Servable) -> Processor:
        """The processor of a loaded version. Raises FailedPrecondition where it has none."""
        spec = servable.manifest.processor if servable.manifest is not None else None
        if spec is None:
            raise FailedPrecondition(
                f"{servable.name} version {servable.version}: expected a model with a processor. "
                f"Received: one without; call /v2/models/{servable.name}/infer with tensors."
            )
        reading = self._processors.get(servable)
        if reading is None:
            reading = asyncio.ensure_future(asyncio.to_thread(load_processor, servable.path, spec))
            self._processors[servable] = reading
        try:
            return await asyncio.shield(reading)
        except Exception:
            self._processors.pop(servable, None)
            raise

    async def _encode(
        self, endpoint: Endpoint, model: str, processor: Processor, records: list[Any]
    ) -> dict[str, np.ndarray]:
        if isinstance(processor, ImageProcessor):
            return await self._encode_pictures(endpoint, processor, records)
        if endpoint.pictures and any(isinstance(record, bytes) for record in records):
            raise InvalidArgument(
                f"images: expected a model of pictures. Received: {model}, which takes {endpoint.field}."
            )
        if _heavy(records):
            return await self.in_thread(lambda: processor.encode(records))
        return processor.encode(records)

    async def _encode_pictures(
        self, endpoint: Endpoint, processor: ImageProcessor, records: list[Any]
    ) -> dict[str, np.ndarray]:
        """The same, a few at a time. Records in JSON are base64, as BentoML's clients send pictures."""
        check_pictures(endpoint, records)

        def encode(first: int) -> np.ndarray:
            part = enumerate(records[first : first + _PICTURES_AT_ONCE], first)
            files = [
                record if isinstance(record, bytes) else picture_of(f"{endpoint.field}[{index}]", record)
                for index, record in part
            ]
            return processor.encode(files, first=first)["image"]

        parts = [
            await self.in_thread(functools.partial(encode, first))
            for first in range(0, len(records), _PICTURES_AT_ONCE)
        ]
        return {"image": np.concatenate(parts)}

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run in one of the few encoding threads. Raises QueueFull where too many calls wait for one."""
        if self._waiting >= _WAITING_ENCODES:
            raise QueueFull(f"Expected at most {_WAITING_ENCODES} calls waiting to be encoded. Try again later.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1


def check(endpoint: Endpoint, call: Call) -> None:
    """Raises InvalidArgument where a member is not of its kind: a client sent it, so its type is only a hope."""
    if not isinstance(call.records, list) or not call.records:
        kind = type(call.records).__name__
        received = {"list": "an empty list", "NoneType": "none"}.get(kind, kind)
        raise InvalidArgument(f"{endpoint.either}: expected a list of at least one. Received: {received}.")
    if call.model is not None and (not isinstance(call.model, str) or not call.model):
        raise InvalidArgument(f"model: expected a name. Received: {call.model!r:.80}.")
    for member, value in (("version", call.version), ("top_k", call.top_k)):
        if value is not None and (type(value) is not int or not 1 <= value < 2**63):
            raise InvalidArgument(f"{member}: expected a positive integer. Received: {value!r:.80}.")


def check_pictures(endpoint: Endpoint, records: Sequence[Any]) -> None:
    """Raises InvalidArgument for more pictures than one call may have: they are counted before any is decoded."""
    if len(records) > MAX_PICTURES:
        raise InvalidArgument(f"{endpoint.either}: expected at most {MAX_PICTURES} pictures. Received: {len(records)}.")


def fitting_scale(image: np.ndarray, scale: int | None) -> int:
    """How large to draw a picture `[height, width, ...]`: `scale`, or the usual one within `MAX_SIDE`.

    Raises InvalidArgument where the file would be larger.
    """
    height, width = image.shape[:2]
    largest = max(1, MAX_SIDE // max(height, width))
    if scale is not None and scale > largest:
        raise InvalidArgument(
            f"scale: expected at most {largest} for a picture of {width} x {height} pixels. Received: {scale}."
        )
    return min(DEFAULT_SCALE, largest) if scale is None else scale


def picture_of(where: str, value: Any) -> bytes:
    """The bytes of a file in base64, alone or as TensorFlow Serving writes bytes: {"b64": "..."}."""
    text = value.get("b64") if isinstance(value, dict) and len(value) == 1 else value
    if not isinstance(text, str):
        raise InvalidArgument(f"{where}: expected an image file in base64. Received: {value!r:.80}.")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"{where}: expected an image file in base64. Received: {error}.") from None


def _fitting(servable: Servable, endpoint: Endpoint) -> Manifest:
    """The manifest of a version that is for the endpoint's task."""
    manifest = servable.manifest
    if manifest is None or not manifest.task:
        raise FailedPrecondition(
            f"{servable.name} version {servable.version}: expected a model exported for {endpoint.task}. Received: one "
            f"without a task; call /v2/models/{servable.name}/infer with tensors."
        )
    if manifest.task != endpoint.task:
        right = BY_TASK.get(manifest.task)
        hint = f"; call /{right.name}" if right else ""
        raise InvalidArgument(
            f"{servable.name} version {servable.version}: expected a model for {endpoint.task}. "
            f"Received: one for {manifest.task}{hint}."
        )
    return manifest


def _heavy(records: list[Any]) -> bool:
    first = records[0]
    if isinstance(first, str):
        return len(records) * len(first) > _LONG_TEXT or any(
            len(text) > _LONG_TEXT for text in records if isinstance(text, str)
        )
    cells = len(first) if isinstance(first, list | dict) else 1
    return len(records) * cells > HEAVY
