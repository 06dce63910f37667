"""Gradient descent as every family has it: the options, the optimizer they make, and how its step size moves.

    model.compile(optimizer(options, rows=len(train)), loss)
    model.fit(..., callbacks=[*callbacks, *schedule_callbacks(options, len(train), history)])

A family's options inherit from `GradientOptions`; one that does not learn by gradient descent has none of them.
`training.runner` adds the callbacks, so that a family only compiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from services.errors import InvalidArgument
from training.options import Bounds, Search
from training.pipeline import CommonOptions, Pipeline

if TYPE_CHECKING:
    import keras

OptimizerName = Literal["adam", "adamw", "nadam", "adamax", "lamb", "lion", "sgd", "rmsprop", "adagrad"]
ScheduleName = Literal["constant", "cosine", "step", "plateau"]
SCHEDULES = Search(choices=("constant", "cosine", "plateau"))
"""Those that `cornet tune` tries."""

_KERAS_NAMES: Mapping[str, str] = {"adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
_WITH_MOMENTUM = ("sgd", "rmsprop")
_FALLING = ("step", "plateau")
_DECAY_FACTOR = 0.3


@dataclass(frozen=True)
class GradientOptions(CommonOptions):
    """Options of the families that learn by gradient descent. A subclass's `__post_init__` calls this one's."""

    optimizer: Annotated[OptimizerName, Search(choices=("adam", "adamw", "nadam", "rmsprop"))] = "adam"
    """How a gradient becomes a step."""
    momentum: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
    """Share of the last step that is carried into the next; for sgd and rmsprop."""
    nesterov: bool = False
    """Look ahead by the momentum before the gradient is taken; for sgd with momentum."""
    weight_decay: Annotated[float | None, Bounds(0)] = None
    """Share of each weight taken off per step, times the learning rate; none: 0.004 for adamw, else 0."""
    schedule: Annotated[ScheduleName, SCHEDULES] = "constant"
    """Learning rate over the epochs: constant, falling to 0 along a cosine, falling in steps, or when validation stays."""
    decay_factor: Annotated[float | None, Bounds(0, 1, open_low=True, open_high=True)] = None
    """What step and plateau multiply the learning rate by at each fall; none: 0.3."""
    decay_epochs: Annotated[int | None, Bounds(1)] = None
    """Epochs between falls (step), or without a better validation loss (plateau); none: a third of epochs, of patience."""
    warmup_epochs: Annotated[float, Bounds(0)] = 0.0
    """Epochs, or a part of one, over which the learning rate first rises from near 0; the schedule begins after them."""
    clip_norm: Annotated[float | None, Bounds(0, open_low=True)] = None
    """Longest gradient of each weight tensor by itself; longer ones are scaled down."""
    clip_value: Annotated[float | None, Bounds(0, open_low=True)] = None
    """Largest element of a gradient, of either sign; larger ones are cut."""
    clip_global_norm: Annotated[float | None, Bounds(0, open_low=True)] = None
    """Longest gradient of all weights together; a longer one is scaled down."""
    mixed_precision: bool = False
    """Multiply in bfloat16 while training, on a GPU (compute capability 8.0) or CPU (AMX) made for it; exported: float32."""

    def __post_init__(self) -> None:
        if self.momentum and self.optimizer not in _WITH_MOMENTUM:
            raise InvalidArgument(
                f"Expected an optimizer out of {', '.join(_WITH_MOMENTUM)} with momentum; the others have their own. "
                f"Received: optimizer={self.optimizer}, momentum={self.momentum:g}."
            )
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise InvalidArgument(
                "Expected optimizer=sgd and momentum above 0 with nesterov. "
                f"Received: optimizer={self.optimizer}, momentum={self.momentum:g}."
            )
        clips = {name: getattr(self, name) for name in ("clip_norm", "clip_value", "clip_global_norm")}
        given = [f"{name}={value:g}" for name, value in clips.items() if value is not None]
        if len(given) > 1:
            raise InvalidArgument(f"Expected one of {', '.join(clips)}. Received: {', '.join(given)}.")
        falls = {name: getattr(self, name) for name in ("decay_factor", "decay_epochs")}
        given = [f"{name}={value:g}" for name, value in falls.items() if value is not None]
        if given and self.schedule not in _FALLING:
            raise InvalidArgument(
                f"Expected schedule=step or plateau with {' and '.join(falls)}. "
                f"Received: schedule={self.schedule}, {', '.join(given)}."
            )
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise InvalidArgument(
                "Expected a warm-up that ends before the last epoch. "
                f"Received: warmup_epochs={self.warmup_epochs:g}, epochs={self.epochs}."
            )


def gradient_options(pipeline: Pipeline, options: CommonOptions, what: str) -> GradientOptions:
    """The options as those of gradient descent. Raises InvalidArgument where the family has none of it for `what`."""
    if not isinstance(options, GradientOptions):
        raise InvalidArgument(
            f"Expected a family that learns by gradient descent for {what}. Received: {pipeline.family}."
        )
    return options


def answer_itself(_: Any, answer: Any) -> Any:
    """The loss of a model that answers its own loss, a number per row: there is nothing to hold it against."""
    return answer


def optimizer(options: GradientOptions, rows: int) -> "keras.optimizers.Optimizer":
    """The optimizer of the options; `rows` of training data make the length of an epoch."""
    import keras

    settings: dict[str, Any] = {
        "clipnorm": options.clip_norm,
        "clipvalue": options.clip_value,
        "global_clipnorm": options.clip_global_norm,
    }
    if options.weight_decay is not None:
        settings["weight_decay"] = options.weight_decay
    if options.optimizer in _WITH_MOMENTUM:
        settings["momentum"] = options.momentum
    if options.optimizer == "sgd":
        settings["nesterov"] = options.nesterov
    made = getattr(keras.optimizers, _KERAS_NAMES.get(options.optimizer, options.optimizer.capitalize()))
    return made(_rate(options, rows), **settings)


def schedule_callbacks(options: CommonOptions, rows: int, history: Sequence[Mapping[str, float]]) -> list[Any]:
    """The Keras callbacks that move the step size where that takes more than the count of steps; often none.

    `history`: one entry per full epoch with its `val_loss`, of a resumed run too; the very list that training extends.
    """
    if not isinstance(options, GradientOptions) or options.schedule != "plateau":
        return []
    from training.schedules import Plateau

    return [
        Plateau(
            history,
            factor=options.decay_factor or _DECAY_FACTOR,
            patience=options.decay_epochs or max(1, options.patience // 3),
            rate=options.learning_rate,
            warmup_steps=_warmup_steps(options, rows),
            steps_per_epoch=_steps_per_epoch(options, rows),
        )
    ]


def _rate(options: GradientOptions, rows: int) -> Any:
    """A number, or a function of the count of steps, which the optimizer keeps and a checkpoint restores."""
    from keras.optimizers.schedules import CosineDecay, ExponentialDecay

    from training.schedules import Warmup

    rate: Any = options.learning_rate
    epoch, warmup = _steps_per_epoch(options, rows), _warmup_steps(options, rows)
    if options.schedule == "cosine":
        rate = CosineDecay(rate, epoch * options.epochs - warmup)
    elif options.schedule == "step":
        every = options.decay_epochs or max(1, options.epochs // 3)
        rate = ExponentialDecay(rate, every * epoch, options.decay_factor or _DECAY_FACTOR, staircase=True)
    if warmup and options.schedule != "plateau":
        rate = Warmup(options.learning_rate, warmup, rate)
    return rate


def _steps_per_epoch(options: GradientOptions, rows: int) -> int:
    return -(-rows // options.batch_size)


def _warmup_steps(options: GradientOptions, rows: int) -> int:
    return round(options.warmup_epochs * _steps_per_epoch(options, rows))
