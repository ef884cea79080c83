"""Which URLs webhooks may call: the open network, and addresses of our own network only if that is allowed."""

import ipaddress
from urllib.parse import urlsplit

from spheroseg.errors import BadRequest

MAX_URL_LENGTH = 2000

# IPv6 networks whose addresses contain an IPv4 address, and deprecated ones.
_NOT_PUBLIC_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10"),
    )
)


def check_webhook_url(url: str, allow_private: bool) -> None:
    """Raise BadRequest if the backend must not call `url`: not http or https, or an address of our own network.

    Only the URL itself is checked. What its host name resolves to is checked when it is called.
    """
    if len(url) > MAX_URL_LENGTH or not url.isascii() or any(char <= " " or char == "\x7f" for char in url):
        raise BadRequest(f"webhook_url must be a plain URL of at most {MAX_URL_LENGTH} characters, without spaces")
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


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the open network. Raises ValueError if it is no IP address.

    An IPv6 address that contains an IPv4 address does not count as public, except an IPv4-mapped one, which counts as
    the IPv4 address.
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        elif any(parsed in network for network in _NOT_PUBLIC_NETWORKS):
            return False
    return parsed.is_global and not parsed.is_multicast


def _is_private(host: str) -> bool:
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        # Other spellings of IPv4 that a resolver understands, such as 2130706433, 127.1 or 0x7f000001.
        return host.rpartition(".")[2][:1].isdigit()
