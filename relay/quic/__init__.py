"""QUIC as both ends speak it here: aioquic, with what we replace in it. No socket, no clock, no loop."""
