"""No other installed distribution uses our six import names: a library called `schema`, for example, exists."""

from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PACKAGES = ["schema", "producer", "relays", "consumers", "retrieval", "operations"]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_provides_the_package(package: str) -> None:
    # An editable install lists no files, so the set may be empty.
    assert set(packages_distributions().get(package, [])) <= {"rag-outbox"}


@pytest.mark.parametrize("package", PACKAGES)
def test_imported_package_is_the_one_in_this_repository(package: str) -> None:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin == str(ROOT / package / "__init__.py")
