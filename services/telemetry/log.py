"""Log lines: an event, its fields, one line each, for people or as JSON.

    _log = get_logger(__name__)
    _log.info("version available", model="regressor", version=3, load_s=0.21)

    12:00:01.532 info    version available  model=regressor version=3 load_s=0.21
    {"time": "2026-01-31T12:00:01.532Z", "level": "info", "event": "version available", "model": "regressor", ...}

Lines go to stderr through the standard library's logging, so that records of other libraries come out the same way.
Fields are for operators: paths and causes belong here, and never in the message of an error.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]

_FIELDS = "cornet_fields"


class EventLogger:
    """One event per call, with named fields. `error` may be an exception, whose traceback is then part of the line."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, /, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, *, cause: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields, cause)

    def error(self, event: str, /, *, cause: BaseException | None = None, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields, cause)

    def _log(self, level: int, event: str, fields: dict[str, Any], cause: BaseException | None = None) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, exc_info=cause, extra={_FIELDS: fields})


def get_logger(name: str) -> EventLogger:
    """The logger of a module (`__name__`) or of a part by another name."""
    return EventLogger(logging.getLogger(name))


def configure_logging(
    level: Level = "info",
    format: Format = "console",  # noqa: A002  # the setting's own name
    **always: Any,
) -> None:
    """Send every log record of the process to stderr in one format. Called once, by the composition root.

    `always` are fields that every line of the process has.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    if always:
        handler.addFilter(_Always(always))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _Always(logging.Filter):
    """Lets every record pass, with further fields."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__()
        self._always = fields

    def filter(self, record: logging.LogRecord) -> bool:
        setattr(record, _FIELDS, {**_fields(record), **self._always})
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, logger, event, the fields, and the traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((name, value) for name, value in _fields(record).items() if name not in line)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """Time (UTC), level, event and fields, for people; a traceback on the lines below."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        time = f"{_time(record):%H:%M:%S}.{int(record.msecs):03d}"
        line = f"{time} {record.levelname.lower():<7} {record.getMessage()}{' ' if fields else ''}{fields}"
        if record.exc_info and record.exc_info[0] is not None:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, _FIELDS, {})
    return fields


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _plain(value: Any) -> str:
    """A value on one line; quoted where its end would not be seen otherwise."""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c.isspace() or c == '"' for c in text) else text
