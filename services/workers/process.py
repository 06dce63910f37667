"""The supervisor as a process. `services.workers.start` turns the command line into it."""

import asyncio
import os
import sys

from services.cpus import available_cpus
from services.errors import CornetError
from services.telemetry.log import configure_logging, get_logger
from services.workers.plan import Plan
from services.workers.supervisor import Supervisor


def main(plan_file: int) -> None:
    """Supervise until a signal; a CornetError becomes one line on standard error and exit status 1."""
    with os.fdopen(plan_file, "rb") as file:
        plan = Plan.decode(file.read())
    configure_logging(plan.log_level, plan.log_format)
    cpus = available_cpus()
    if plan.workers > cpus:
        get_logger("cornet.supervisor").warning("more workers than CPUs", workers=plan.workers, cpus=cpus)
    try:
        status = asyncio.run(_supervise(plan))
    except CornetError as error:
        sys.stderr.write(f"error: {error}\n")
        status = 1
    sys.exit(status)


async def _supervise(plan: Plan) -> int:
    return await Supervisor(plan).run()
