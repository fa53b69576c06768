"""Half a minute of the campaign of soak.py, and that it notices what is wrong."""

import pytest
from conftest import command
from soak_world import Done, Failure, check_answer

pytestmark = pytest.mark.slow


def test_half_a_minute_of_the_campaign():
    done = command("tests/soak.py", "--minutes=0.5", "--first_seed=1")
    assert done.stdout.endswith("failures: 0\n")


@pytest.mark.parametrize(
    ("status", "err"),
    [
        (1, ""),
        (-6, "terminate called\n"),
        (0, 'Traceback (most recent call last):\n  File "train.py"\n'),
        (2, ""),
        (2, "train.py: cannot read x\ny\n"),
        (2, f"train.py: {'x' * 5000}\n"),
    ],
)
def test_other_ends_than_one_short_line_are_failures(status, err):
    with pytest.raises(Failure):
        check_answer(Done(("train.py",), status, "", err, 0))


def test_success_and_a_complaint_are_none():
    check_answer(Done(("train.py",), 0, "done\n", "", 0))
    check_answer(Done(("train.py",), 2, "", "device: cpu\ntrain.py: cannot read x\n", 0))
