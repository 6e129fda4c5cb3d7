"""Splits and joins ``host:port``, with IPv6 hosts in brackets."""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]/@\s]+)):(\d{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Splits an address into host and port."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[3]) > 65535:
        raise ValueError(
            "must be HOST:PORT, an IPv6 host in brackets as in [::1]:8500. "
            f"Received: {address!r}"
        )
    return found[1] or found[2], int(found[3])


def join_address(host: str, port: int | None) -> str:
    """Joins host and port; an IPv6 host is put in brackets."""
    host = bare_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bare_host(host: str) -> str:
    """Returns a host without the brackets of IPv6."""
    bracketed = host.startswith("[") and host.endswith("]")
    return host[1:-1] if bracketed else host


def is_this_machine(host: str) -> bool:
    """Whether the name of a host means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    # 0.0.0.0 and :: connect to servers that listen on every interface.
    return bool(mapped.is_loopback or mapped.is_unspecified)
