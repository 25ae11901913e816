"""Reads the settings of a process, and refuses names that are unknown: a misspelt one would silently do nothing."""

import difflib
import os
from collections.abc import Mapping
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from operations.settings.check import check
from operations.settings.fields import PREFIX, Settings, SettingsError, kafka_properties
from operations.settings.kafka_properties import find_wrong_property

_KAFKA = f"{PREFIX}KAFKA_"
_OPEN_PREFIXES = (_KAFKA, f"{PREFIX}SERVERS_", f"{PREFIX}TEST_")  # any name may follow these
_SERVERS = f"{_KAFKA}BOOTSTRAP_SERVERS"
_NEAR = 0.8  # how alike a misspelt prefix is to ours, from 0 to 1


def load() -> Settings:
    """The process's settings; raises SettingsError."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    given = {**dotenv_values(".env"), **os.environ}
    for name, value in given.items():
        _refuse_misspelt_prefix(name, known)
        if not name.startswith(PREFIX) or (name.startswith(_OPEN_PREFIXES) and name not in known):
            continue
        if name not in known:
            near = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), Settings.model_fields, 1)
            hint = f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""
            raise SettingsError(f"unknown setting {name}{hint}")
        if not value:  # an empty variable is a mistake, and must not select the embedded profile
            raise SettingsError(f"{name} is empty: give it a value, or unset it")
    _check_kafka(given)
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = f"{PREFIX}{str(first['loc'][0]).upper()}"
        raise SettingsError(f"{name}: {_describe(first['type'], first.get('ctx', {}), first['msg'])}") from None
    check(settings)
    return settings


def _describe(kind: str, context: Mapping[str, Any], message: str) -> str:
    """What is wrong with a value, in the words of the other settings' errors."""
    match kind:
        case "bool_parsing":
            return "must be true or false"
        case "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "float_parsing":
            return "must be a number"
        case "greater_than_equal":
            return f"must be at least {context['ge']}"
        case "greater_than":
            return f"must be above {context['gt']}"
        case "less_than_equal":
            return f"must be at most {context['le']}"
        case "literal_error":
            return f"must be {context['expected']}"
        case _:
            return message


def _refuse_misspelt_prefix(name: str, known: set[str]) -> None:
    """Only a name that ends like a setting of ours is taken for one: other variables may begin like ours."""
    if name in known or name.startswith(PREFIX):
        return
    prefix, kafka, kafka_property = name.upper().partition("KAFKA_")
    ending = kafka + kafka_property
    if not kafka:
        ending = next((one.removeprefix(PREFIX) for one in known if prefix.endswith(one.removeprefix(PREFIX))), "")
        prefix = prefix.removesuffix(ending)
    if ending and difflib.SequenceMatcher(None, prefix, PREFIX).ratio() >= _NEAR:
        raise SettingsError(f"unknown setting {name}; did you mean {PREFIX}{ending}?")


def _check_kafka(given: Mapping[str, str | None]) -> None:
    """A misspelt name of the bootstrap servers must not select the embedded profile."""
    kafka = sorted(name for name in given if name.startswith(_KAFKA))
    if not kafka:
        return
    if _SERVERS not in given:
        raise SettingsError(f"{kafka[0]} is set, but {_SERVERS} is not")
    properties = kafka_properties(given)
    del properties["bootstrap.servers"]
    wrong = find_wrong_property(properties)
    if wrong is not None:
        name, reason = wrong
        raise SettingsError(f"{_KAFKA}{name.upper().replace('.', '_')}: {reason}")
