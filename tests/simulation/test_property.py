"""Any sequence of writes, relabels, deletes and resyncs, with any faults, ends with all stores equal to MySQL."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.simulation.__main__ import describe
from tests.simulation.plan import CONTENTS, DOC_IDS, TAGS, Operation
from tests.simulation.simulation import run

pytestmark = pytest.mark.simulation

OPERATIONS = st.builds(
    Operation,
    kind=st.sampled_from(("upsert", "relabel", "delete", "resync")),
    doc_id=st.sampled_from(DOC_IDS),
    contents=st.lists(st.sampled_from(CONTENTS), min_size=1, unique=True).map(tuple),
    tag=st.sampled_from(TAGS),
    file=st.sampled_from((None, b"a file", b"another, which is staged")),
    is_late=st.booleans(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(OPERATIONS, max_size=15), st.integers(0, 2**32))
def test_any_sequence_of_writes_ends_equal_everywhere(operations: list[Operation], seed: int) -> None:
    result = run(seed, tuple(operations))
    assert not result.failure, describe(result)
