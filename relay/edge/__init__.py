"""Sockets and clocks: the only room with a loop. No decision on protocol content is taken here."""
