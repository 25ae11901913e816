"""The simulation finds each defect that is built into the shipped code."""

import pytest

from tests.simulation.__main__ import find_seed
from tests.simulation.mutants import MUTANTS

pytestmark = pytest.mark.simulation

MARGIN = 80  # schedules, from the seed that found it last
FIRST_SEED = {  # where it is not among the first
    "written_versions_are_forgotten": 250,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    first = FIRST_SEED.get(name, 0)
    assert find_seed(name, range(first, first + MARGIN)) is not None
