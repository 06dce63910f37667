"""The table of typed endpoints."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.tensors import DEFAULT_SIGNATURE

IMAGES = "images"
"""The member that holds image files."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint: `POST /<name>`.

    `field` is the member of the body that holds the records, `family` the model that answers when none is asked for,
    `ranked` says that the answers are classes, so that `top_k` applies. `one` names what else one record may have where the
    endpoint takes a single one, its members beside the options, and answers with a picture. `signature` is what of the model
    is run. `pictures` says that some models of the task take pictures instead of records, in the member `images`.
    """

    name: str
    task: str
    field: str
    family: str
    summary: str
    ranked: bool = False
    one: tuple[str, ...] = ()
    signature: str = DEFAULT_SIGNATURE
    pictures: bool = False

    @property
    def images(self) -> bool:
        """Whether the records may be image files, which may be uploaded."""
        return IMAGES in self.fields

    @property
    def fields(self) -> tuple[str, ...]:
        """Members of which one holds the records."""
        return (self.field, IMAGES) if self.pictures else (self.field,)

    @property
    def either(self) -> str:
        """Those members as a message names them."""
        return " or ".join(self.fields)

    @property
    def members(self) -> tuple[str, ...]:
        """Members of the body."""
        own = ("scale",) if self.draws else ("top_k",) if self.ranked else ()
        return (*self.fields, *self.one, "model", "version", *own)

    @property
    def draws(self) -> bool:
        """Whether the answer is one picture, not JSON."""
        return bool(self.one)


ENDPOINTS: Mapping[str, Endpoint] = {
    endpoint.name: endpoint
    for endpoint in (
        Endpoint("regress", "regression", "records", "regressor", "Predict a number for each record."),
        Endpoint("classify", "classification", "records", "classifier", "Name the class of each record.", ranked=True),
        Endpoint(
            "classify_image", "image_classification", "images", "cnn", "Name the class of each picture.", ranked=True
        ),
        Endpoint("extract_features", "image_features", "images", "vgg16", "Turn each picture into a feature vector."),
        Endpoint("forecast", "forecasting", "windows", "lstm", "Continue each window of a series."),
        Endpoint(
            "classify_text", "text_classification", "texts", "transformer", "Name the class of each text.", ranked=True
        ),
        Endpoint(
            "detect_anomaly",
            "anomaly_detection",
            "records",
            "autoencoder",
            "Say how unusual each record or picture is.",
            pictures=True,
        ),
        Endpoint(
            "generate_image",
            "text_to_image",
            "prompt",
            "text_to_image",
            "Draw what a prompt says, as a PNG.",
            one=("temperature", "seed"),
        ),
        Endpoint("encode_records", "tabular_features", "records", "rbm", "Turn each record into a feature vector."),
        Endpoint(
            "complete_records",
            "tabular_features",
            "records",
            "rbm",
            "Fill in what is missing of each record.",
            signature="impute",
        ),
    )
}

BY_TASK: Mapping[str, Endpoint] = {
    endpoint.task: endpoint for endpoint in ENDPOINTS.values() if endpoint.signature == DEFAULT_SIGNATURE
}
