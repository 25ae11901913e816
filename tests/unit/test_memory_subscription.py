"""The consumer loop's ports in memory keep the contracts that Kafka keeps."""

from collections.abc import Callable

import pytest

from tests.contracts.dead_letters import DeadLettersContract
from tests.contracts.subscription import SubscriptionContract
from tests.support.memory_dead_letters import MemoryDeadLetters
from tests.support.memory_subscription import MemoryTopic

pytestmark = pytest.mark.unit


@pytest.fixture
def group() -> MemoryTopic:
    return MemoryTopic()


@pytest.fixture
def dead_letters() -> MemoryDeadLetters:
    return MemoryDeadLetters()


@pytest.fixture
def stored(dead_letters: MemoryDeadLetters) -> Callable[[], list[tuple[bytes | None, bytes | None, dict[str, str]]]]:
    return lambda: [(one.key, one.value, dict(one.envelope.headers)) for one in dead_letters.stored]


class TestMemorySubscription(SubscriptionContract):
    """On the fixture `group`."""


class TestMemoryDeadLetters(DeadLettersContract):
    """On the fixtures `dead_letters` and `stored`."""
