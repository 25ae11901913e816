"""docs/settings.md is what the settings class says today."""

import pytest

from operations.settings import Settings
from operations.settings.page import page
from tests.support.servers import ROOT

pytestmark = pytest.mark.unit


def test_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), "run: make settings"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_description_and_unit(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.description
    assert isinstance(field.json_schema_extra, dict)
    assert field.json_schema_extra["unit"]
    assert field.default is not None or field.json_schema_extra["unset"]
