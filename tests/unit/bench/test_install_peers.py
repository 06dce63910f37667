"""The environments of the peers."""

from pathlib import Path

import pytest

from tests.load.bench.install_peers import _link_libraries


def test_perf_analyzer_is_given_the_libraries_that_tritons_wheel_carries(tmp_path: Path) -> None:
    libraries = tmp_path / "triton" / "lib" / "python3.11" / "site-packages" / "nvidia_pytriton.libs"
    libraries.mkdir(parents=True)
    (tmp_path / "perf" / "lib").mkdir(parents=True)
    for name in ("libb64-98cb6333.so.0d", "libcudart-09529672.so.12.6.77"):
        (libraries / name).write_text(name)
    for _ in range(2):  # a second installation finds them
        _link_libraries(tmp_path)
    assert (tmp_path / "perf" / "lib" / "libb64.so.0d").read_text().startswith("libb64")
    assert (tmp_path / "perf" / "lib" / "libcudart.so.12").read_text().startswith("libcudart")


def test_without_tritons_wheel_it_is_said_where_they_come_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "perf" / "lib").mkdir(parents=True)
    _link_libraries(tmp_path)
    assert "libb64-0d" in capsys.readouterr().out
