//! The class `Path`: the handle by which aioquic shares a leg's packet-number space with the lane.
//!
//! Must never live here: arithmetic; it is in crate::path.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::core::{Core, Leg};
use crate::path::{self, Facts};
use crate::rtt::Sample;

use super::address::socket_address;
use super::cid;

/// AEAD key, IV, header protection key.
type KeySet = (Vec<u8>, Vec<u8>, Vec<u8>);

/// One leg's packet-number space; see `relay.edge.path.Path`.
#[pyclass(frozen, module = "relay._lane")]
pub struct Path {
    core: Arc<Core>,
    leg: Arc<Leg>,
}

impl Path {
    pub fn new(core: Arc<Core>, leg: Arc<Leg>) -> Self {
        Self { core, leg }
    }

    fn with<T>(&self, body: impl FnOnce(&mut path::Path) -> T) -> T {
        self.core.with_path(&self.leg, body)
    }
}

#[pymethods]
impl Path {
    // ------------------------------------------------------------ packet numbers

    fn reserve(&self, count: u64) -> u64 {
        self.with(|path| path.reserve(count))
    }

    fn settle(&self, following: u64) {
        self.with(|path| path.settle(following));
    }

    fn slow_done(&self) {
        self.with(path::Path::slow_done);
    }

    fn add(&self, number: u64) {
        self.with(|path| path.add(number));
    }

    fn has(&self, number: u64) -> bool {
        self.with(|path| path.has(number))
    }

    fn ranges(&self) -> Vec<(u64, u64)> {
        self.with(|path| path.ranges().to_vec())
    }

    fn subtract(&self, stop: u64) {
        self.with(|path| path.subtract(stop));
    }

    fn honest(&self, ranges: Vec<(u64, u64)>) -> bool {
        self.with(|path| path.is_honest(&ranges))
    }

    fn acknowledged(&self, ranges: Vec<(u64, u64)>, delay: u64, now: f64) {
        self.core.acknowledged(&self.leg, &ranges, delay, now);
    }

    fn keep(&self, place: usize) -> PyResult<()> {
        let mark = self.core.mark(place);
        let mark = mark.ok_or_else(|| PyValueError::new_err("no such place"))?;
        self.with(|path| path.keep(mark));
        Ok(())
    }

    // ------------------------------------------------------------ facts

    fn rtt(&self) -> Option<(f64, f64, f64, f64)> {
        let sample = self.with(|path| path.rtt.now)?;
        Some((
            sample.latest,
            sample.smoothed,
            sample.variance,
            sample.least,
        ))
    }

    fn set_rtt(&self, latest: f64, smoothed: f64, variance: f64, minimum: f64) {
        let sample = Sample {
            latest,
            smoothed,
            variance,
            least: minimum,
        };
        self.with(|path| path.rtt.now = Some(sample));
    }

    #[pyo3(signature = (suite, phase, recv, send, coming))]
    fn set_keys(
        &self,
        suite: u8,
        phase: u8,
        recv: KeySet,
        send: KeySet,
        coming: (Vec<u8>, Vec<u8>),
    ) -> PyResult<()> {
        let recv = (&recv.0[..], &recv.1[..], &recv.2[..]);
        let send = (&send.0[..], &send.1[..], &send.2[..]);
        let (key, iv) = (&coming.0[..], &coming.1[..]);
        if self.with(|path| {
            path.set_keys(suite, phase, recv, send) && path.expect_keys(suite, key, iv)
        }) {
            Ok(())
        } else {
            Err(PyValueError::new_err("keys that do not fit the suite"))
        }
    }

    fn set_prefix(&self, prefix: &[u8]) -> PyResult<()> {
        let prefix = match prefix {
            [] => None,
            [byte] => Some(*byte),
            _ => return Err(PyValueError::new_err("a prefix has one byte at most")),
        };
        self.with(|path| path.prefix = prefix);
        Ok(())
    }

