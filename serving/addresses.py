"""``host:port``, taken apart and put together; IPv6 hosts in brackets."""

from __future__ import annotations

import ipaddress
import re

_ADDRESS = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]/@\s]+)):(\d{1,5})")


def split_address(address: str) -> tuple[str, int]:
    """Takes an address apart."""
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[3]) > 65535:
        raise ValueError(
            "must be HOST:PORT, an IPv6 host in brackets as in [::1]:8500. "
            f"Received: {address!r}"
        )
    return found[1] or found[2], int(found[3])


def join_address(host: str, port: int | None) -> str:
    """Puts an address together; an IPv6 host gets its brackets."""
    host = bare_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bare_host(host: str) -> str:
    """A host without the brackets that an IPv6 one may have."""
    bracketed = host.startswith("[") and host.endswith("]")
    return host[1:-1] if bracketed else host


def is_this_machine(host: str) -> bool:
    """Whether a host, by its name alone, is the machine that asks."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    # 0.0.0.0 and :: reach what listens on every interface of this machine.
    return bool(mapped.is_loopback or mapped.is_unspecified)
