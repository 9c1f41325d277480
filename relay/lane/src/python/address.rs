//! Socket addresses as Python's `socket` module writes them: (host, port), or with flow info and scope.
//!
//! An IPv4 address that came by an IPv6 socket stays as it is, ::ffff:192.0.2.1: the same spelling both ways.
//! Must never live here: anything else.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// ValueError for what is no address.
pub fn socket_address(address: &Bound<'_, PyTuple>) -> PyResult<SocketAddr> {
    let host: String = address.get_item(0)?.extract()?;
    let port: u16 = address.get_item(1)?.extract()?;
    let unknown = || PyValueError::new_err("neither an IPv4 nor an IPv6 address");
    if address.len() == 2 {
        let ip: Ipv4Addr = host.parse().map_err(|_| unknown())?;
        return Ok((ip, port).into());
    }
    let ip = host.split('%').next().unwrap_or_default(); // a scope is a field of its own
    let ip: Ipv6Addr = ip.parse().map_err(|_| unknown())?;
    let flow_info: u32 = address.get_item(2)?.extract()?;
    let scope: u32 = address.get_item(3)?.extract()?;
    Ok(SocketAddrV6::new(ip, port, flow_info, scope).into())
}

pub fn address_of(py: Python<'_>, address: SocketAddr) -> PyResult<Bound<'_, PyTuple>> {
    let host = address.ip().to_string();
    match address {
        SocketAddr::V4(_) => (host, address.port()).into_pyobject(py),
        SocketAddr::V6(six) => {
            (host, address.port(), six.flowinfo(), six.scope_id()).into_pyobject(py)
        }
    }
}
