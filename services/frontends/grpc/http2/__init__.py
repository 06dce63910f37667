"""HTTP/2 and gRPC on asyncio: the default transport of the gRPC front end."""
