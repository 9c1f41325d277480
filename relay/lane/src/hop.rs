//! What came on a route since it was counted last: the lines of a hop report (docs/protocol.md, section 14).
//!
//! ```text
//! missing   not there when counted, nor when counted before; or 128 behind the newest
//! late      was told as missing, and came
//! ```
//!
//! The same figures as `relay/edge/hop.py`, which is its oracle. A packet pays nothing for it: all of it is found in
//! what a flow counts anyway. Must never live here: delays, and when anybody counts.

use crate::flow::Flow;

/// One route's line; counts are as large as a report can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    pub route: u16,
    pub newest: u32,
    pub came: u16,
    pub missing: u16,
    pub late: u16,
}

/// Where a route stood when it was counted last.
#[derive(Debug, Default)]
pub struct Told {
    came: u64,
    gone: u64,
    /// Key and counter of the newest.
    newest: Option<(u8, u32)>,
}

impl Told {
    /// Count again; None: nothing came, and nothing more is known to be missing.
    pub fn count(&mut self, route: u16, flow: &Flow) -> Option<Came> {
        let (kid, seen) = flow.newest()?;
        let known = self.newest.filter(|known| known.0 == kid);
        let gone = flow
            .lost()
            .saturating_sub(seen.open_above(known.map(|known| known.1)));
        let came = flow.accepted().saturating_sub(self.came);
        let missing = gone.saturating_sub(self.gone);
        let late = self.gone.saturating_sub(gone);
        (self.came, self.gone) = (flow.accepted(), gone);
        self.newest = Some((kid, seen.highest));
        let line = Came {
            route,
            newest: seen.highest,
            came: clipped(came),
            missing: clipped(missing),
            late: clipped(late),
        };
        ((came, missing, late) != (0, 0, 0)).then_some(line)
    }
}

fn clipped(count: u64) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX)
}
