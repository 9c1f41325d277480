"""When a listener reports: five times a second while there is something to tell, else once."""

from __future__ import annotations

from client.test_agreement import agreed
from relay.client.reception import Reception
from relay.client.reports import REPORT_S, Reporter
from relay.protocol.datagram import Datagram, FlowReport, LegReport

FLOW = FlowReport(9, 0, 0, 1, 0, 0, 0, 0, 60, 0, 0)


class Told(Reception):
    """Says what it was given to say."""

    flows: tuple[FlowReport, ...] = (FLOW,)

    def flow_reports(self, now: float) -> tuple[FlowReport, ...]:
        return self.flows


class Leg:
    """Keeps what it is given to send."""

    def __init__(self) -> None:
        self.sent: list[Datagram] = []

    def send_control(self, datagram: Datagram) -> None:
        self.sent.append(datagram)


async def test_a_listener_who_misses_nothing_reports_once_a_second_and_else_at_once() -> None:
    leg, reception = Leg(), Told(agreed()[1])
    reporter = Reporter(bytes(16), leg, reception, lambda: True)  # type: ignore[arg-type]  # it sends alone
    now = 100.0

    def reports(looks: int) -> int:
        nonlocal now
        before = len(leg.sent)
        for _ in range(looks):
            now += REPORT_S
            reporter._report(now)
        return len(leg.sent) - before

    assert reports(25) == 5
    reception.flows = (FLOW._replace(map=0b101),)
    assert reports(10) == 10
    reception.flows = (FLOW._replace(map=0b111),)
    assert reports(25) == 5
    reception.flows = ()
    assert reports(25) == 0
    assert all(isinstance(report, LegReport) for report in leg.sent)
