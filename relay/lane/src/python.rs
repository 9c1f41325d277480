//! The module `relay._lane`: the lane's face to Python, and the only part of the crate that knows Python.
//!
//! Values are turned here and nothing is decided. Locks are held for microseconds, so the interpreter lock
//! stays held but where a thread is waited for. Must never live here: anything a packet passes through.

mod address;
mod front;
mod item;
mod path;
mod relays;

use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use pyo3::exceptions::{PyLookupError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::cid::Cid;
use crate::core::{Core, CoreConfig};
use crate::counters::{named, ByReason};
use crate::desk::{Measure, Missing};
use crate::panics;
use crate::reason::Reason;
use crate::repeats::{Ask, Mode, Rule};
use crate::socket::Marks;
use crate::table::{Rights, Shape};
use crate::work::{Outgoing, Work, MAX_WORKERS};
use crate::worker::{Pacing, Prepared, Workers};

use address::{address_of, socket_address};
use path::Path;
use relays::Relays;

/// The packet path of a node; see `relay.edge.lane.Lane`.
#[pyclass(frozen, module = "relay._lane")]
pub struct Lane {
    core: Arc<Core>,
    /// The loop's own: what it feeds and flushes itself.
    desk: Arc<Mutex<Desk>>,
    front: Mutex<Option<Arc<crate::front::Front>>>,
    workers: Mutex<Option<Workers>>,
    batch_s: f64,
}

struct Desk {
    work: Work,
    /// The packets of the last flush, in case the kernel refuses one.
    flushed: Outgoing,
}

impl From<Missing> for PyErr {
    fn from(missing: Missing) -> Self {
        PyLookupError::new_err(missing.to_string())
    }
}

fn cid(id: &[u8]) -> PyResult<Cid> {
    Cid::new(id).ok_or_else(|| PyValueError::new_err("a connection id of more than 20 bytes"))
}

fn by_name<'py>(py: Python<'py>, counts: &ByReason) -> PyResult<Bound<'py, PyDict>> {
    let all = PyDict::new(py);
    for (name, count) in named(counts) {
        all.set_item(name, count)?;
    }
    Ok(all)
}

/// Seconds since the epoch, for what address tokens say.
fn wall() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// received, accepted, copies, lost, dropped by reason, mended, when first heard
type Closed<'py> = (u64, u64, u64, u64, Bound<'py, PyDict>, u64, Option<f64>);
/// media_in, accepted, copies, sent, queued, dropped by reason, dropped_out by reason
type MediaCounts<'py> = (
    u64,
    u64,
    u64,
    u64,
    i64,
    Bound<'py, PyDict>,
    Bound<'py, PyDict>,
);

#[pymethods]
impl Lane {
    #[new]
    #[pyo3(signature = (*, queue_frames, queue_s, stream_frames, stream_s, burst_s, batch_s))]
    fn new(
        queue_frames: usize,
        queue_s: f64,
        stream_frames: usize,
        stream_s: f64,
        burst_s: f64,
        batch_s: f64,
    ) -> Self {
        let config = CoreConfig {
            queue_frames,
            queue_s,
            stream_frames,
            stream_s,
            burst_s,
            ..CoreConfig::default()
        };
        Self {
            core: Arc::new(Core::new(config)),
            desk: Arc::new(Mutex::new(Desk {
                work: Work::new(MAX_WORKERS - 1), // threads count from 0
                flushed: Outgoing::default(),
            })),
            front: Mutex::new(None),
            workers: Mutex::new(None),
            batch_s,
        }
    }

    // ------------------------------------------------------------ routes

    #[pyo3(signature = (leg, *, pps, up_bps, down_bps))]
    fn open_leg(&self, leg: u64, pps: u64, up_bps: u64, down_bps: u64) {
        let rights = Rights {
            pps,
            up_bps,
            down_bps,
        };
        self.core.open_leg(leg, rights);
    }

    fn close_leg(&self, leg: u64) {
        self.core.close_leg(leg);
    }

    #[pyo3(signature = (leg, flow, *, index, group, watched))]
    fn open_flow(
        &self,
        leg: u64,
        flow: u8,
        index: u32,
        group: bool,
        watched: bool,
    ) -> PyResult<()> {
        self.core.open_flow(leg, flow, index, group)?;
        if watched {
            self.core.watch_flow(leg, flow)?;
        }
        Ok(())
    }

