"""The decoders of relay.protocol as fuzz targets. Each docstring is the invariant it would break."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt

from fuzz import Target
from golden import load
from relay.errors import ErrorCode, PeerError
from relay.protocol import (
    command,
    control,
    datagram,
    demux,
    frames,
    media,
    nack,
    peers,
    records,
    relayed,
    sframe,
    signed,
    structure,
    stun,
    ticket,
    token,
    trunk,
    trunk_control,
    turn,
    wire,
)
from relay.protocol.cid import CidCodec


def _hex(rows: list[dict[str, str]], key: str) -> list[bytes]:
    return [bytes.fromhex(row[key]) for row in rows]


_CONTROL, _DATAGRAM, _MEDIA = load("control"), load("datagram"), load("media")
_TRUNK = load("trunk")
_TOKEN, _COMMAND, _TICKET, _CID = load("token"), load("command"), load("ticket"), load("cid")

_SEED = bytes.fromhex(_TOKEN["golden"]["issuer_seed"])
_PUBLIC = signed.public_of(_SEED)
_ISSUERS = {signed.kid_of(_PUBLIC): _PUBLIC}
_TICKET_KEY = bytes.fromhex(_TICKET["key"])
_TICKET_BODY = crypto_aead_xchacha20poly1305_ietf_decrypt(
    bytes.fromhex(_TICKET["ticket"])[24:], b"vrl-ticket-v1\0", bytes.fromhex(_TICKET["nonce"]), _TICKET_KEY
)
_CODEC = CidCodec(bytes.fromhex(_CID["key"]), bytes.fromhex(_CID["server_id"]))

_BODIES = [frame[2:] for frame in _hex(_CONTROL["frames"], "frame")] + _hex(_CONTROL["refused"], "body")
_TRUNK_BODIES = [frame[2:] for frame in _hex(_TRUNK["frames"], "frame")] + _hex(_TRUNK["refused"], "body")
_TOKENS = [bytes.fromhex(_TOKEN["golden"]["token"]), *_hex(_TOKEN["others"], "token")]
_COMMANDS = _hex(_COMMAND["commands"], "command")
_INITIALS = [
    bytes((0xC0,))
    + version.to_bytes(4, "big")
    + b"\x08"
    + bytes(8)
    + b"\x08"
    + bytes(8)
    + b"\x00\x14"
    + bytes(20)
    for version in (demux.QUIC_V1, demux.QUIC_V2, 0, 0x1A2A3A4A)
]
_STUN = bytes.fromhex("000100002112a442") + bytes(12)
_STUN_ROWS, _TURN = load("stun"), load("turn")
_STUN_KEYS = {bytes.fromhex(row["message"]): bytes.fromhex(row["key"]) for row in _STUN_ROWS["messages"]}
_INDICATIONS = _hex(_TURN["indications"] + _TURN["refused_indications"], "message")
_CHANNELS = _hex(_TURN["channel_data"] + _TURN["refused_channel_data"], "packet")


def read_varint(data: bytes) -> None:
    """A varint ends inside the bytes it came from."""
    _, end = wire.decode_varint(data)
    assert end <= len(data)


def read_structure(data: bytes) -> None:
    """What passes the structure check is read by the typed decoder, or is the peer's fault."""
    structure.check(data)


def read_sframe(data: bytes) -> None:
    """A header has one spelling."""
    header = sframe.decode_header(data)
    assert sframe.encode_header(header.kid, header.ctr) == data[: header.size]


def read_media(data: bytes) -> None:
    """A hop header leaves room for the tag, and a copy reads alike but for flow and repeat."""
    header = media.decode(data)
    copy = media.decode(media.with_flow(data, 9, True))
    assert len(data) - header.size >= media.MIN_SEALED
    assert (copy.kid, copy.ctr, copy.level, copy.size) == (header.kid, header.ctr, header.level, header.size)


def read_datagram(data: bytes) -> None:
    """A control datagram that was read is written and read again as the same value."""
    value = datagram.decode_datagram(data)
    if value is not None and not (isinstance(value, datagram.NewestWins) and value.body is None):
        assert datagram.decode_datagram(datagram.encode_datagram(value)) == value
    if isinstance(value, datagram.Nack):
        named = [ctr for ctr in range(1 << 16) if nack.wants(value, value.kid, ctr)]
        assert len(named) == value.map.bit_count()


def ask_again(data: bytes) -> None:
    """Whatever is missing, a request is one that can be written, of packets that are."""
    asker, now, newest = nack.Asker(5), 0.0, 0
    for at in range(0, len(data) - 4, 5):
        ahead, kid, high, low, wait = data[at : at + 5]
        newest, now, missing = newest + ahead, now + wait / 1000, high << 8 | low
        asked = asker.on_packet(kid % 3, newest, missing, now, 0.02, 0.13)
        if asked is not None:
            assert datagram.decode_datagram(datagram.encode_datagram(asked)) == asked
            gone = [i for i in range(nack.SPAN) if missing >> i & 1]
            assert asked.map.bit_count() <= len(gone)
            assert sum(nack.wants(asked, kid % 3, newest - 1 - i) for i in gone) == asked.map.bit_count()


