"""Who writes when: at the end of the loop's turn, or when a run is answered."""

from collections.abc import Callable

from services.frontends.grpc.http2.outbox import Outbox


class Loop:
    """Keeps what is to run at the end of the turn."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        due, self.soon = self.soon, []
        for callback in due:
            callback()


class Writer:
    def __init__(self, error: Exception | None = None) -> None:
        self.written = 0
        self.aborted = False
        self._error = error

    def flush(self) -> None:
        if self._error is not None:
            raise self._error
        self.written += 1

    def abort(self) -> None:
        self.aborted = True


def test_all_who_wait_write_at_the_end_of_one_turn() -> None:
    outbox, loop, writers = Outbox(), Loop(), [Writer(), Writer()]
    for writer in writers:
        outbox.add(writer, loop)  # type: ignore[arg-type] # as much as it needs
    assert [writer.written for writer in writers] == [0, 0]
    loop.turn()
    assert [writer.written for writer in writers] == [1, 1]
    assert loop.soon == []


def test_a_flush_does_not_wait_for_the_turn_and_the_turn_writes_only_what_came_later() -> None:
    outbox, loop, early, late = Outbox(), Loop(), Writer(), Writer()
    outbox.add(early, loop)  # type: ignore[arg-type] # as much as it needs
    outbox.flush()
    assert early.written == 1
    outbox.add(late, loop)  # type: ignore[arg-type] # as above
    loop.turn()
    assert (early.written, late.written) == (1, 1)


def test_a_connection_that_cannot_be_written_to_costs_only_itself() -> None:
    outbox, loop = Outbox(), Loop()
    broken, sound = Writer(RuntimeError("the socket is closed")), Writer()
    outbox.add(broken, loop)  # type: ignore[arg-type] # as much as it needs
    outbox.add(sound, loop)  # type: ignore[arg-type] # as above
    outbox.flush()
    assert (broken.aborted, sound.written, sound.aborted) == (True, 1, False)
