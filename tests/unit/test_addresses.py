"""Addresses that only this machine reaches."""

import pytest

from palaver_server.addresses import is_local


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:50051", "127.8.9.1:0", "[::1]:50051", "localhost:50051", "unix:/run/p.sock"],
)
def test_address_of_this_machine_is_local(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0:50051",
        "[::]:50051",
        "192.168.0.1:50051",
        "[fe80::1]:50051",
        "[::ffff:0.0.0.0]:50051",
        "palaver.example:50051",
        "localhost.example:50051",
        "127.0.0.1.example:50051",
        "127.0.0.1:1,0.0.0.0:50051",
        "ipv4:0.0.0.0:50051",
    ],
)
def test_address_reachable_by_others_is_not_local(address: str) -> None:
    assert not is_local(address)
