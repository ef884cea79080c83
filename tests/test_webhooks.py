"""The URLs that a webhook may have."""

import pytest

from spheroseg.errors import BadRequest
from spheroseg.queueing.webhook_urls import check_webhook_url


@pytest.mark.parametrize(
    "url", ["https://example.org/hook", "http://example.org:8080/a?b=c", "http://8.8.8.8/", "https://[2606:4700::1]/"]
)
def test_public_addresses_are_allowed(url: str) -> None:
    check_webhook_url(url, allow_private=False)


PRIVATE = [
    "http://localhost/",
    "http://x.localhost./",
    "http://127.0.0.1:9/",
    "http://10.1.2.3/",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://2130706433/",
    "http://127.1/",
    "http://0x7f.1/",
    "http://0.0.0.0/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_private_addresses_are_refused_unless_they_are_allowed(url: str) -> None:
    check_webhook_url(url, allow_private=True)
    with pytest.raises(BadRequest, match="own network"):
        check_webhook_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org/hook",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "http://user:secret@example.org/",
        "http://example.org:99999/",
        "http://[::1/",
        "http://example.org/\r\nX: y",
        "http://exämple.org/",
        "http://example.org/" + "a" * 2000,
    ],
)
def test_anything_but_a_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="webhook_url"):
        check_webhook_url(url, allow_private=True)
