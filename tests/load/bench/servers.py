"""The servers that are compared: how each is started, what it speaks, and why it is left out where it is."""

import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.load.bench.models import Model, describe
from tests.load.bench.protocols import (
    ECHO_GRPC,
    ECHO_HTTP,
    OIP_GRPC,
    TFS_GRPC,
    TFS_REST,
    TYPED,
    V2_BINARY,
    V2_JSON,
    build_echo,
)

SCRIPTS = Path(__file__).parent / "peers"
PROJECT = Path(__file__).parents[3]
_CORNET = (OIP_GRPC, TFS_GRPC, V2_JSON, V2_BINARY, TFS_REST, TYPED)


@dataclass(frozen=True)
class Place:
    """Where a benchmark works: a folder of its own, the repository `<name>/1/model.onnx`, the environments of the peers."""

    folder: Path
    models: Path
    peers: Path

    @property
    def description(self) -> Path:
        return self.folder / "models.json"

    def python(self, peer: str) -> Path:
        return self.peers / peer / "bin" / "python"


@dataclass(frozen=True)
class Launch:
    """A command line, what it adds to the environment, and the folder it is run in. What it reads has been written."""

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path = PROJECT


@dataclass(frozen=True)
class Server:
    """One server of the comparison.

    `launch(place, models, http, grpc)` prepares and describes its start on the two ports; `peer` names the environment it
    needs in the folder of peers, `option` one of `cornet serve` that it needs, `program` one of the system's, with the Debian
    package that has it; `plain_typed` says that its endpoints take arrays at `/<model>` instead of records.
    """

    name: str
    protocols: tuple[str, ...]
    launch: Callable[[Place, Mapping[str, Model], int, int], Launch]
    peer: str = ""
    option: str = ""
    program: tuple[str, str] | None = None
    plain_typed: bool = False
    about: str = ""

    def missing(self, place: Place) -> str | None:
        """Why it cannot run here, or None."""
        if self.peer and not place.python(self.peer).exists():
            return f"{self.peer} is not installed: make bench-peers"
        if self.option and self.option not in cornet_options():
            return f"this cornet has no {self.option}"
        if self.program and not shutil.which(self.program[0]):
            return f"{self.program[0]} is not installed: apt-get install {self.program[1]}"
        return None