    #[pyo3(signature = (*, active, host_cid, peer_cid, address, sock, peer_acks))]
    fn set_facts(
        &self,
        active: bool,
        host_cid: &[u8],
        peer_cid: &[u8],
        address: Option<Bound<'_, PyTuple>>,
        sock: u16,
        peer_acks: (u8, f64),
    ) -> PyResult<()> {
        let facts = Facts {
            host_cid: cid(host_cid)?,
            peer_cid: cid(peer_cid)?,
            address: address.as_ref().map(socket_address).transpose()?,
            sock,
            peer_exponent: peer_acks.0,
            peer_ack_delay: peer_acks.1,
        };
        self.with(|path| {
            path.active = active;
            path.facts = facts;
        });
        Ok(())
    }

    // ------------------------------------------------------------ out

    fn room(&self, now: f64) -> bool {
        self.core.has_room(&self.leg, now)
    }

    fn seal<'py>(&self, py: Python<'py>, datagrams: Vec<Vec<u8>>, now: f64) -> Bound<'py, PyBytes> {
        let mut packet = Vec::new();
        let datagrams = datagrams.iter().map(Vec::as_slice);
        // Nothing is appended without keys, or when a thread took the acknowledgement along meanwhile.
        self.with(|path| path.seal(datagrams, now, &mut packet));
        PyBytes::new(py, &packet)
    }

    // ------------------------------------------------------------ properties
    // aioquic reads, compares and sets; a thread may have gone on in between, so these never fall.

    #[getter]
    fn expected(&self) -> u64 {
        self.with(|path| path.expected)
    }

    #[setter]
    fn set_expected(&self, number: u64) {
        self.with(|path| path.came_below(number));
    }

    #[getter]
    fn largest(&self) -> i64 {
        self.with(|path| path.largest)
    }

    #[setter]
    fn set_largest(&self, number: i64) {
        self.with(|path| path.largest = path.largest.max(number));
    }

    #[getter]
    fn largest_at(&self) -> Option<f64> {
        self.with(|path| path.largest_at)
    }

    #[setter]
    fn set_largest_at(&self, when: Option<f64>) {
        self.with(|path| {
            path.largest_at = match (path.largest_at, when) {
                (Some(before), Some(when)) => Some(before.max(when)),
                (before, when) => before.or(when),
            }
        });
    }

    #[getter]
    fn ack_at(&self) -> Option<f64> {
        self.with(|path| path.ack_at)
    }

    #[setter]
    fn set_ack_at(&self, when: Option<f64>) {
        self.with(|path| path.ack_at = when);
    }

    #[getter]
    fn update_asked(&self) -> bool {
        self.with(|path| path.update_asked())
    }

    #[getter]
    fn ack_due(&self) -> Option<f64> {
        self.with(|path| path.ack_due())
    }

    #[getter]
    fn last_heard(&self) -> f64 {
        self.with(|path| path.last_heard)
    }

    #[setter]
    fn set_last_heard(&self, when: f64) {
        self.with(|path| path.last_heard = path.last_heard.max(when));
    }

    #[getter]
    fn outstanding(&self) -> bool {
        self.with(|path| path.outstanding)
    }

    #[setter]
    fn set_outstanding(&self, is: bool) {
        self.with(|path| path.outstanding = is);
    }

    #[getter]
    fn confirmed(&self) -> bool {
        self.with(|path| path.confirmed)
    }

    #[setter]
    fn set_confirmed(&self, is: bool) {
        self.with(|path| path.confirmed = is);
    }

    #[getter]
    fn update_after(&self) -> u64 {
        self.with(|path| path.update_after)
    }

    #[setter]
    fn set_update_after(&self, packets: u64) {
        self.with(|path| path.update_after = packets);
    }

    #[getter]
    fn media_in_flight(&self) -> u64 {
        self.with(|path| path.media_in_flight())
    }

    #[getter]
    fn media_lost(&self) -> u32 {
        self.with(|path| path.lost())
    }

    #[getter]
    fn key_updates(&self) -> u64 {
        self.with(|path| path.key_updates)
    }
}
