"""What a server says of itself."""

from dataclasses import dataclass
from functools import cache


@cache
def own_version() -> str:
    """The installed cornet's. It is looked up when it is first asked for: that takes longer than the rest of this room."""
    from importlib.metadata import version

    return version("cornet")


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Name, version and extensions in server metadata. Some Triton clients insist on `triton`, hence a name to choose.

    `given_version` None is cornet's own. `extensions` are those of the Open Inference Protocol that are served; of the
    schedule policy, that is `timeout`, and `signatures` is our own (`services.protocols.oip_signatures`).
    """

    name: str = "cornet"
    given_version: str | None = None
    extensions: tuple[str, ...] = (
        "binary_tensor_data",
        "model_configuration",
        "schedule_policy",
        "signatures",
        "statistics",
    )

    @property
    def version(self) -> str:
        return own_version() if self.given_version is None else self.given_version
