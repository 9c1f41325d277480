"""The SDK: end-to-end encrypted voice calls through a relay that cannot listen.

    async with connect("quic://relay.example:443", token=token, pop_seed=seed) as session:
        call = await session.join()
        await call.accept()
        await call.peer_accepted()
        print("compare with the other side:", call.sas)
        await call.talk(FileSource("hello.wav"), WavSink("heard.wav"))
        await call.hangup()

Must never live here: anything but names for others to import.
"""

from relay.client.audio import AudioMissingError, CodecError
from relay.client.call import Call
from relay.client.errors import CallEndedError, KeyAgreementError, RefusedError, SessionError
from relay.client.life import CallState
from relay.client.nodes import NodeBook, NodesError, NoNode
from relay.client.session import Session, connect
from relay.client.sources import (
    AudioSink,
    AudioSource,
    CallbackSink,
    CallbackSource,
    FileSource,
    PcmSource,
    ToneSource,
    WavSink,
)
from relay.client.stats import CallStats
from relay.client.voice import OpusDecoder, OpusEncoder
from relay.protocol.messages import Cli as ClientInfo

__all__ = [
    "AudioMissingError",
    "AudioSink",
    "AudioSource",
    "Call",
    "CallEndedError",
    "CallState",
    "CallStats",
    "CallbackSink",
    "CallbackSource",
    "ClientInfo",
    "CodecError",
    "FileSource",
    "KeyAgreementError",
    "NoNode",
    "NodeBook",
    "NodesError",
    "OpusDecoder",
    "OpusEncoder",
    "PcmSource",
    "RefusedError",
    "Session",
    "SessionError",
    "ToneSource",
    "WavSink",
    "connect",
]