def read_control(data: bytes) -> None:
    """A control message that was read is written, and read again is written alike."""
    frame = control.decode(data)
    repr(frame)
    if frame.body is not None:
        # Compared as bytes: `data` of an `Err` may hold a NaN, which equals nothing.
        written = control.encode_body(frame.body, frame.id)
        assert control.encode(control.decode(written).body, frame.id)[2:] == written


def read_stream(data: bytes) -> None:
    """A stream gives the same frames whole and byte by byte."""
    whole, pieces = control.FrameReader(), control.FrameReader()
    frames = whole.feed(data)
    assert [frame for i in range(len(data)) for frame in pieces.feed(data[i : i + 1])] == frames
    assert whole.pending == pieces.pending < control.MAX_FRAME + 2


def read_trunk(data: bytes) -> None:
    """A trunk's datagram is control that is written alike, or a voice that every listener reads alike."""
    value = trunk.decode(data)
    if isinstance(value, trunk.Carried):
        copy = trunk.to_leg(data, 9)
        assert media.decode(copy).ctr == value.header.ctr
        again = trunk.from_leg(copy, value.route)
        assert again[:2] + again[3:] == data[:2] + data[3:]
    elif value is not None:
        assert trunk.decode(trunk.encode(value)) == value


def read_trunk_control(data: bytes) -> None:
    """A trunk's message that was read is written, and read again is written alike."""
    frame = trunk_control.decode(data)
    repr(frame)
    assert control.peek(data) == frame[:2]
    if frame.body is not None:
        written = control.encode_body(frame.body, frame.id)
        assert control.encode_body(trunk_control.decode(written).body, frame.id) == written


def pass_said(data: bytes) -> None:
    """What passes a trunk for a leg is a message of a type that legs know, or breaks its own format there."""
    number = trunk_control.said(data, trunk_control.UP | trunk_control.DOWN)
    assert control.decode(data).type == number


def _records(pieces: Iterable[bytes]) -> tuple[list[bytes], ErrorCode | None]:
    """The records of a stream, and why there are no more."""
    reader, found = records.RecordReader(), list[bytes]()
    try:
        for piece in pieces:
            reader.feed(piece)
            while (record := reader.next()) is not None:
                found.append(record)
            assert reader.pending < records.MAX_RECORD + 2
    except PeerError as error:
        return found, error.code
    return found, None


def read_records(data: bytes) -> None:
    """A stream gives the same records, and the same reason to end, whole and byte by byte."""
    whole = _records([data])
    assert _records(data[i : i + 1] for i in range(len(data))) == whole
    assert data.startswith(b"".join(map(records.encode_record, whole[0])))


def read_token(data: bytes) -> None:
    """No bytes but those an issuer signed are a token."""
    token.verify(data, _ISSUERS)
    assert data in _TOKENS


def read_claims(data: bytes) -> None:
    """Claims that were read are written and read again as the same value."""
    claims = token.decode_claims(data)
    assert token.decode_claims(token.encode_claims(claims)) == claims


def read_token_text(data: bytes) -> None:
    """A token's text has one spelling."""
    text = data.decode("latin-1")
    assert token.to_text(token.from_text(text)) == text.strip()


def read_command(data: bytes) -> None:
    """No bytes but those an issuer signed are a command."""
    command.verify(data, _ISSUERS)
    assert data in _COMMANDS


def read_order(data: bytes) -> None:
    """A command that was read is written and read again as the same value."""
    order = command.decode_command(data)
    assert command.decode_command(command.encode_command(order)) == order


def read_ticket(data: bytes) -> None:
    """No bytes but those a node sealed are a ticket."""
    ticket.open(data, [bytes(32), _TICKET_KEY])
    assert data == bytes.fromhex(_TICKET["ticket"])


def read_ticket_body(data: bytes) -> None:
    """The inside of a ticket is a body or nobody's ticket."""
    ticket.decode_body(data)


def read_cid(data: bytes) -> None:
    """An id we read is one that its server could have issued."""
    found = _CODEC.decode(data)
    if found is None:
        raise PeerError(ErrorCode.GENERAL, "not ours")
    server, nonce = found
    assert CidCodec(bytes.fromhex(_CID["key"]), server).encode(nonce) == data


def read_packet(data: bytes) -> None:
    """A packet has one owner, whatever channels are bound."""
    kind = demux.classify(data, range(0x4000, 0x5000))
    if kind is demux.Kind.DROP:
        raise PeerError(ErrorCode.GENERAL, "dropped")


def read_long_header(data: bytes) -> None:
    """A long header ends inside its datagram, and its answer is readable."""
    header = demux.parse_long(data)
    assert header.end <= len(data)
    if header.version:
        assert demux.parse_long(demux.version_negotiation(header, (1,), data[0])).version == 0


def read_frames(data: bytes) -> None:
    """A payload's datagrams fit in it, and its acknowledged ranges are numbers."""
    frames.parse_ack(data)
    payload = frames.parse(data)
    if payload is None:
        raise PeerError(ErrorCode.GENERAL, "not for the packet path")
    assert sum(map(len, payload.datagrams)) < len(data)
    assert payload.ack is None or all(0 <= low < high for low, high in payload.ack.ranges)


