import inspect

import pytest

from shared import errors

EVERY = [each for _, each in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", EVERY, ids=lambda each: each.__name__)
def test_error_is_one_of_ours_and_is_drawn_in_the_tree(error):
    assert issubclass(error, errors.EdgeloopError)
    assert error.__name__ in errors.__doc__


@pytest.mark.parametrize("error", EVERY, ids=lambda each: each.__name__)
def test_error_says_how_a_command_and_a_request_end(error):
    assert 1 <= error.exit_code <= 125
    assert 400 <= error.http_status <= 599


def test_lost_connection_is_a_broker_that_is_unavailable():
    assert issubclass(errors.ConnectionLost, errors.BrokerUnavailable)
    assert {errors.MalformedFrame, errors.UnknownSchema, errors.OversizeFrame} == set(
        errors.FrameError.__subclasses__()
    )
