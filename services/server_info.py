"""What a server says of itself."""

from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Name, version and extensions in server metadata. Some Triton clients insist on `triton`, hence a name to choose.

    `extensions` are those of the Open Inference Protocol that are served; of the schedule policy, that is `timeout`.
    """

    name: str = "cornet"
    version: str = version("cornet")
    extensions: tuple[str, ...] = ("binary_tensor_data", "model_configuration", "schedule_policy", "statistics")
