"""Makes text pass the writer's checks: valid Unicode, and no control characters but newline and tab."""

import re

# The line breaks of str.splitlines, and unit separators.
_RARE_LINE_BREAK = re.compile("[\v\f\x1c-\x1f\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f]")
_UNENCODABLE = re.compile("[\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Replace every kind of line break by a newline; remove lone surrogates and all control characters but tab."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _UNENCODABLE.sub("", _CONTROL.sub("", _RARE_LINE_BREAK.sub("\n", text)))


def one_line(text: str) -> str:
    """Clean text with each run of white space replaced by one space."""
    return " ".join(clean(text).split())
