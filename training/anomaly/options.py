"""Options of the autoencoder family."""

from dataclasses import dataclass
from typing import Annotated, Literal

from services.errors import InvalidArgument
from training.options import Bounds, Search
from training.tabular import TabularOptions


@dataclass(frozen=True)
class AutoencoderOptions(TabularOptions):
    """Options of the autoencoder."""

    epochs: Annotated[int, Bounds(1)] = 200
    """Most epochs to train; early stopping may end sooner."""
    patience: Annotated[int, Bounds(1)] = 20
    """Epochs without a better validation loss before training stops; the best weights are kept."""
    input: Literal["auto", "table", "pictures"] = "auto"
    """What the data is; auto: pictures for a folder, an IDX file and an NPZ of pictures, else a table."""
    network: Literal["auto", "dense", "convolutional"] = "auto"
    """Layers of encoder and decoder; auto: convolutional for pictures, dense for a table."""
    units: Annotated[tuple[int, ...], Bounds(1), Search(16, 256, log=True, depth=(1, 2))] = (64,)
    """Width of each layer of a dense encoder; the decoder mirrors them."""
    filters: Annotated[tuple[int, ...], Bounds(1)] = (16, 32)
    """Filters of each layer of a convolutional encoder, which halves height and width; the decoder mirrors them."""
    bottleneck: Annotated[int | None, Bounds(1)] = None
    """Width of the code that a row has to pass through; none: 4 for a table, 32 for pictures."""
    noise: Annotated[float, Bounds(0), Search(0, 0.5)] = 0.1
    """Denoising: Gaussian noise added while training, its standard deviation in that of a column, or of black to white."""
    masking: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
    """Denoising: share of the cells made missing, or of the pixels made black, while training."""
    salt_and_pepper: Annotated[float, Bounds(0, 1, open_high=True)] = 0.0
    """Denoising, pictures alone: share of the pixels made white or black while training."""
    plain_twin: bool = False
    """Train the same network without noise as well, to show how much better this one restores: twice the time."""
    normal: tuple[str, ...] = ()
    """Classes of the normal rows; none given: the most frequent one of a table, and every one of pictures."""
    learn: Literal["normal", "all"] = "normal"
    """Learn from the normal rows, or from all as if nobody had labelled them; labels then serve the figures."""
    threshold: Literal["quantile", "share", "labelled"] = "quantile"
    """Rule for the threshold: a quantile of normal validation scores, a known share of outliers, or labelled rows."""
    quantile: Annotated[float, Bounds(0, 1, open_low=True)] = 0.95
    """Rule quantile: share of normal validation rows that lie below, 1 minus the false alarms to live with."""
    share: Annotated[float | None, Bounds(0, 1, open_low=True, open_high=True)] = None
    """Rule share: known share of outliers; that many validation rows lie above, whatever their labels."""
    aim: Literal["f1", "recall", "cost"] = "f1"
    """Rule labelled: best F1, fewest false alarms at a recall, or least cost, on the validation rows."""
    recall: Annotated[float, Bounds(0, 1, open_low=True)] = 0.95
    """Aim recall: least share of anomalous validation rows that are caught."""
    miss_cost: Annotated[float, Bounds(0, open_low=True)] = 10.0
    """Aim cost: what a missed anomaly costs, in false alarms."""
    height: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: that of most training pictures, scaled down so that no side is longer than 128."""
    width: Annotated[int | None, Bounds(1)] = None
    """Pixels; none: as for height."""
    channels: Literal["auto", "grey", "rgb"] = "auto"
    """Colours the model sees; auto: rgb where most training pictures have colours."""

    @property
    def denoising(self) -> bool:
        """Whether training rows are damaged at all."""
        return bool(self.noise or self.masking or self.salt_and_pepper)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.filters:
            raise InvalidArgument("Option filters: expected one number at least. Received: none.")
        if self.threshold == "share" and self.share is None:
            raise InvalidArgument(
                "Option share: expected the known share of outliers for threshold=share, such as share=0.05. Received: none."
            )
        if self.threshold != "share" and self.share is not None:
            raise InvalidArgument(
                f"Option share: expected threshold=share beside it. Received: threshold={self.threshold}."
            )
