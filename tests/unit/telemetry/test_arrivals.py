import asyncio
from time import perf_counter

from services.telemetry.arrivals import ArrivalClock


def test_what_one_turn_of_the_loop_reads_arrived_at_one_time_and_the_next_turn_later():
    async def scenario() -> None:
        clock, loop = ArrivalClock(), asyncio.get_running_loop()
        before = perf_counter()
        times = [clock.now(), clock.now()]
        loop.call_soon(lambda: times.append(clock.now()))
        await asyncio.sleep(0)
        assert before <= times[0] == times[1] < times[2] <= perf_counter()

    asyncio.run(scenario())
