"""What a server says of itself."""

from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Name and version in server metadata. Some Triton clients insist on `triton`, hence the name can be configured."""

    name: str = "cornet"
    version: str = version("cornet")
