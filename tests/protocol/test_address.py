"""One peer, one address value, whatever the socket called it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ErrorCode, LocalError, PeerError
from relay.protocol.address import Address


def test_an_ipv4_mapped_address_is_the_ipv4_address():
    assert Address.parse(("::ffff:192.0.2.7", 4000, 0, 0)) == Address.parse(("192.0.2.7", 4000))


def test_bytes_in_network_order_are_the_same_address():
    assert Address.of(bytes((192, 0, 2, 7)), 9) == Address("192.0.2.7", 9)
    assert Address.of(bytes.fromhex("00000000000000000000ffffc0000207"), 9) == Address("192.0.2.7", 9)
    assert Address.of(bytes(15) + b"\x01", 9) == Address("::1", 9)


@pytest.mark.parametrize(("packed", "port"), [(b"", 1), (bytes(5), 1), (bytes(4), -1), (bytes(4), 65536)])
def test_bytes_that_are_no_address_are_our_own_fault(packed, port):
    with pytest.raises(LocalError):
        Address.of(packed, port)


def test_ipv6_is_written_one_way():
    assert Address.parse(("2001:DB8:0:0::1", 1, 0, 0)).host == "2001:db8::1"


def test_the_scope_of_a_link_local_address_is_left_out():
    assert Address.parse(("fe80::1%eth0", 1, 0, 2)) == Address("fe80::1", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        *((), ("192.0.2.1",), ("example.org", 1), ("127.1", 1), ("192.0.2.1", -1), ("192.0.2.1", 65536)),
        *(("192.0.2.1", "1"), ("192.0.2.1", True), (3221225985, 1), (None, 1), (b"\x01\x02\x03\x04", 1)),
    ],
)
def test_what_is_no_socket_address_is_our_own_fault(wrong):
    with pytest.raises(LocalError):
        Address.parse(wrong)


def test_a_budget_counts_by_ipv4_address_and_by_ipv6_site():
    assert Address("192.0.2.7", 1).prefix() == Address("192.0.2.7", 2).prefix() == bytes((192, 0, 2, 7))
    one, other = Address("2001:db8:1:2::1", 1), Address("2001:db8:1:2:ffff::9", 1)
    assert one.prefix() == other.prefix() == bytes.fromhex("20010db800010002")
    assert one.prefix() != Address("2001:db8:1:3::1", 1).prefix()


def test_every_text_form_shows_the_network_only():
    v4, v6 = Address("192.0.2.77", 40001), Address("2001:db8:1:2::abcd", 40001)
    assert repr(v4) == str(v4) == f"{v4}" == "Address(192.0.2.0/24)"
    assert repr(v6) == str(v6) == f"{v6}" == "Address(2001:db8:1::/48)"


def test_the_packed_form_is_network_order():
    assert Address("192.0.2.1", 5).packed == b"\xc0\x00\x02\x01"
    assert Address("::1", 5).packed == bytes(15) + b"\x01"


@given(st.ip_addresses(), st.integers(0, 65535))
def test_parsing_twice_changes_nothing(ip, port):
    once = Address.parse((str(ip), port))
    assert Address.parse(tuple(once)) == once
    assert "mapped" not in once.host
    assert not once.host.startswith("::ffff:")


@given(st.text(max_size=60), st.integers())
def test_any_text_is_an_address_or_an_error_of_ours(host, port):
    with suppress(LocalError):
        assert isinstance(Address.parse((host, port)), Address)


def test_an_address_that_a_peer_wrote_is_one_or_its_own_fault():
    assert Address.told("::ffff:192.0.2.7", 4000) == Address("192.0.2.7", 4000)
    for wrong in (("example.org", 1), ("192.0.2.1", 0), ("192.0.2.1", 65536), ("", 1)):
        with pytest.raises(PeerError) as caught:
            Address.told(*wrong)
        assert (caught.value.code, caught.value.fatal) == (ErrorCode.BAD_ENCODING, False)