_CHANNEL_DATA = relayed.encode_channel_data(0x4001, b"hello", is_stream=True)
_DATA_INDICATION = relayed.encode_data_indication(7, relayed.PeerAddress(b"\xc0\0\2\1", 5000), b"hello")


def read_relayed(data: bytes) -> None:
    """What is ChannelData or a Send indication stands in the message, and written again it reads the same."""
    channel = relayed.parse_channel_data(data)
    if channel is not None:
        number, payload = channel
        again = relayed.encode_channel_data(number, payload, is_stream=bool(data[1] & 1))
        assert relayed.parse_channel_data(again) == channel
        assert payload in data
    send = relayed.parse_send(data)
    if send is not None:
        assert channel is None
        assert relayed.message_type(data) == relayed.SEND
        again = relayed.encode_data_indication(data[8], *send)
        assert relayed.parse_send(b"\0\x16" + again[2:]) == send


def read_stun(data: bytes) -> None:
    """What counts of a message is written and read again alike; a sum holds over its own bytes only."""
    message = stun.parse(data)
    again = stun.build(message.method, message.cls, message.transaction, message.attributes)
    assert stun.parse(again).attributes == message.attributes
    if any(stun.integrity_holds(message, key) for key in _STUN_KEYS.values()):
        assert message.attributes in [stun.parse(golden).attributes for golden in _STUN_KEYS]


def read_turn_stream(data: bytes) -> None:
    """A stream gives the same frames whole and byte by byte, and holds less than one."""
    whole, pieces = turn.FrameReader(), turn.FrameReader()
    found = whole.feed(data)
    assert [frame for i in range(len(data)) for frame in pieces.feed(data[i : i + 1])] == found
    assert whole.pending == pieces.pending < turn.MAX_FRAME


def read_peer(data: bytes) -> None:
    """An address that may be sent to is public, whatever it was written as."""
    message = stun.parse(data)
    for value in message.all(turn.XOR_PEER_ADDRESS):
        peer = stun.decode_xor_address(value, message.transaction)
        if peers.judge(peer.packed, frozenset(), peer.port) is None:
            assert ip_address(peer.host).is_global
            assert peer.port


TARGETS = [
    Target("frames", read_frames, [b"\x02\x0a\x00\x01\x02\x01\x03\x31\x03abc\x30de", b"\x01\x00\x00"]),
    Target("varint", read_varint, _hex(load("varint")["values"], "hex")),
    Target("structure", read_structure, _BODIES),
    Target("sframe", read_sframe, _hex(load("sframe")["headers"], "encoded")),
    Target(
        "media",
        read_media,
        _hex([_MEDIA["golden"]["A"], _MEDIA["golden"]["B"], *_MEDIA["accepted"]], "datagram"),
    ),
    Target("datagram", read_datagram, _hex(_DATAGRAM["datagrams"] + _DATAGRAM["refused"], "datagram")),
    Target("asker", ask_again, [bytes((1, 0, 0, 3, 20)) * 8, bytes((3, 0, 255, 255, 60)) * 8]),
    Target("control", read_control, _BODIES),
    Target("stream", read_stream, _hex(_CONTROL["frames"], "frame")),
    Target("records", read_records, [b"\0\2\0\1\0\4\xc0\x93\6\0\0\3\1\2\3", b"\x40\1\xc0"]),
    Target(
        "trunk",
        read_trunk,
        _hex(_TRUNK["media"] + _TRUNK["datagrams"] + _TRUNK["refused_datagrams"], "datagram"),
    ),
    Target("trunk-control", read_trunk_control, _TRUNK_BODIES),
    Target("trunk-said", pass_said, list(map(bytes.fromhex, _TRUNK["up"] + _TRUNK["down"]))),
    Target("token", read_token, _TOKENS),
    Target("claims", read_claims, [signed.split(token.MAGIC, each).body for each in _TOKENS]),
    Target("token-text", read_token_text, [_TOKEN["golden"]["text"].encode()]),
    Target("command", read_command, _COMMANDS),
    Target("order", read_order, [signed.split(command.MAGIC, each).body for each in _COMMANDS]),
    Target("ticket", read_ticket, [bytes.fromhex(_TICKET["ticket"])]),
    Target("ticket-body", read_ticket_body, [_TICKET_BODY]),
    Target("cid", read_cid, _hex(_CID["rows"], "cid")),
    Target("demux", read_packet, [*_INITIALS, _STUN, b"\x40\x00\x00\x05abcde"]),
    Target("long-header", read_long_header, _INITIALS),
    Target(
        "relayed",
        read_relayed,
        [_CHANNEL_DATA, b"\0\x16" + _DATA_INDICATION[2:], _STUN, *_CHANNELS, *_INDICATIONS],
    ),
    Target("stun", read_stun, [*_STUN_KEYS, _STUN, *_INDICATIONS]),
    Target("turn-stream", read_turn_stream, [*_CHANNELS, *_INDICATIONS, *_STUN_KEYS]),
    Target("turn-peer", read_peer, _INDICATIONS),
]
