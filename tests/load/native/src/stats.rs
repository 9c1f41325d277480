//! What a run counted, by group of legs, as JSON. Must never live here: what counts as delivered.

use std::fmt::Write;

const SLICE: u64 = 50_000_000;

#[derive(Default, Clone)]
pub struct Group {
    pub sent: u64,
    pub refused: u64,
    pub delivered: u64,
    pub wrong: u64,
    pub repeated: u64,
    pub unopened: u64,
    pub packets_in: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub acks_in: u64,
    pub acks_out: u64,
    pub other: u64,
    /// Came, and were thrown away unread: what the run was told to lose.
    pub lost: u64,
    /// Delivered, but late to leave here: in no figure of delay.
    pub unjudged: u64,
    delays: Vec<u32>,
    slices: Vec<u32>,
}

impl Group {
    /// A packet took so many nanoseconds; it was sent `at` nanoseconds into the run.
    pub fn delay(&mut self, nanos: u64, at: u64) {
        let units = u32::try_from(nanos / 100).unwrap_or(u32::MAX);
        self.delays.push(units);
        let slice = (at / SLICE) as usize;
        if slice >= self.slices.len() && slice < 1 << 16 {
            self.slices.resize(slice + 1, 0);
        }
        if let Some(worst) = self.slices.get_mut(slice) {
            *worst = units.max(*worst);
        }
    }

    fn write(&mut self, out: &mut String) {
        let counts = [
            ("sent", self.sent),
            ("refused", self.refused),
            ("delivered", self.delivered),
            ("wrong", self.wrong),
            ("repeated", self.repeated),
            ("unopened", self.unopened),
            ("packets_in", self.packets_in),
            ("bytes_in", self.bytes_in),
            ("bytes_out", self.bytes_out),
            ("acks_in", self.acks_in),
            ("acks_out", self.acks_out),
            ("other", self.other),
            ("lost", self.lost),
            ("unjudged", self.unjudged),
        ];
        out.push('{');
        for (name, count) in counts {
            let _ = write!(out, "\"{name}\":{count},");
        }
        self.delays.sort_unstable();
        for (name, share) in [
            ("p50_us", 0.5),
            ("p90_us", 0.9),
            ("p99_us", 0.99),
            ("p999_us", 0.999),
            ("max_us", 1.0),
        ] {
            let at = (share * self.delays.len() as f64) as usize;
            let value = self.delays.get(at.min(self.delays.len().saturating_sub(1)));
            match value {
                Some(units) => write!(out, "\"{name}\":{:.1},", f64::from(*units) / 10.0),
                None => write!(out, "\"{name}\":null,"),
            }
            .unwrap_or_default();
        }
        let slices: Vec<String> = self
            .slices
            .iter()
            .map(|units| (units / 10).to_string())
            .collect();
        let _ = write!(out, "\"worst_us_each_50ms\":[{}]}}", slices.join(","));
    }
}

/// The whole result: wall and CPU seconds of the generator, then each group.
pub fn render(groups: &mut [Group], seconds: f64, cpu: f64) -> String {
    let mut out = format!("{{\"seconds\":{seconds:.6},\"cpu_s\":{cpu:.6},\"groups\":[");
    for (i, group) in groups.iter_mut().enumerate() {
        if i > 0 {
            out.push(',');
        }
        group.write(&mut out);
    }
    out.push_str("]}");
    out
}
