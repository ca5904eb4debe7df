"""Addresses of servers: as they are used, and as they may be written down. Imports nothing heavy."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from gendistill.errors import ConfigError

PLAIN_QUERY = {"api-version"}  # what a query may say that is no secret


def base_url(url: str) -> str:
    """A base URL as given; of a bare host, with the usual ``/v1``.

    :raises ConfigError: no http(s) URL. The message does not repeat it: it may hold a password.
    """
    try:
        parts = urlsplit(url.strip())
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
    except ValueError:
        bad = True
    if bad:
        raise ConfigError("--base-url: not an http or https address; write it like http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/") or "/v1"
    for ending in ("/chat/completions", "/completions"):
        path = path.removesuffix(ending)
    return urlunsplit(parts._replace(path=path, fragment=""))


def joined(url: str, path: str) -> str:
    """A base URL with a path under it; what it asks (``?api-version=...``) stays at the end."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path + path))


def has_credentials(url: str) -> bool:
    return urlsplit(url).username is not None


def shown(url: str) -> str:
    """An address as it may be written down: without user, password, or the values of what it asks."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "***"
    if ":" in host:
        host = f"[{host}]"
    asked = [item.partition("=") for item in parts.query.split("&")] if parts.query else []
    query = "&".join(f"{name}={value if name in PLAIN_QUERY else '***'}" for name, _, value in asked)
    return urlunsplit((parts.scheme, f"{host}:{port}" if port else host, parts.path, query, ""))
