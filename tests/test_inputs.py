"""Every input of `tests/inputs` (see there): nothing wrong passes in silence, nothing hangs, nothing right is refused."""
import pytest

from inputs import cases, verdict

CASES = cases()


def test_there_are_enough_of_them():
    assert len(CASES) >= 600 and len({(case.door, case.name) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.door}-{case.name}")
def test_an_input(case):
    found, said = verdict(case)
    assert found in ("refused in words", "works"), f"{found}: {said}"
