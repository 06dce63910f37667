"""A servable in the words of Triton's model configuration, for both transports."""

from typing import Any

from services.engine.servable import Servable
from services.protocols.model_configuration import describe
from services.protocols.oip_signatures import default_of, signatures_text


def describe_model(servable: Servable) -> dict[str, Any]:
    """The configuration of a loaded version; without tensors in their usual place where it lacks `serving_default`."""
    batching = servable.batching
    return describe(
        servable.name,
        servable.platform,
        default_of(servable.signatures),
        batching.max_batch_rows,
        batching.max_queue_delay_us,
        provider=servable.providers[0],
        runs=batching.concurrent_batches,
        signatures=signatures_text(servable.signatures),
    )
