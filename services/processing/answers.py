"""Output tensors of a model to one plain, JSON-able answer per row: labels, not bare indices.

| task | answer |
| --- | --- |
| regression | `{"prediction": 3.2}` |
| any classification | `{"label": "spam", "probabilities": {"spam": 0.9, "ham": 0.1}}` |
| forecasting | `{"forecast": [20.1, 19.8]}`, or by column where there are several |
| anomaly_detection | `{"score": 0.7, "is_anomaly": true, "reconstruction": [...]}`; of a picture a PNG file in base64 |
| image_features, tabular_features | `{"features": [...]}` |
| text_to_image | `{"image": "<a PNG file in base64>"}` |

Numbers are the shortest decimals that read back as the float32 the model gave.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from services.errors import FailedPrecondition, Internal, InvalidArgument
from services.processing.values import shortest

Answer = dict[str, Any]


def decode(
    task: str,
    outputs: Mapping[str, np.ndarray],
    labels: Sequence[str] = (),
    *,
    columns: Sequence[str] = (),
    top: int | None = None,
) -> list[Answer]:
    """One answer per row, in order.

    `labels` name the classes (their indices where there are none); `columns` the channels of a forecast `[B, H, F]`, and
    the features of a reconstruction. `top` keeps the most probable classes alone. Probabilities come most probable first.

    Raises InvalidArgument for a task without answers of its own, FailedPrecondition for outputs that do not fit the task,
    Internal where the model gave NaN or an infinity.
    """
    try:
        decoder = _DECODERS[task]
    except KeyError:
        raise InvalidArgument(f"Expected a task out of {', '.join(_DECODERS)}. Received: {task!r}.") from None
    return decoder(outputs, tuple(labels), tuple(columns), top)


def _regression(outputs: Mapping[str, np.ndarray], *_: Any) -> list[Answer]:
    values = output_of(outputs, "prediction")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    return [{"prediction": value} for value in _plain("prediction", values)]


def _classes(
    outputs: Mapping[str, np.ndarray], labels: tuple[str, ...], _columns: tuple[str, ...], top: int | None
) -> list[Answer]:
    values = output_of(outputs, "probabilities")
    if values.ndim == 1:
        values = values[:, np.newaxis]
    if values.ndim == 2 and values.shape[1] == 1 and len(labels) == 2:
        values = np.concatenate([1 - values, values], axis=1)
    if values.ndim != 2 or (labels and values.shape[1] != len(labels)):
        expected = f"[rows, {len(labels)}]" if labels else "[rows, classes]"
        raise FailedPrecondition(f"probabilities: expected shape {expected}. The model gave {list(values.shape)}.")
    names = labels or tuple(str(index) for index in range(values.shape[1]))
    ranked = np.argsort(-values, axis=1, kind="stable")[:, :top]
    answers = []
    for row, order in zip(_plain("probabilities", values), ranked.tolist(), strict=True):
        answers.append({"label": names[order[0]], "probabilities": {names[index]: row[index] for index in order}})
    return answers


def _forecast(outputs: Mapping[str, np.ndarray], _labels: Any, columns: tuple[str, ...], _top: Any) -> list[Answer]:
    values = output_of(outputs, "forecast")
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim == 3:
        names = columns if len(columns) == values.shape[2] else tuple(str(index) for index in range(values.shape[2]))
        rows = _plain("forecast", values.swapaxes(1, 2))
        return [{"forecast": dict(zip(names, row, strict=True))} for row in rows]
    return [{"forecast": row} for row in _plain("forecast", values)]


def _anomaly(outputs: Mapping[str, np.ndarray], _labels: Any, columns: tuple[str, ...], _top: Any) -> list[Answer]:
    missing = [name for name in ("score", "is_anomaly") if name not in outputs]
    if missing:
        raise FailedPrecondition(f"Expected the outputs score and is_anomaly. The model gave {', '.join(outputs)}.")
    scores = _plain("score", outputs["score"].reshape(-1))
    answers: list[Answer] = [
        {"score": score, "is_anomaly": bool(flag)}
        for score, flag in zip(scores, outputs["is_anomaly"].reshape(-1), strict=True)
    ]
    rebuilt = outputs.get("reconstruction")
    if rebuilt is not None and rebuilt.ndim == 4 and rebuilt.shape[-1] in (1, 3):
        for answer, picture in zip(answers, rebuilt, strict=True):
            pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
            answer["reconstruction"] = base64.b64encode(png(pixels)).decode("ascii")
    elif rebuilt is not None:
        for answer, row in zip(answers, _plain("reconstruction", rebuilt), strict=True):
            named = isinstance(row, list) and len(row) == len(columns)
            answer["reconstruction"] = dict(zip(columns, row, strict=True)) if named else row
    return answers


def _features(outputs: Mapping[str, np.ndarray], *_: Any) -> list[Answer]:
    return [{"features": row} for row in _plain("features", output_of(outputs, "features"))]


def images_of(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The pictures a model drew, u8 `[rows, height, width]` or `[rows, height, width, 1 or 3]`. Raises FailedPrecondition."""
    values = output_of(outputs, "image")
    if values.dtype != np.uint8 or values.ndim not in (3, 4) or (values.ndim == 4 and values.shape[3] not in (1, 3)):
        raise FailedPrecondition(
            "image: expected uint8 [rows, height, width], or with 1 or 3 channels. "
            f"The model gave {values.dtype.name} {list(values.shape)}."
        )
    return values


def png(image: np.ndarray, scale: int = 1) -> bytes:
    """One of those pictures as a PNG file, each pixel `scale` wide and high."""
    from PIL import Image

    large = image.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(large[..., 0] if large.shape[2:] == (1,) else large).save(buffer, "PNG")
    return buffer.getvalue()


def _images(outputs: Mapping[str, np.ndarray], *_: Any) -> list[Answer]:
    return [{"image": base64.b64encode(png(image)).decode("ascii")} for image in images_of(outputs)]


_DECODERS: Mapping[str, Callable[..., list[Answer]]] = {
    "regression": _regression,
    "classification": _classes,
    "image_classification": _classes,
    "text_classification": _classes,
    "forecasting": _forecast,
    "anomaly_detection": _anomaly,
    "image_features": _features,
    "text_to_image": _images,
    "tabular_features": _features,
}


def output_of(outputs: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The output the task is about; a model that was trained elsewhere may call its only output otherwise."""
    if name in outputs:
        return outputs[name]
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    raise FailedPrecondition(f"Expected an output named {name}. The model gave {', '.join(outputs) or 'none'}.")


def finite(name: str, values: np.ndarray) -> np.ndarray:
    """The values. Raises Internal where one of them is NaN or infinite."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise Internal(f"{name}: expected finite numbers. The model gave NaN or an infinity for record {row}.")
    return values


def _plain(name: str, values: np.ndarray) -> list[Any]:
    """Nested lists of Python numbers."""
    return shortest(finite(name, values))
