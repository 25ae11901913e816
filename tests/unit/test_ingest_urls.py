"""URLs of web pages: one spelling per page, and nothing secret in what is shown and stored."""

import pytest

from operations.errors import UsageError
from operations.ingest.urls import parse_page_url
from operations.ingest.web_pages import split_arguments

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "shown", "name"),
    [
        ("https://example.org", "https://example.org/", "example.org"),
        ("HTTPS://Example.ORG:443/a/../Guide.html#top", "https://example.org/Guide.html", "Guide.html"),
        ("http://example.org:8080/a/", "http://example.org:8080/a/", "a"),
        ("http://[::1]:8080/", "http://[::1]:8080/", "::1"),
        ("https://example.org/%E4%BA%BA%20x?q=1&q=2", "https://example.org/%E4%BA%BA%20x?q=1&q=2", "人 x"),
        ("https://example.org/人", "https://example.org/%E4%BA%BA", "人"),
        ("https://example.org/a\x1b[31m\n", "https://example.org/a%1B%5B31m%0A", "a\x1b[31m\n"),
    ],
)
def test_url_has_one_spelling(text: str, shown: str, name: str) -> None:
    url = parse_page_url(text)
    assert (url.shown, url.name) == (shown, name)


def test_credentials_reach_the_server_only() -> None:
    url = parse_page_url("https://al%69ce:pa%3Ass%40@example.org/a?x=1&access_token=T1&X-Amz-Signature=T2&Token=T3&y=")
    assert url.shown == "https://example.org/a?x=1&y="
    assert url.user == "alice:pa:ss@"
    assert url.target == "/a?x=1&access_token=T1&X-Amz-Signature=T2&Token=T3&y="
    assert [secret for secret in ("pa:ss", "T1", "T2", "T3") if secret in repr(url)] == []


@pytest.mark.parametrize(
    "signed",
    [
        "X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Date=1&X-Amz-Expires=2&X-Amz-Signature=S",
        "AWSAccessKeyId=A&Expires=1&Signature=S",
        "Policy=P&Signature=S&Key-Pair-Id=K",
        "sv=2024-11-04&st=1&se=2&sr=b&sp=r&sig=S",
    ],
)
def test_page_keeps_its_identity_with_a_new_signature(signed: str) -> None:
    assert (
        parse_page_url(f"https://example.org/a.pdf?versionId=7&{signed}").shown
        == "https://example.org/a.pdf?versionId=7"
    )
    assert parse_page_url("https://example.org/?sp=1&Expires=2").shown == "https://example.org/?sp=1&Expires=2"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://", "https://: not a URL with http:// or https:// and a host"),
        ("https:///a", "https:///a: not a URL with http:// or https:// and a host"),
        ("https://alice:secret@exa mple.org/a?secret", "https://exa mple.org/a: not a valid URL"),
        ("https://alice:sec/secret@example.org/#secret", "https://example.org/: not a valid URL"),
        ("https://alice:secret@example.org:99999/", "https://example.org:99999/: not a valid URL"),
        ("https://example.org/\udce9", "https://example.org/\udce9: not a valid URL"),
        ("https://secret@example.org/" + 8192 * "x", f"https://example.org/{188 * 'x'}: a URL has at most 8,192 char"),
    ],
)
def test_unusable_url_is_refused_without_its_credentials(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_page_url(text)
    assert str(refused.value).startswith(reason)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["ftp://alice:secret@example.org/a", "file:///etc/secret", "s3://secret/a"])
def test_other_schemes_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        split_arguments(["a.md", text])
    scheme = text.partition(":")[0]
    assert str(refused.value).startswith(f"{scheme}://…: only URLs with http:// or https:// are fetched")
    assert "secret" not in str(refused.value)


def test_url_is_taken_once() -> None:
    paths, urls = split_arguments(["docs", "http://a.org/x", "http:docs", "http://A.org:80/x#y"])
    assert [str(path) for path in paths] == ["docs", "http:docs"]
    assert [url.shown for url in urls] == ["http://a.org/x"]
    with pytest.raises(UsageError, match=r"^http://a\.org/x: given twice, with different credentials$"):
        split_arguments(["http://a.org/x", "http://secret@a.org/x"])