    #[pyo3(signature = (leg, *, second))]
    fn open_trunk(&self, leg: u64, second: bool) -> PyResult<()> {
        Ok(self.core.open_trunk(leg, second)?)
    }

    #[pyo3(signature = (leg, trunk, *, second))]
    fn join_trunk(&self, leg: u64, trunk: u64, second: bool) -> PyResult<()> {
        Ok(self.core.join_trunk(leg, trunk, second)?)
    }

    #[pyo3(signature = (leg, route, *, index, group, pps, up_bps))]
    fn open_route(
        &self,
        leg: u64,
        route: u16,
        index: u32,
        group: bool,
        pps: u64,
        up_bps: u64,
    ) -> PyResult<()> {
        let speaker = Rights {
            pps,
            up_bps,
            down_bps: 0,
        };
        Ok(self.core.open_route(leg, route, index, group, speaker)?)
    }

    fn close_flow<'py>(&self, py: Python<'py>, leg: u64, flow: u16) -> PyResult<Closed<'py>> {
        let counted = self.core.close_flow(leg, flow);
        let dropped = by_name(py, &counted.dropped)?;
        Ok((
            counted.received,
            counted.accepted,
            counted.copies,
            counted.lost,
            dropped,
            counted.mended,
            counted.first,
        ))
    }

    fn flowing(&self, flows: Vec<(u64, u16)>) -> Vec<(u64, u16, f64, u64)> {
        let heard = |(leg, flow): &(u64, u16)| {
            let (since, count) = self.core.heard(*leg, *flow)?;
            Some((*leg, *flow, since, count))
        };
        flows.iter().filter_map(heard).collect()
    }

    fn count_routes(&self, leg: u64, first: u16, most: usize) -> Vec<(u16, u32, u16, u16, u16)> {
        let lines = self.core.count_routes(leg, first, most).into_iter();
        lines
            .map(|line| (line.route, line.newest, line.came, line.missing, line.late))
            .collect()
    }

    fn residence(&self) -> (Vec<u64>, f64) {
        let residence = self.core.counters().residence;
        (residence.counts.to_vec(), residence.seconds())
    }

    #[pyo3(signature = (leg, flow, targets, closed))]
    fn route(
        &self,
        leg: u64,
        flow: u16,
        targets: Vec<(u64, u16)>,
        closed: Option<&str>,
    ) -> PyResult<()> {
        let reason = closed.map(|name| {
            let unknown = || PyValueError::new_err(format!("no such drop reason: {name}"));
            Reason::parse(name).ok_or_else(unknown)
        });
        Ok(self.core.route(leg, flow, &targets, reason.transpose()?)?)
    }

    fn deliver(&self, leg: u64, payload: &[u8], now: f64) -> Option<&'static str> {
        let work = &mut self.desk.lock().work;
        let verdict = self.core.deliver(work, leg, payload, now);
        self.core.finish(work);
        verdict.err().map(Reason::name)
    }

    fn drain<'py>(
        &self,
        py: Python<'py>,
        leg: u64,
        now: f64,
        room: usize,
    ) -> Vec<Bound<'py, PyBytes>> {
        let copies = {
            let work = &mut self.desk.lock().work;
            let copies = self.core.drain(work, leg, now, room);
            self.core.finish(work);
            copies
        };
        let bytes = |copy: &Vec<u8>| PyBytes::new(py, copy);
        copies.iter().map(bytes).collect()
    }

    // ------------------------------------------------------------ repair

    #[pyo3(signature = (leg, *, mode, budget, depth, distances, max_age, ack_slack))]
    #[expect(clippy::too_many_arguments, reason = "one per field of Repair")]
    fn tell_repair(
        &self,
        leg: u64,
        mode: &str,
        budget: f64,
        depth: f64,
        distances: Vec<u32>,
        max_age: f64,
        ack_slack: f64,
    ) -> PyResult<()> {
        let unknown = || PyValueError::new_err(format!("no such mode: {mode}"));
        let rule = Rule {
            mode: Mode::parse(mode).ok_or_else(unknown)?,
            budget,
            depth,
            distances: distances.into(),
            max_age,
            ack_slack,
        };
        self.core.tell_repair(leg, rule);
        Ok(())
    }

    fn shed(&self, classes: u8) {
        self.core.shed(classes);
    }

    fn shape(&self, leg: u64, hold: f64, frames: usize, redundancy: bool) {
        let shape = Shape {
            hold,
            frames,
            redundancy,
        };
        self.core.form(leg, shape);
    }

    fn resend(&self, leg: u64, out: u8, kid: u8, base: u16, bits: u16, now: f64) -> usize {
        let work = &mut self.desk.lock().work;
        let ask = Ask {
            out,
            kid,
            base,
            bits,
        };
        let count = self.core.resend(work, leg, &ask, now);
        self.core.finish(work);
        count
    }

    fn troubled(&self) -> Vec<u64> {
        self.core.troubled()
    }

    fn measure<'py>(
        &self,
        py: Python<'py>,
        legs: Vec<u64>,
        now: f64,
    ) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let measures = self.core.measure(&legs, now);
        let tuple = |one: Measure| {
            let rtt = one
                .rtt
                .map(|rtt| (rtt.latest, rtt.smoothed, rtt.variance, rtt.least));
            let repairs = one.repairs;
            let fields: [Bound<'py, PyAny>; 14] = [
                one.leg.into_pyobject(py)?.into_any(),
                one.fates.acked.into_pyobject(py)?.into_any(),
                one.fates.lost.into_pyobject(py)?.into_any(),
                one.fates.runs.into_pyobject(py)?.into_any(),
                one.fates.bytes_sent.into_pyobject(py)?.into_any(),
                one.fates.bytes_acked.into_pyobject(py)?.into_any(),
                one.ack_delay.into_pyobject(py)?.into_any(),
                one.age.into_pyobject(py)?.into_any(),
                rtt.into_pyobject(py)?.into_any(),
                repairs.acked.into_pyobject(py)?.into_any(),
                repairs.late.into_pyobject(py)?.into_any(),
                repairs.repeats().into_pyobject(py)?.into_any(),
                repairs.bytes.into_pyobject(py)?.into_any(),
                one.mended.into_pyobject(py)?.into_any(),
            ];
            PyTuple::new(py, fields)
        };
        measures.into_iter().map(tuple).collect()
    }

    /// Kept copies and repeats, by what became of them: see `relay.edge.lane.RepairCounters`.
    fn repairs(&self) -> [u64; 11] {
        self.core.counters().repairs.figures().map(|figure| *figure)
    }

    // ------------------------------------------------------------ connections

    fn use_marks(&self, fd: RawFd, count: usize) -> PyResult<()> {
        self.core.use_marks(Marks::map(fd, count)?);
        Ok(())
    }

    fn open_path(&self, leg: u64) -> Path {
        Path::new(self.core.clone(), self.core.open_path(leg))
    }

    fn open_stream(&self, leg: u64) {
        self.core.open_stream(leg);
    }

    fn close_path(&self, leg: u64) {
        self.core.close_path(leg);
    }

    #[pyo3(name = "own")]
    fn own_id(&self, leg: u64, cid: &[u8]) -> PyResult<()> {
        Ok(self.core.own(leg, self::cid(cid)?)?)
    }

    fn disown(&self, cid: &[u8]) -> PyResult<()> {
        self.core.disown(self::cid(cid)?);
        Ok(())
    }

    // ------------------------------------------------------------ packets

    fn receive(
        &self,
        data: &[u8],
        address: &Bound<'_, PyTuple>,
        sock: u16,
        now: f64,
    ) -> PyResult<()> {
        let from = socket_address(address)?;
        let work = &mut self.desk.lock().work;
        self.core.receive(work, data, from, sock, now);
        self.core.judge(work, now, wall());
        self.core.finish(work);
        Ok(())
    }

    fn flush<'py>(&self, py: Python<'py>, now: f64) -> PyResult<Bound<'py, PyList>> {
        let out = {
            let work = &mut self.desk.lock().work;
            self.core.flush(work, now);
            self.core.acks(work, now);
            work.settle_left(now);
            self.core.finish(work);
            mem::take(&mut work.out)
        };
        // No lock is held where Python may collect garbage and run whatever that runs.
        let packets = PyList::empty(py);
        for (bytes, to, sock) in out.iter() {
            packets.append((sock, PyBytes::new(py, bytes), address_of(py, to)?))?;
        }
        self.desk.lock().flushed = out;
        Ok(packets)
    }

    fn unsent(&self, packet: &[u8]) {
        let mut desk = self.desk.lock();
        let Desk { work, flushed } = &mut *desk;
        let index = flushed.iter().position(|(bytes, ..)| bytes == packet);
        self.core.refused(work, flushed, index);
        self.core.finish(work);
    }

    fn next_ack(&self) -> Option<f64> {
        self.desk.lock().work.next_ack()
    }

    fn take<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let items = self.core.take(most);
        items
            .into_iter()
            .map(|item| item::tuple(py, item))
            .collect()
    }

    /// The allocations of TURN.
    fn relays(&self) -> Relays {
        Relays::new(self.core.clone(), self.desk.clone())
    }

    // ------------------------------------------------------------ front and threads

    /// Judge packets of nobody here from now on, with these keys and limits.
    #[pyo3(signature = (**options))]
    fn install_front(&self, options: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let missing = || PyValueError::new_err("a front needs its keys and limits");
        let front = Arc::new(front::make(options.ok_or_else(missing)?)?);
        self.core.install_front(front.clone());
        *self.front.lock() = Some(front);
        Ok(())
    }

    /// Give the front new limits; keys and the memory of used tokens stay.
    #[pyo3(signature = (**options))]
    fn configure_front(&self, options: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let missing = || PyValueError::new_err("a front needs its limits");
        let limits = front::limits(options.ok_or_else(missing)?)?;
        if let Some(front) = self.front.lock().as_ref() {
            front.configure(limits);
        }
        Ok(())
    }

    /// What the loop knows about newcomers; nothing without a front.
    #[pyo3(signature = (*, accepting, half_open, legs_full))]
    fn set_front(&self, accepting: bool, half_open: usize, legs_full: bool) {
        if let Some(front) = self.front.lock().as_ref() {
            front.set(accepting, half_open, legs_full);
        }
    }

    /// A thread for each list of descriptors, the same addresses in the same order in each. They take over from
    /// those that run; when they cannot be had, those go on. Gives why the scheduler grants no short turns.
    fn start(
        &self,
        py: Python<'_>,
        workers: Vec<Vec<RawFd>>,
        event_fd: RawFd,
    ) -> PyResult<Option<String>> {
        let pacing = Pacing {
            batch_s: self.batch_s,
            coalesces: false,
        };
        let prepared = Prepared::new(&self.core, &workers, event_fd, pacing)?;
        let refused = prepared.refused.as_ref().map(ToString::to_string);
        self.stop(py);
        *self.workers.lock() = Some(prepared.run());
        Ok(refused)
    }

    /// End the threads and wait for them; what was counted stays.
    fn stop(&self, py: Python<'_>) {
        let workers = self.workers.lock().take();
        py.detach(|| drop(workers));
    }

    // ------------------------------------------------------------ counted

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<MediaCounts<'py>> {
        let counters = self.core.counters();
        Ok((
            counters.media_in,
            counters.accepted,
            counters.copies,
            counters.copies_sent,
            counters.queued as i64,
            by_name(py, &counters.media_dropped)?,
            by_name(py, &counters.dropped_out)?,
        ))
    }

    fn packets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.core.counters();
        let threads = self.workers.lock().as_ref().map_or(0, Workers::alive);
        let front = PyDict::new(py);
        for (kind, count) in counters.front.iter() {
            front.set_item(kind, count)?;
        }
        let all = PyDict::new(py);
        for (name, count) in [
            ("received", counters.udp_in),
            ("sent", counters.sent),
            ("send_errors", counters.send_errors),
            ("read_errors", counters.read_errors),
            ("waiting", counters.waiting),
            ("taken", counters.taken),
            ("media", counters.media),
            ("relayed", counters.relayed),
            ("batches", counters.batches),
            ("wrong_lane", counters.wrong_lane),
            ("media_lost", counters.media_lost),
            ("notes_lost", counters.notes_lost),
        ] {
            all.set_item(name, count)?;
        }
        all.set_item("threads", threads)?;
        let (panics, place) = panics::seen();
        all.set_item("panics", panics)?;
        all.set_item("panicked_at", place)?;
        all.set_item("front", front)?;
        all.set_item("dropped", by_name(py, &counters.dropped)?)?;
        Ok(all)
    }
}

/// The packet path of the relay, in Rust.
#[pymodule]
mod _lane {
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::panics::count();
        Ok(())
    }

    #[pymodule_export]
    use super::front::Front;
    #[pymodule_export]
    use super::path::Path;
    #[pymodule_export]
    use super::Lane;
    #[pymodule_export]
    use super::Relays;
}
