"""Which node a call goes to: rendezvous hashing, who is where, the signed node list, a region's drain.

    signed list (who there is) --+
                                 +--> Directory.place(call, variant, round trips) --> home, two standbys
    reports (how they are) ------+

Used by whoever places calls: a back end, a client, the programs beside the daemon. Sans-I/O: `now` and `wall`
are arguments. Must never live here: clock, socket, loop, randomness, log; what a call is (core).
"""
