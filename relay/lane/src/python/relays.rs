//! Allocations as Python sees them: what the loop says about them, and packets carried by hand.
//!
//! Must never live here: what an allocation allows.

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyLookupError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::core::Core;
use crate::reason::Reason;
use crate::relay::{Allowance, Client, Relay};
use crate::traffic::{self, Traffic};

use super::address::{address_of, socket_address};
use super::{by_name, Desk};

/// The allocations of a lane; see `relay.edge.lane.Lane`.
#[pyclass(frozen, module = "relay._lane")]
pub struct Relays {
    core: Arc<Core>,
    desk: Arc<Mutex<Desk>>,
}

/// taken, passed, bytes, waiting, dropped by reason
type Way<'py> = (u64, u64, u64, u64, Bound<'py, PyDict>);

fn way<'py>(py: Python<'py>, way: &traffic::Way) -> PyResult<Way<'py>> {
    let dropped = by_name(py, &way.dropped)?;
    Ok((way.taken, way.passed, way.bytes, way.waiting, dropped))
}

fn ways<'py>(py: Python<'py>, traffic: &Traffic) -> PyResult<(Way<'py>, Way<'py>)> {
    Ok((way(py, &traffic.up)?, way(py, &traffic.down)?))
}

/// 4 or 16 bytes in network order.
fn host(bytes: &[u8]) -> PyResult<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(four.into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes);
    sixteen
        .map(IpAddr::from)
        .map_err(|_| PyValueError::new_err("an address has 4 or 16 bytes"))
}

impl Relays {
    pub(super) fn new(core: Arc<Core>, desk: Arc<Mutex<Desk>>) -> Self {
        Self { core, desk }
    }

    fn get(&self, allocation: u64) -> PyResult<Arc<Relay>> {
        let unknown = || PyLookupError::new_err(format!("no such allocation: {allocation}"));
        self.core.relays.get(allocation).ok_or_else(unknown)
    }

    fn open_for(
        &self,
        allocation: u64,
        client: Client,
        relayed: SocketAddr,
        fd: RawFd,
        allowance: Allowance,
    ) -> PyResult<()> {
        let fd = (fd >= 0).then_some(fd);
        let opened = self
            .core
            .open_relay(allocation, client, relayed, fd, allowance)?;
        opened.map_err(|_| PyValueError::new_err("an allocation has this number or address"))
    }
}

#[pymethods]
impl Relays {
    /// `client`: address and number of the socket it speaks to; None: it is on a stream.
    #[pyo3(signature = (allocation, client, *, relayed, fd, pps, bps))]
    fn open(
        &self,
        allocation: u64,
        client: Option<(Bound<'_, PyTuple>, u16)>,
        relayed: &Bound<'_, PyTuple>,
        fd: RawFd,
        pps: u64,
        bps: u64,
    ) -> PyResult<()> {
        let client = match client {
            Some((address, sock)) => Client::Packets(socket_address(&address)?, sock),
            None => Client::Stream,
        };
        let relayed = socket_address(relayed)?;
        self.open_for(allocation, client, relayed, fd, Allowance { pps, bps })
    }

    /// What went through it: up, down; None: there is none.
    fn close<'py>(
        &self,
        py: Python<'py>,
        allocation: u64,
    ) -> PyResult<Option<(Way<'py>, Way<'py>)>> {
        let closed = self.core.close_relay(allocation);
        closed.map(|traffic| ways(py, &traffic)).transpose()
    }

    fn permit(&self, allocation: u64, ip: &[u8], until: f64) -> PyResult<()> {
        self.get(allocation)?.permit(host(ip)?, until);
        Ok(())
    }

    fn forbid(&self, allocation: u64, ip: &[u8]) -> PyResult<()> {
        let ip = host(ip)?;
        if let Some(relay) = self.core.relays.get(allocation) {
            relay.forbid(ip);
        }
        Ok(())
    }

    fn bind_channel(
        &self,
        allocation: u64,
        channel: u16,
        peer: &Bound<'_, PyTuple>,
        until: f64,
    ) -> PyResult<()> {
        let peer = socket_address(peer)?;
        self.get(allocation)?.bind_channel(channel, peer, until);
        Ok(())
    }

    fn unbind_channel(&self, allocation: u64, channel: u16) {
        if let Some(relay) = self.core.relays.get(allocation) {
            relay.unbind_channel(channel);
        }
    }

    /// STUN packets of strangers are the loop's.
    fn take_stun(&self, yes: bool) {
        self.core.relays.take_stun(yes);
    }

    // ------------------------------------------------------------ packets

    fn carry(&self, allocation: u64, frame: &[u8], now: f64) -> Option<&'static str> {
        let work = &mut self.desk.lock().work;
        let verdict = self.core.relay_from_client(work, allocation, frame, now);
        self.core.finish(work);
        verdict.err().map(Reason::name)
    }

    /// A packet that came by a relayed address that no thread reads.
    fn receive(
        &self,
        allocation: u64,
        data: &[u8],
        address: &Bound<'_, PyTuple>,
        now: f64,
    ) -> PyResult<()> {
        let from = socket_address(address)?;
        if let Some(relay) = self.core.relays.get(allocation) {
            let work = &mut self.desk.lock().work;
            self.core.receive_relay(work, &relay, data, from, now);
            self.core.finish(work);
        }
        Ok(())
    }

    /// Send what the loop carried; what has no socket here is the caller's to send.
    fn flush<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let leaving = mem::take(&mut self.desk.lock().work.leaving);
        let packets = PyList::empty(py);
        let mut refused = 0;
        for packet in &leaving.packets {
            let bytes = leaving.bytes(packet);
            if let Some(door) = &packet.relay.door {
                refused += usize::from(!door.send(bytes, &packet.to));
            } else {
                let to = address_of(py, packet.to)?;
                packets.append((packet.relay.number, PyBytes::new(py, bytes), to))?;
            }
        }
        let work = &mut self.desk.lock().work;
        self.core.unsent_to_peers(work, refused);
        self.core.finish(work);
        Ok(packets)
    }

    /// The kernel did not take a packet that `flush` gave out.
    fn unsent(&self) {
        let work = &mut self.desk.lock().work;
        self.core.unsent_to_peers(work, 1);
        self.core.finish(work);
    }

    // ------------------------------------------------------------ counted

    /// What went through all of them so far: up, down.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<(Way<'py>, Way<'py>)> {
        ways(py, &self.core.counters().relays)
    }
}
