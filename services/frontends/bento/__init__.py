"""Typed HTTP endpoints, one per task: records in, labelled answers out, documented in OpenAPI.

`calls` answers a call on the engine and knows no HTTP; `payload` reads a request; `openapi` describes the endpoints;
`service` puts them into a BentoML app; `app` is what `cornet serve` mounts. BentoML is imported by `service` alone.
"""
