"""ASGI lifespan, with or without an app behind that takes part in it."""

from services.frontends.rest.http import ASGIApp, Message, Receive, Scope, Send


async def run_lifespan(app: ASGIApp | None, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the server's startup and shutdown, after `app` where it has a lifespan of its own.

    An app that has none raises on the scope, as ASGI asks, before it answers anything; one that raises later fails the
    startup or shutdown it was in.
    """
    received: list[Message] = []
    answered = False

    async def record(message: Message) -> None:
        nonlocal answered
        answered = True
        await send(message)

    async def pass_on() -> Message:
        message = await receive()
        received.append(message)
        return message

    if app is not None:
        try:
            await app(scope, pass_on, record)
        except Exception:
            if answered:
                raise
        if answered:
            return
    while True:
        message = received.pop(0) if received else await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
