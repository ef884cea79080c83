"""Calls to an address of the user's, when a batch has finished."""

import ipaddress
from urllib.parse import urlsplit

from spheroseg.errors import BadRequest

LONGEST_URL = 2000


def check_webhook_url(url: str, allow_private: bool) -> None:
    """Raises BadRequest where the backend must not call `url`: not http or https, or an address of our own network.

    Only what the URL itself says is looked at: what its host name resolves to is known when it is called.
    """
    if len(url) > LONGEST_URL or not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise BadRequest(f"webhook_url must be a plain URL of at most {LONGEST_URL} characters, without spaces")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        parts.port  # noqa: B018 (reading it is what checks it)
    except ValueError as error:
        raise BadRequest(f"webhook_url cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest("webhook_url must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise BadRequest("webhook_url must not hold a user or a password: calls are signed")
    if not allow_private and _is_private(host):
        raise BadRequest(f"webhook_url names {host}, an address of our own network: name a public one")


# Addresses of IPv6 that carry one of IPv4, or have gone out of use.
_CARRIERS = tuple(
    map(
        ipaddress.ip_network,
        ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10"),
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open network, and no other in disguise. Raises ValueError."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            found = found.ipv4_mapped
        elif any(found in network for network in _CARRIERS):
            return False
    return found.is_global and not found.is_multicast


def _is_private(host: str) -> bool:
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        # Other spellings of IPv4 that a resolver understands, such as 2130706433, 127.1 or 0x7f000001.
        return host.rpartition(".")[2][:1].isdigit()
