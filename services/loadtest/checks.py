"""Whether a first answer is what the model's metadata promises: a wrong answer is not a fast answer."""

from google.protobuf.message import DecodeError

from services.errors import CornetError, FailedPrecondition
from services.loadtest.requests import Answer, Description, Dialect


def check_answer(
    dialect: Dialect, answer: Answer, description: Description, rows: int | None
) -> dict[str, tuple[int, ...]]:
    """The answer's shapes by output. `rows` is what was asked for, None where the request is the user's own.

    Raises FailedPrecondition for an answer that cannot be read, lacks an output, or has another shape or number of rows.
    """
    try:
        outputs = dialect.outputs(answer)
    except (CornetError, DecodeError, KeyError, TypeError, ValueError) as error:
        raise FailedPrecondition(
            f"Expected an answer with outputs. Received: {answer.body!r:.200} ({error})."
        ) from error
    shapes = {name: array.shape for name, array in outputs.items()}
    signature = description.signature
    if signature is None:
        if rows is not None and shapes["predictions"] != (rows,):
            raise FailedPrecondition(f"Expected {rows} predictions. Received: {shapes['predictions'][0]}.")
        return shapes
    if len(signature.outputs) == 1 and tuple(shapes) == ("",):
        shapes = {signature.outputs[0].name: shapes[""]}
    wanted = {spec.name: spec for spec in signature.outputs}
    if set(shapes) != set(wanted):
        raise FailedPrecondition(f"Expected the outputs {sorted(wanted)}. Received: {sorted(shapes)}.")
    for name, spec in wanted.items():
        if not spec.accepts(shapes[name]):
            raise FailedPrecondition(f"Expected an output that fits {spec}. Received: {list(shapes[name])}.")
        if signature.batchable and rows is not None and shapes[name][0] != rows:
            raise FailedPrecondition(f"Expected {rows} rows of {name}. Received: {shapes[name][0]}.")
    return shapes
