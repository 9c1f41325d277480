#![allow(clippy::unwrap_used)]

use super::*;
use crate::relay::Allowance;

const ALLOWANCE: Allowance = Allowance { pps: 10, bps: 1000 };

fn relay(number: u64, client: &str, relayed: &str) -> Relay {
    let client = Client::Packets(client.parse().unwrap(), 0);
    Relay::new(
        number,
        client,
        relayed.parse().unwrap(),
        None,
        ALLOWANCE,
        0.2,
    )
}

#[test]
fn nothing_of_an_allocation_is_left_when_it_is_removed() {
    let relays = Relays::default();
    let open = |number, client, relayed| {
        let opened = relays.open(relay(number, client, relayed), 0);
        opened.unwrap().is_ok()
    };
    assert!(open(1, "192.0.2.7:5000", "203.0.113.1:50000"));
    assert!(open(2, "192.0.2.8:5000", "203.0.113.1:50001"));
    assert!(!open(3, "192.0.2.8:5000", "203.0.113.1:50002"));
    assert!(!open(3, "192.0.2.9:5000", "203.0.113.1:50001"));
    assert!(!open(2, "192.0.2.9:5000", "203.0.113.1:50002"));
    let client = "192.0.2.7:5000".parse().unwrap();
    assert_eq!(
        relays.of_client(&client, 0).map(|relay| relay.number),
        Some(1)
    );
    assert!(relays.of_client(&client, 1).is_none());
    for number in [1, 2] {
        assert!(relays.remove(number, |sock| sock).is_some());
    }
    assert!(relays.remove(1, |sock| sock).is_none());
    let table = relays.table.read();
    assert!(table.clients.is_empty() && table.relayed.is_empty() && table.hosts.is_empty());
    assert!(relays.is_empty());
}

#[test]
fn a_host_that_holds_relayed_addresses_is_reached_inside_or_not_at_all() {
    let relays = Relays::default();
    let peer = "203.0.113.1:50000".parse().unwrap();
    assert!(matches!(relays.way(peer), Ok(Way::Network(_))));
    let opened = relays.open(relay(1, "192.0.2.7:5000", "203.0.113.1:50000"), 0);
    assert!(opened.unwrap().is_ok());
    assert!(matches!(relays.way(peer), Ok(Way::Inside(other)) if other.number == 1));
    let ssh = "203.0.113.1:22".parse().unwrap();
    assert!(matches!(relays.way(ssh), Err(Reason::NoPermission)));
}
