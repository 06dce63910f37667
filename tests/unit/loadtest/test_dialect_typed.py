"""A load test of an endpoint that draws: one prompt per request, a picture per answer."""

import orjson
import pytest

from services.errors import InvalidArgument
from services.loadtest.checks import check_answer
from services.loadtest.dialect_typed import Typed, example_body
from services.loadtest.requests import OK, Answer, Description, Model

DRAWS = Description(None, "/generate_image", {"prompt": "a bold seven", "seed": 1})


def test_a_prompt_is_sent_as_the_document_shows_it() -> None:
    body = example_body(Model("text_to_image", 2), DRAWS, 1)
    assert orjson.loads(body) == {"prompt": "a bold seven", "seed": 1, "model": "text_to_image", "version": 2}


def test_several_rows_of_one_prompt_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="Expected 1 row per request: /generate_image draws one picture"):
        example_body(Model("text_to_image"), DRAWS, 2)


def test_a_picture_is_one_prediction() -> None:
    assert check_answer(Typed(), Answer(OK, b"\x89PNG\r\n"), DRAWS, 1) == {"predictions": (1,)}
