"""Which precisions are asked for, and how."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from services.manifest import FP32


class Precision(StrEnum):
    """What a model computes in. fp32 is always published; it can be named, so that a list of precisions is complete."""

    FP32 = FP32
    FP16 = "fp16"
    INT8 = "int8"


class Quantization(StrEnum):
    """How the ranges of int8 activations are found.

    Static: beforehand, on training rows, and written into the file. Dynamic: anew for each batch. Auto: static for a model
    with convolutions, whose dynamic form is slow, dynamic for any other.
    """

    AUTO = "auto"
    STATIC = "static"
    DYNAMIC = "dynamic"


@dataclass(frozen=True)
class VariantOptions:
    """`most_loss` is the share of the float32 model's primary metric by which a variant may be worse."""

    precisions: tuple[Precision, ...] = ()
    quantization: Quantization = Quantization.AUTO
    most_loss: float = 0.01

    @property
    def wanted(self) -> tuple[Precision, ...]:
        """The precisions to make beside float32, each once."""
        return tuple(dict.fromkeys(p for p in self.precisions if p is not Precision.FP32))


PrecisionOption = Annotated[
    list[Precision] | None,
    typer.Option(
        "--precision", help="Also publish the model as NAME-fp16 or NAME-int8, if it passes its gates; repeatable."
    ),
]
QuantizationOption = Annotated[
    Quantization,
    typer.Option(
        "--quantization",
        help="int8 ranges from training rows (static) or per batch (dynamic); auto: by the operations.",
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option("--calibration", help="NPZ of training rows by input name, for static quantisation."),
]
MostLossOption = Annotated[
    float,
    typer.Option(
        "--most-loss",
        min=0.0,
        max=1.0,
        help="Share of fp32's primary metric by which a variant may be worse on held-out rows.",
    ),
]
