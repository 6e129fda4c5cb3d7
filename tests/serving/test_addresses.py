"""Addresses of both families, as people write them."""

from __future__ import annotations

import pytest

from serving.addresses import (
    bare_host,
    is_this_machine,
    join_address,
    split_address,
)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:8500", "127.0.0.1", 8500),
        ("model-server.prod.svc:1", "model-server.prod.svc", 1),
        ("[::1]:8500", "::1", 8500),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ],
)
def test_taken_apart_and_put_together(address, host, port) -> None:
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize(
    "address",
    ["", "host", ":8500", "::1:8500", "::1", "[::1]", "h:65536", "h:x"],
)
def test_what_is_no_address(address) -> None:
    with pytest.raises(ValueError, match=r"\[::1\]:8500. Received: "):
        split_address(address)


def test_brackets() -> None:
    assert bare_host("[::]") == bare_host("::") == "::"
    assert join_address("[::]", 8500) == join_address("::", 8500) == "[::]:8500"


def test_this_machine() -> None:
    here = "127.0.0.1 127.9.9.9 ::1 localhost a.localhost :: 0.0.0.0"
    assert all(map(is_this_machine, [*here.split(), "::ffff:127.0.0.1"]))
    assert not any(map(is_this_machine, ["10.0.0.1", "fd00::1", "host", ""]))
