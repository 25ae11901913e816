"""Every text of the console, a file per language; `en.toml` has the keys that all of them must have."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

DEFAULT = "en"
_FOLDER = Path(__file__).parent
_SCRIPTS = {"zh-tw": "zh-Hant", "zh-hk": "zh-Hant", "zh-mo": "zh-Hant"}  # how browsers name them


class Texts:
    """The texts of one language."""

    def __init__(self, language: str, by_key: Mapping[str, str]) -> None:
        self.language = language
        self.by_key = by_key

    @property
    def name(self) -> str:
        """The language in its own words."""
        return self.by_key["language.name"]

    def __call__(self, key: str, **values: object) -> str:
        """The text of `key` with its values; plain text, which the template escapes. Raises KeyError."""
        text = self.by_key[key]
        return text.format(**values) if values else text

    def get(self, key: str, default: str) -> str:
        """The text of a key that is made from data, for instance of a state."""
        return self.by_key.get(key, default)


@cache
def languages() -> Mapping[str, Texts]:
    """All languages by their tags, the default one first."""
    tags = sorted((path.stem for path in _FOLDER.glob("*.toml")), key=lambda tag: (tag != DEFAULT, tag))
    return {tag: Texts(tag, _flatten(tomllib.loads((_FOLDER / f"{tag}.toml").read_text()))) for tag in tags}


def choose(wanted: str | None, accepted: str) -> Texts:
    """The language that a reader chose, or the first of the header `Accept-Language` that there is."""
    known = languages()
    if wanted is not None and wanted in known:
        return known[wanted]
    for tag in re.findall(r"[A-Za-z]+(?:-[A-Za-z0-9]+)*(?=\s*(?:[,;]|$))", accepted[:500]):
        parts = _SCRIPTS.get(tag.lower(), tag).split("-")
        for length in range(len(parts), 0, -1):  # zh-Hant-TW, zh-Hant, zh
            for one in known:
                if one.lower() == "-".join(parts[:length]).lower():
                    return known[one]
    return known[DEFAULT]


def placeholders(text: str) -> set[str]:
    """The names in braces of a text."""
    return set(re.findall(r"\{(\w+)", text))


def _flatten(table: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return found
