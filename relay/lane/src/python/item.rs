//! What `take` gives to Python. Must never live here: what an item means.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::address::address_of;
use crate::slow::Item;

/// An item as the loop takes it: its kind and what it holds.
pub fn tuple<'py>(py: Python<'py>, item: Item) -> PyResult<Bound<'py, PyTuple>> {
    match item {
        Item::Known {
            leg,
            data,
            from,
            sock,
            at,
        } => {
            let (data, from) = (PyBytes::new(py, &data), address_of(py, from)?);
            ("known", leg, data, from, sock, at).into_pyobject(py)
        }
        Item::Unknown {
            data,
            from,
            sock,
            at,
        } => {
            let (data, from) = (PyBytes::new(py, &data), address_of(py, from)?);
            ("unknown", data, from, sock, at).into_pyobject(py)
        }
        Item::Admit {
            data,
            from,
            sock,
            at,
            original,
            retry_source,
        } => {
            let (data, from) = (PyBytes::new(py, &data), address_of(py, from)?);
            let original = PyBytes::new(py, original.as_slice());
            let source = retry_source.map(|id| PyBytes::new(py, id.as_slice()));
            ("admit", data, from, sock, at, original, source).into_pyobject(py)
        }
        Item::Control { leg, payload, at } => {
            ("control", leg, PyBytes::new(py, &payload), at).into_pyobject(py)
        }
        Item::Gap { leg, flow, gap } => {
            ("gap", leg, flow, gap.kid, gap.newest, gap.missing).into_pyobject(py)
        }
        Item::Ack {
            leg,
            ranges,
            delay,
            at,
        } => ("ack", leg, PyTuple::new(py, ranges)?, delay, at).into_pyobject(py),
        Item::Waiting { leg } => ("waiting", leg).into_pyobject(py),
        Item::Rekey { leg } => ("rekey", leg).into_pyobject(py),
        Item::Broken { leg } => ("broken", leg).into_pyobject(py),
        Item::Stun {
            data,
            from,
            sock,
            at,
        } => {
            let (data, from) = (PyBytes::new(py, &data), address_of(py, from)?);
            ("stun", data, from, sock, at).into_pyobject(py)
        }
        Item::ToClient { relay, data } => {
            ("to_client", relay, PyBytes::new(py, &data)).into_pyobject(py)
        }
    }
}
