import json
import logging
from collections.abc import Iterator

import pytest

from services.telemetry.log import configure_logging, get_logger


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_is_one_object_a_line_with_the_fields_beside_the_event(capsys):
    configure_logging("info", "json")
    get_logger("cornet").info("version available", model="m", version=3, event="not this one")
    line = json.loads(capsys.readouterr().err)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "logger": "cornet", "event": "version available", "model": "m", "version": 3}


def test_a_cause_is_part_of_its_json_line(capsys):
    configure_logging("info", "json")
    get_logger("cornet").error("it failed", cause=ValueError("why\nand how"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: why\nand how" in json.loads(line)["exception"]


def test_the_console_shows_event_and_fields_on_one_line(capsys):
    configure_logging("info", "console")
    get_logger("cornet").warning("it is late", model="m", reason="two words", load_s=0.123456)
    line = capsys.readouterr().err
    assert 'warning it is late  model=m reason="two words" load_s=0.1235\n' in line


def test_what_is_below_the_level_is_not_written(capsys):
    configure_logging("warning", "console")
    get_logger("cornet").info("chatter")
    get_logger("cornet").debug("more chatter")
    assert capsys.readouterr().err == ""


def test_records_of_other_libraries_come_out_the_same_way(capsys):
    configure_logging("info", "json")
    logging.getLogger("somebody.else").info("hello %s", "you")
    assert json.loads(capsys.readouterr().err)["event"] == "hello you"


def test_a_value_that_json_does_not_know_is_written_as_text(capsys):
    configure_logging("info", "json")
    get_logger("cornet").info("path", path=object)
    assert "object" in json.loads(capsys.readouterr().err)["path"]


def test_fields_of_the_process_are_on_every_line(capsys):
    configure_logging("info", "json", worker=1)
    get_logger("cornet").info("version available", model="m")
    logging.getLogger("somebody.else").info("hello")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["model"], first["worker"], second["worker"]) == ("m", 1, 1)
