"""Users of a RabbitMQ definitions file, which a node needs because it creates no default user if it loads one."""

import base64
import hashlib
import hmac
import secrets
from typing import Any

SALT_BYTES = 4  # fixed by the server
HASHING = "rabbit_password_hashing_sha256"


def hash_password(password: str, salt: bytes | None = None) -> str:
    """Return the hash as RabbitMQ stores it: base64 of the salt and of the SHA-256 of salt and password.

    Without `salt`, a random one is used, so that the hash differs each time.
    Source: RabbitMQ documentation, "Credentials and Passwords".
    """
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def is_password(password: str, password_hash: str) -> bool:
    """Return whether `password_hash` is a hash of `password`."""
    salt = base64.b64decode(password_hash)[:SALT_BYTES]
    return hmac.compare_digest(hash_password(password, salt), password_hash)


def with_user(definitions: dict[str, Any], name: str, password: str) -> dict[str, Any]:
    """Return the definitions with one more user, who has all permissions in their virtual hosts and sees the node.

    The user may set policies, but not create users or virtual hosts: that needs rabbitmqctl.
    """
    user = {
        "name": name,
        "password_hash": hash_password(password),
        "hashing_algorithm": HASHING,
        "tags": ["monitoring", "policymaker"],
        "limits": {},
    }
    permissions = [
        {"user": name, "vhost": vhost["name"], "configure": ".*", "write": ".*", "read": ".*"}
        for vhost in definitions["vhosts"]
    ]
    return {"users": [user], "permissions": permissions, **definitions}
