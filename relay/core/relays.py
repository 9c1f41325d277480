"""All TURN allocations of a node: charges, deadlines, and what the lane is told of each.

    open --> charged --> close --> released, in one place each; charges equal allocations at any moment
    review --> Permit, Forbid, BindChannel, Unbind for what is not as the lane was told

Every way out to an address passes `may_send`. Must never live here: messages and credentials.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Container, Iterable

from relay.config import Config
from relay.core.allocation import Allocation, Channel
from relay.core.company import Company, Owner
from relay.core.credentials import Via
from relay.core.deadlines import Deadlines
from relay.core.limits import Quota
from relay.core.turn_events import (
    BindChannel,
    CloseRelay,
    Forbid,
    OpenRelay,
    Permit,
    TurnOutput,
    Unbind,
)
from relay.protocol import peers
from relay.protocol.address import Address
from relay.protocol.ids import CallId

HERE = "here"  # the one key of a quota that belongs to the whole node


class Relays:
    """The table of allocations. Parts of the engine share it, and `now`."""

    def __init__(self, config: Config, company: Company, own: Iterable[bytes] = ()) -> None:
        self.config = config.turn
        self.company = company
        self.now = 0.0
        self.wall = 0.0
        self.outputs: deque[TurnOutput] = deque()
        self.counters: Counter[tuple[str, str]] = Counter()
        self.deadlines: Deadlines[int] = Deadlines()
        self.by_number: dict[int, Allocation] = {}
        self.by_via: dict[Via, Allocation] = {}
        self.user_quota: Quota[Owner] = Quota(config.turn.allocations_per_user)
        self.node_quota: Quota[str] = Quota(config.turn.allocations)
        self._by_relayed: dict[Address, Allocation] = {}
        self._on_ip: Counter[bytes] = Counter()
        """How many relay on each of our addresses."""
        self._by_call: dict[CallId, dict[int, Allocation]] = {}
        self._numbers = 0
        self.on_close: Callable[[int], object] = lambda number: None
        """Called with the number of each allocation that ends."""
        self._outside: dict[bytes, bytes] = {}
        """What others call our addresses, by what we call them."""
        for row in config.turn.addresses:
            inside = peers.from_text(row.bind, 0).packed
            self._outside[inside] = peers.from_text(row.advertise or row.bind, 0).packed
        self.own = frozenset((*self._outside, *self._outside.values(), *map(peers.canonical, own)))
        self.families = frozenset(len(ip) for ip in self._outside)
        """Sizes of the addresses we relay on: 4, 16."""

    def on_config(self, config: Config) -> None:
        """A reload. What exists keeps what it was given."""
        self.config = config.turn
        self.user_quota.ceiling = config.turn.allocations_per_user
        self.node_quota.ceiling = config.turn.allocations

    def count(self, name: str, label: str = "") -> None:
        """One more of these."""
        self.counters[name, label] += 1

    def put(self, output: TurnOutput) -> None:
        """Queue one order for the edge."""
        self.outputs.append(output)

    # ------------------------------------------------------------ life

    def open(
        self, via: Via, owner: Owner, user: bytes, secret: bytes, size: int, is_even: bool = False
    ) -> Allocation:
        """A new allocation on addresses of `size` bytes; the caller charged for it, and names the holder."""
        self._numbers += 1
        made = Allocation(self._numbers, via, owner, user, secret, size, self.now)
        self.by_number[made.number] = self.by_via[via] = made
        if owner.call is not None:
            self._by_call.setdefault(owner.call, {})[made.number] = made
        self.count("turn_opened")
        bits, packets = self.company.budget(owner)
        self.put(OpenRelay(made.number, via, 4 if size == 4 else 6, bits, packets, is_even))
        self.watch(made)
        return made

    def opened(self, allocation: Allocation, bound: Address, until: float) -> None:
        """Its socket is there. From now on others of the call may be sent to it."""
        ip = self._outside.get(bound.packed, bound.packed)
        relayed = Address.of(ip, bound.port)
        allocation.on_opened(relayed, until)
        self._by_relayed[relayed] = allocation
        self._on_ip[ip] += 1
        self.watch(allocation)
        self._review_others(allocation)

    def close(self, allocation: Allocation, why: str) -> None:
        """It is over: nothing of it is left, here or in the lane."""
        allocation.on_ended()
        self.put(CloseRelay(allocation.number))
        self.on_close(allocation.number)
        self.count("turn_closed", why)
        del self.by_number[allocation.number], self.by_via[allocation.via]
        if allocation.relayed is not None:
            del self._by_relayed[allocation.relayed]
            self._on_ip[allocation.relayed.packed] -= 1
        if allocation.owner.call is not None:
            in_call = self._by_call[allocation.owner.call]
            del in_call[allocation.number]
            if not in_call:
                del self._by_call[allocation.owner.call]
        self.user_quota.release(allocation.owner)
        self.node_quota.release(HERE)
        self.company.release(allocation.holder)
        self.deadlines.set(allocation.number, None)
        self._review_others(allocation)

    def watch(self, allocation: Allocation) -> None:
        """Take note of its nearest deadline."""
        self.deadlines.set(allocation.number, allocation.next_deadline(self.now))

    # ------------------------------------------------------------ peers

    def reach(self, allocation: Allocation) -> Container[bytes]:
        """For `may_send`, asked once for many addresses."""
        return self.company.reach(allocation.owner)

    def may_send(
        self, allocation: Allocation, reach: Container[bytes], ip: bytes, port: int | None = None
    ) -> bool:
        """Whether it may reach the address; `port` None for a permission, which names none."""
        refusal = peers.judge(ip, self.own, port, lab=self.config.lab_allow_private_peers)
        if refusal is peers.Refusal.OWN:
            # One exception: what a friend relays here, handed over inside the node.
            return any(
                self.company.may_meet(allocation.owner, other.owner)
                for other in self._holders(allocation, ip, port)
                if other is not allocation
            )
        return refusal is None and ip in reach

    def _holders(self, allocation: Allocation, ip: bytes, port: int | None) -> Iterable[Allocation]:
        """Allocations at this relayed address; with `port` None those of the same call at any port of it."""
        if port is not None:
            held = self._by_relayed.get(Address.of(ip, port))
            return () if held is None else (held,)
        call = allocation.owner.call
        pool = self._by_relayed.values() if call is None else self._by_call[call].values()
        return (each for each in pool if each.relayed is not None and each.relayed.packed == ip)

    def review(self, allocation: Allocation) -> None:
        """Tell the lane what is not as it knows it."""
        number, now, reach = allocation.number, self.now, self.reach(allocation)
        for ip, permission in allocation.permissions.items():
            allowed = self.may_send(allocation, reach, ip)
            until = min(permission.until, allocation.until) if allowed else None
            if until != permission.told:
                permission.told = until
                self.put(Forbid(number, ip) if until is None else Permit(number, ip, until))
        for channel, bound in allocation.bound(now):
            self._review_channel(allocation, reach, channel, bound)

    def _review_channel(
        self, allocation: Allocation, reach: Container[bytes], channel: int, bound: Channel
    ) -> None:
        peer = bound.peer
        allowed = self.may_send(allocation, reach, peer.packed, peer.port)
        holder = self._by_relayed.get(peer)
        if allowed and holder is not None:
            holder.partners.add(allocation.number)
        until = min(bound.until, allocation.until) if allowed else None
        if until != bound.told:
            bound.told = until
            number = allocation.number
            self.put(Unbind(number, channel) if until is None else BindChannel(number, channel, peer, until))

    def review_call(self, call: CallId) -> None:
        """Membership changed: what nobody here holds any more goes, the rest is looked at again."""
        for allocation in list(self._by_call.get(call, {}).values()):
            if not self.company.is_here(allocation.owner):
                self.close(allocation, "owner_gone")
        for allocation in self._by_call.get(call, {}).values():
            self.review(allocation)

    def _review_others(self, allocation: Allocation) -> None:
        """Its relayed address came or went: look at those again to whom that makes a difference."""
        for number in self._concerned(allocation):
            other = self.by_number.get(number)
            if other is not None and other is not allocation:
                self.review(other)

    def _concerned(self, allocation: Allocation) -> list[int]:
        """Those of its call. In open policy: who has a channel to it, and the last one left on its address,
        for a permission there needs somebody else who relays on it."""
        if allocation.owner.call is not None:
            return list(self._by_call.get(allocation.owner.call, ()))
        concerned = list(allocation.partners)
        if allocation.relayed is not None and self._on_ip[allocation.relayed.packed] <= 2:
            concerned += [each.number for each in self._by_relayed.values() if each.size == allocation.size]
        return concerned

    # ------------------------------------------------------------ time

    def run_deadlines(self, most: int) -> None:
        """At most so many that are due; the rest stays due, and audio passes between."""
        for _ in range(most):
            number = self.deadlines.pop(self.now)
            if number is None:
                return
            self._expire(self.by_number[number])

    def held(self, via: Via) -> Allocation | None:
        """What the 5-tuple holds now, whether or not its deadlines had their turn."""
        allocation = self.by_via.get(via)
        if allocation is not None:
            self._expire(allocation)
        return self.by_via.get(via)

    def _expire(self, allocation: Allocation) -> None:
        if allocation.until <= self.now:
            self.close(allocation, "expired" if allocation.is_live else "not_opened")
            return
        shut, unbound = allocation.expire(self.now)
        for ip in shut:
            self.put(Forbid(allocation.number, ip))
        for channel in unbound:
            self.put(Unbind(allocation.number, channel))
        self.watch(allocation)