@functools.cache
def cornet_options() -> str:
    """The help text of `cornet serve`."""
    command = [sys.executable, "-m", "services.cli", "serve", "--help"]
    wide = {**os.environ, "COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=wide, check=True).stdout


def add_checkout(name: str, checkout: Path) -> None:
    """Have the cornet of another working tree compared as well, run by this environment's Python."""
    SERVERS[name] = Server(name, _CORNET, _cornet(project=checkout), about=str(checkout))


def _cornet(*options: str, project: Path = PROJECT) -> Callable[[Place, Mapping[str, Model], int, int], Launch]:
    def launch(place: Place, models: Mapping[str, Model], http: int, grpc: int) -> Launch:
        listed = place.folder / "models.toml"
        tables = (f'[models.{name}]\npath = "{place.models / name}"\n' for name in models)
        listed.write_text("\n".join(tables))
        ports = ("--http-port", str(http), "--grpc-port", str(grpc))
        command = [sys.executable, "-m", "services.cli", "serve", "--models", str(listed), *ports, *options]
        environment = {"CORNET_INTRA_OP_THREADS": "1", "CORNET_GRPC_TRANSPORT": "native"}  # the options win
        return Launch(command, environment, project)  # `-m` looks in the folder first

    return launch


def _script(name: str, *arguments: str, peer: str = "") -> Callable[[Place, Mapping[str, Model], int, int], Launch]:
    def launch(place: Place, models: Mapping[str, Model], http: int, grpc: int) -> Launch:
        describe(dict(models), place.description)
        python = str(place.python(peer)) if peer else sys.executable
        environment = {
            "BENCH_MODELS": str(place.description),
            "BENCH_HTTP_PORT": str(http),
            "BENCH_GRPC_PORT": str(grpc),
            **({} if peer else {"PYTHONPATH": str(PROJECT)}),
        }
        return Launch([python, str(SCRIPTS / name), *arguments], environment)

    return launch


def _bento(batchable: str) -> Callable[[Place, Mapping[str, Model], int, int], Launch]:
    def launch(place: Place, models: Mapping[str, Model], http: int, grpc: int) -> Launch:
        describe(dict(models), place.description)
        where = ("--working-dir", str(SCRIPTS), "--host", "127.0.0.1", "--port", str(http))
        command = [str(place.python("bento").with_name("bentoml")), "serve", "bento_plain:Plain", *where]
        home = str(place.folder / "bentoml")
        environment = {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": home, "BENCH_BATCHABLE": batchable}
        return Launch(command, {**environment, "BENCH_MODELS": str(place.description)})

    return launch


def _nghttpd(place: Place, models: Mapping[str, Model], http: int, grpc: int) -> Launch:
    """A file with the bytes of the echo's answer, and gRPC's status in trailers: for this one request it is an echo."""
    request = build_echo()
    folder = _fresh(place.folder / "nghttpd")
    file = folder / request.path.removeprefix("/")
    file.parent.mkdir()
    file.write_bytes(request.framed)
    how = ("--no-tls", "--workers=1", "--address=127.0.0.1", f"--htdocs={folder}", "--trailer=grpc-status: 0")
    return Launch(["nghttpd", *how, str(grpc)])


def _mlserver(place: Place, models: Mapping[str, Model], http: int, grpc: int) -> Launch:
    describe(dict(models), place.description)
    folder = _fresh(place.folder / "mlserver")
    ports = {"http_port": http, "grpc_port": grpc, "metrics_endpoint": None}
    quiet = {"debug": False, "parallel_workers": 0, "host": "127.0.0.1", "gzip_enabled": False}
    (folder / "settings.json").write_text(json.dumps(ports | quiet))
    for name, model in models.items():
        settings = {
            "name": name,
            "implementation": "mlserver_runtime.OnnxModel",
            "max_batch_size": 64,
            "max_batch_time": 0.002,
        }
        inputs = [{"name": model.input.name, "datatype": model.input.datatype, "shape": [-1, *model.input.shape]}]
        (folder / name).mkdir()
        (folder / name / "model-settings.json").write_text(json.dumps(settings | {"inputs": inputs}))
    environment = {"BENCH_MODELS": str(place.description), "PYTHONPATH": str(SCRIPTS)}
    return Launch([str(place.python("mlserver").with_name("mlserver")), "start", str(folder)], environment)


def _triton(place: Place, models: Mapping[str, Model], http: int, grpc: int) -> Launch:
    """The wheel keeps the Python backend and the stubs that run it apart; Triton wants them side by side.

    Its many threads share the server's core. As `SCHED_BATCH` they do not interrupt each other whenever one wakes up:
    half the context switches, and a fifth more requests over gRPC.
    """
    site = next((place.peers / "triton" / "lib").glob("python3.*/site-packages"))
    wheel = site / "pytriton" / "tritonserver"
    folder = _fresh(place.folder / "triton")
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    stub = wheel / "python_backend_stubs" / site.parent.name.removeprefix("python") / "triton_python_backend_stub"
    for file in [*(wheel / "backends" / "python").iterdir(), stub]:
        (backend / file.name).symlink_to(file)
    for name, model in models.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").symlink_to(SCRIPTS / "triton_model.py")
        (version.parent / "config.pbtxt").write_text(triton_config(model))
    options = {
        "model-repository": folder / "models",
        "backend-directory": folder / "backends",
        "cache-directory": wheel / "caches",
        "http-address": "127.0.0.1",
        "http-port": http,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc,
        "allow-metrics": "false",
        "log-info": "false",
        "backend-config": f"python,shm-region-prefix-name=cornet_bench_{http}_",
    }
    batch = ("chrt", "--batch", "0")
    command = [*batch, str(wheel / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())]
    path = f"{place.python('triton').parent}:{os.environ['PATH']}"  # the stub looks there for its Python, not in PYTHONPATH
    libraries = str(sysconfig.get_config_var("LIBDIR"))
    return Launch(command, {"PATH": path, "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"})


def triton_config(model: Model) -> str:
    """A model's config.pbtxt: the Python backend, one instance, dynamic batching without a delay."""

    def tensor(kind: str, name: str, datatype: str, shape: tuple[int, ...]) -> str:
        dims = ", ".join(map(str, shape or (1,)))
        reshape = "" if shape else " reshape { shape: [ ] }"
        return f'{kind} [ {{ name: "{name}" data_type: TYPE_{datatype} dims: [ {dims} ]{reshape} }} ]'

    lines = [
        f'name: "{model.name}"',
        'backend: "python"',
        "max_batch_size: 64",
        tensor("input", model.input.name, model.input.datatype, model.input.shape),
        *(tensor("output", output.name, output.datatype, output.shape) for output in model.outputs),
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        "dynamic_batching { }",
        f'parameters {{ key: "path" value {{ string_value: "{model.path}" }} }}',
    ]
    return "\n".join(lines) + "\n"


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


_TRANSPORT = "--grpc-transport"
_NGHTTPD = ("nghttpd", "nghttp2-server")

SERVERS = {
    server.name: server
    for server in (
        Server("cornet", _CORNET, _cornet(), about="cornet, gRPC by its own transport"),
        Server("cornet-grpcio", _CORNET, _cornet(_TRANSPORT, "grpcio"), option=_TRANSPORT, about="gRPC by grpcio"),
        Server("cornet-lean", _CORNET[:-1], _cornet("--no-typed-endpoints"), about="without the BentoML endpoints"),
        Server("cornet-1", _CORNET, _cornet(), about="one worker, where it is compared with two"),
        Server("cornet-2", _CORNET, _cornet("--workers", "2"), option="--workers", about="two workers"),
        Server("triton", (OIP_GRPC, V2_JSON, V2_BINARY), _triton, peer="triton", about="C++ core, Python backend"),
        Server("aio", (OIP_GRPC,), _script("lean_grpc.py", "aio"), about="grpc.aio, batch per loop turn"),
        Server("threads", (OIP_GRPC,), _script("lean_grpc.py", "threads"), about="grpcio on threads, no batching"),
        Server("mlserver", (OIP_GRPC, V2_JSON), _mlserver, peer="mlserver", about="adaptive batching"),
        Server(
            "kserve",
            (OIP_GRPC, V2_JSON),
            _script("kserve_server.py", peer="kserve"),
            peer="kserve",
            about="KServe's SDK",
        ),
        Server("bento", (TYPED,), _bento("0"), peer="bento", plain_typed=True, about="BentoML alone"),
        Server("bento-batch", (TYPED,), _bento("1"), peer="bento", plain_typed=True, about="BentoML alone, batchable"),
        Server("echo-native", (ECHO_GRPC,), _script("echo_native.py"), option=_TRANSPORT, about="bytes back, our gRPC"),
        Server(
            "echo-nghttpd", (ECHO_GRPC,), _nghttpd, program=_NGHTTPD, about="the same bytes, a file of nghttpd (C++)"
        ),
        Server("echo-aio", (ECHO_GRPC,), _script("lean_grpc.py", "echo-aio"), about="bytes back, grpc.aio"),
        Server("echo-threads", (ECHO_GRPC,), _script("lean_grpc.py", "echo-threads"), about="bytes back, grpcio"),
        Server("echo-asgi", (ECHO_HTTP,), _script("echo_asgi.py"), about="bytes back, ASGI on uvicorn"),
    )
}
