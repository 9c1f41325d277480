//! Where equal packets cannot leave as one message (UDP_SEGMENT): remembered for a while, since paths change.
//!
//! A refusal costs a system call and no packet. Clients can cause one, by the MTU of their path or by an ICMP
//! message of their own making, so it holds for their address only. Must never live here: system calls.

use std::net::SocketAddr;

use super::monotonic;

/// Seconds until it is tried again: no call notices one refusal a minute.
const MEMORY: f64 = 60.0;
/// Addresses remembered. With more of them the oldest is tried again earlier.
const PLACES: usize = 16;

/// What was refused, and until when that is believed.
#[derive(Default)]
pub struct Apart {
    everywhere: f64,
    places: [Option<(SocketAddr, f64)>; PLACES],
    next: usize,
    /// After this nothing of it holds.
    until: f64,
}

impl Apart {
    /// The time, if it matters.
    pub fn now(&self) -> f64 {
        if self.until > 0.0 {
            monotonic()
        } else {
            0.0
        }
    }

    /// Packets to this address must leave one by one.
    pub fn holds(&self, to: &SocketAddr, now: f64) -> bool {
        let is_place = |place: &Option<(SocketAddr, f64)>| {
            place.is_some_and(|(known, until)| known == *to && now < until)
        };
        now < self.until && (now < self.everywhere || self.places.iter().any(is_place))
    }

    /// The path to this address refused.
    pub fn place(&mut self, to: SocketAddr, now: f64) {
        self.until = self.until.max(now + MEMORY);
        if let Some(place) = self.places.get_mut(self.next) {
            *place = Some((to, now + MEMORY));
        }
        self.next = (self.next + 1) % PLACES;
    }

    /// The device refused.
    pub fn everywhere(&mut self, now: f64) {
        self.everywhere = self.everywhere.max(now + MEMORY);
        self.until = self.until.max(self.everywhere);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn an_address_that_refused_is_tried_again_after_a_minute_and_others_all_the_time() {
        let mut apart = Apart::default();
        assert!(!apart.holds(&address(1), apart.now()));
        apart.place(address(1), 100.0);
        assert!(apart.holds(&address(1), 159.9) && !apart.holds(&address(2), 100.0));
        assert!(!apart.holds(&address(1), 160.0));
        apart.place(address(1), 200.0);
        assert!(apart.holds(&address(1), 259.9));
    }

    #[test]
    fn the_oldest_address_makes_room() {
        let mut apart = Apart::default();
        (0..17).for_each(|port| apart.place(address(port), 100.0));
        assert!(!apart.holds(&address(0), 100.0));
        assert!((1..17).all(|port| apart.holds(&address(port), 100.0)));
    }

    #[test]
    fn a_device_that_refused_is_tried_again_after_a_minute() {
        let mut apart = Apart::default();
        apart.everywhere(100.0);
        assert!(apart.now() > 0.0);
        assert!(apart.holds(&address(1), 159.9) && !apart.holds(&address(1), 160.0));
        apart.everywhere(f64::INFINITY);
        assert!(apart.holds(&address(1), 1e9));
    }
}
