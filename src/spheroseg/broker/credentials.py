"""Users in a RabbitMQ definitions file: a node that loads one makes no user by itself."""

import base64
import hashlib
import hmac
import secrets
from typing import Any

SALT_BYTES = 4  # fixed by the server
HASHING = "rabbit_password_hashing_sha256"


def hash_password(password: str, salt: bytes | None = None) -> str:
    """As the server keeps it: base64 of the salt and SHA-256 of salt and password. Different each time."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def is_password(password: str, password_hash: str) -> bool:
    """Whether `password_hash` was made from `password`."""
    salt = base64.b64decode(password_hash)[:SALT_BYTES]
    return hmac.compare_digest(hash_password(password, salt), password_hash)


def with_user(definitions: dict[str, Any], name: str, password: str) -> dict[str, Any]:
    """The definitions with one user more, who may do everything in their virtual hosts and see the node.

    Setting policies is among it; making users and virtual hosts is not: for that there is rabbitmqctl.
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
