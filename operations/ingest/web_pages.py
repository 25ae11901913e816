"""Web pages that the command line names. Each is fetched once, into a folder; then it is a file like any other."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from operations.errors import UsageError
from operations.ingest.fetch import DEFAULT_FETCH_LIMITS, FetchError, FetchLimits, Page, fetch
from operations.ingest.sources import SourceFile, page_file
from operations.ingest.urls import PageUrl, find_scheme, is_page_url, parse_page_url
from producer.processing.extract.detect import detect
from producer.processing.extract.encodings import mark_as_utf8
from producer.processing.extract.formats import BY_CONTENT_TYPE, BY_SUFFIX
from producer.processing.extract.port import Unreadable

_NAME_CHARACTERS = 60  # of at most 4 bytes: a file's name has 255
_VAGUE = ("", "application/octet-stream", "binary/octet-stream", "application/download", "text/plain")


@dataclass
class FetchedPages:
    files: list[SourceFile] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # "URL: reason" per page
    redirected: list[str] = field(default_factory=list)  # "URL → URL" per page that another URL sent


def split_arguments(arguments: Sequence[str]) -> tuple[list[Path], list[PageUrl]]:
    """The paths and the URLs among the arguments; each URL once. Raises UsageError for a URL that cannot be fetched."""
    paths, urls = list[Path](), dict[str, PageUrl]()
    for argument in arguments:
        if is_page_url(argument):
            url = parse_page_url(argument)
            if urls.setdefault(url.shown, url) != url:
                raise UsageError(f"{url.shown}: given twice, with different credentials")
        elif (scheme := find_scheme(argument)) and not Path(argument).exists():
            raise UsageError(f"{scheme}://…: only URLs with http:// or https:// are fetched; give other files by path")
        else:
            paths.append(Path(argument))
    return paths, list(urls.values())


def fetch_pages(
    urls: Sequence[PageUrl], folder: Path, advance: Callable[[int], None], limits: FetchLimits = DEFAULT_FETCH_LIMITS
) -> FetchedPages:
    """Fetch every page once, and write it to `folder`. A page that fails is named; `advance` receives 1 per page."""
    pages = FetchedPages()
    for number, url in enumerate(urls):
        try:
            page = fetch(url, limits)
            if page.redirects:
                pages.redirected.append(" → ".join((url.shown, *page.redirects)))
            pages.files.append(page_file(_write(url, page, folder / str(number)), url))
        except (FetchError, Unreadable) as error:
            pages.failed.append(str(error) if isinstance(error, FetchError) else f"{url.shown}: {error}")
        advance(1)
    return pages


def _write(url: PageUrl, page: Page, folder: Path) -> Path:
    """Write the page under a name that says its format. Raises Unreadable for a format that is not read."""
    suffix = _choose_suffix(url, page)
    content = page.content
    if page.charset is not None and not BY_SUFFIX[suffix].is_binary:
        content = mark_as_utf8(content, page.charset)
    path = folder / f"{_choose_stem(url)}{suffix}"
    folder.mkdir()
    path.write_bytes(content)
    return path


def _choose_suffix(url: PageUrl, page: Page) -> str:
    """By the content type; if that is vague, by the URL; else by the signature in the content."""
    named = PurePath(url.name).suffix.lower()
    if page.content_type in _VAGUE and named in BY_SUFFIX:
        return named
    found = BY_CONTENT_TYPE.get(page.content_type)
    if found is None:
        try:
            found = detect(page.content, "")
        except Unreadable as error:
            known = f"content type {page.content_type[:100]!r}" if page.content_type else "no content type"
            raise Unreadable(f"{known}, and its content has no signature of a format that is read") from error
    return named if named in found.suffixes else found.suffixes[0]


def _choose_stem(url: PageUrl) -> str:
    name = PurePath(url.name)
    stem = name.stem if name.suffix.lower() in BY_SUFFIX else url.name
    return re.sub(r"[^\w. -]+", "-", stem).strip(". -")[:_NAME_CHARACTERS].rstrip(". -") or "page"
