"""The simulation finds each defect that is built into the shipped code."""

import os
import subprocess
import sys

import pytest

from tests.simulation.mutants import MUTANTS

pytestmark = pytest.mark.simulation

MARGIN = 80  # schedules, from the seed that found it last
FIRST_SEED = {  # where it is not among the first
    "last_part_completes": 62,
    "no_history_in_the_check": 32,
    "offsets_before_apply": 12,
    "offsets_without_metadata": 13,
    "refill_of_an_older_version_is_marked": 205,
    "refill_without_replace": 50,
    "takeover_by_id_alone": 65,
    "takeover_without_settle": 13,
    "transaction_in_doubt_is_forgotten": 58,
    "written_versions_are_forgotten": 569,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    first = FIRST_SEED.get(name, 0)
    command = [sys.executable, "-m", "tests.simulation", "--mutant", name]
    command += ["--first", str(first), "--schedules", str(MARGIN)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # a seed gives the same schedule in this process only
    caught = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert caught.returncode == 0, caught.stderr[-2_000:]
