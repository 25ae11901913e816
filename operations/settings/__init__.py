"""The settings of a process: their fields, how they are read and checked, and the page that describes them."""

from operations.settings.fields import PREFIX, Settings, SettingsError
from operations.settings.load import load

__all__ = ["PREFIX", "Settings", "SettingsError", "load"]
