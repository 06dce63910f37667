"""Compile every .proto file of this folder into the one descriptor set that `services/protocols/messages.py` loads.

    python protos/compile.py            write it
    python protos/compile.py --check    compare it, and exit with 1 where the committed file differs

The output depends on the .proto files and on protoc's version (pinned in pyproject.toml) alone.
"""

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
DESCRIPTOR_SET = PROTOS.parent / "services" / "protocols" / "messages.binpb"


def compile_descriptor_set() -> bytes:
    """The serialised FileDescriptorSet of all .proto files and of what they import. Exits where protoc finds a fault."""
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "messages.binpb"
        well_known = str(files("grpc_tools") / "_proto")
        status = protoc.main(
            [
                "protoc",
                f"-I{PROTOS}",
                f"-I{well_known}",
                "--include_imports",
                f"--descriptor_set_out={output}",
                *sources,
            ]
        )
        if status != 0:
            sys.exit(f"protoc failed with status {status}.")
        return output.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile protos/ into services/protocols/messages.binpb.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    compiled = compile_descriptor_set()
    if not check:
        DESCRIPTOR_SET.write_bytes(compiled)
    elif not DESCRIPTOR_SET.exists() or DESCRIPTOR_SET.read_bytes() != compiled:
        sys.exit(f"{DESCRIPTOR_SET.name} is not what protos/ compiles to. Run: make protos")


if __name__ == "__main__":
    main()
