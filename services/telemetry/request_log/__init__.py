"""The request log: what was asked and answered, request by request, in files of JSON lines or Parquet.

    log = RequestLog(RequestLogOptions(Path("/var/log/cornet"), rate=0.01), metrics.tables.request_log)
    metrics.listeners.append(log.listen)
    metrics.draws.append(log.draw)
    ...
    log.close()                                                  # writes what is left, and finishes the file

One record per sampled inference, and per sampled request that failed; housekeeping that went well (health, metadata,
scrapes) has none. Headers are never logged, but for the ids that join a record with the client's own: `x-request-id`
where it is plain, and `traceparent`. Tensors are logged only when payloads are asked for: they may be personal data.
"""

from services.telemetry.request_log.options import RequestLogOptions
from services.telemetry.request_log.recorder import RequestLog

__all__ = ["RequestLog", "RequestLogOptions"]
