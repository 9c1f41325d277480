//! The front as Python sets it up; and by itself, to be held against its plain twin.
//!
//! Must never live here: a decision.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::core::{Judge, Verdict};
use crate::front::{self, Keys, Limits};

use super::address::socket_address;

/// Make a front of the keyword arguments of `Lane.install_front`.
pub fn make(options: &Bound<'_, PyDict>) -> PyResult<front::Front> {
    let retry: Vec<Vec<u8>> = option(options, "retry_keys")?;
    let cid: Vec<u8> = option(options, "cid_key")?;
    let server_id: [u8; 3] = option(options, "server_id")?;
    let reset: Vec<u8> = option(options, "reset_key")?;
    let keys = Keys {
        retry: &retry,
        cid: &cid,
        server_id,
        reset: &reset,
    };
    front::Front::new(limits(options)?, &keys, option(options, "address_token_s")?)
        .ok_or_else(|| PyValueError::new_err("a key of a wrong size, or no randomness"))
}

/// The limits among keyword arguments; all of them must be there.
pub fn limits(options: &Bound<'_, PyDict>) -> PyResult<Limits> {
    Ok(Limits {
        half_open: option(options, "half_open")?,
        retry_above_half_open: option(options, "retry_above_half_open")?,
        retry_above_initials_per_s: option(options, "retry_above_initials_per_s")?,
        initials_per_source_per_s: option(options, "initials_per_source_per_s")?,
        initials_per_source_burst: option(options, "initials_per_source_burst")?,
        negotiations_per_source_per_s: option(options, "negotiations_per_source_per_s")?,
        negotiations_per_s: option(options, "negotiations_per_s")?,
        resets_per_s: option(options, "resets_per_s")?,
    })
}

fn option<'py, T>(options: &Bound<'py, PyDict>, name: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    let missing = || PyValueError::new_err(format!("a front needs {name}"));
    let value = options.get_item(name)?.ok_or_else(missing)?;
    value
        .extract()
        .map_err(|_| PyValueError::new_err(format!("a front cannot use this {name}")))
}

/// A front without a lane. It has its own random salt, noise and memory of tokens.
#[pyclass(frozen, module = "relay._lane")]
pub struct Front(Arc<front::Front>);

#[pymethods]
impl Front {
    #[new]
    #[pyo3(signature = (**options))]
    fn new(options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let missing = || PyValueError::new_err("a front needs its keys and limits");
        Ok(Self(Arc::new(make(options.ok_or_else(missing)?)?)))
    }

    /// What the loop knows.
    #[pyo3(signature = (*, accepting, half_open, legs_full))]
    fn set(&self, accepting: bool, half_open: usize, legs_full: bool) {
        self.0.set(accepting, half_open, legs_full);
        self.0.admissions(0, usize::MAX);
    }

    /// ("admit", original, retry source or None), ("answer", kind, packet) or ("drop", reason).
    fn judge<'py>(
        &self,
        py: Python<'py>,
        data: &[u8],
        address: &Bound<'_, PyTuple>,
        now: f64,
        wall: f64,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let mut reply = Vec::new();
        let from = socket_address(address)?;
        match self.0.judge(data, from, now, wall, &mut reply) {
            Verdict::Admit {
                original,
                retry_source,
            } => {
                let original = PyBytes::new(py, original.as_slice());
                let source = retry_source.map(|id| PyBytes::new(py, id.as_slice()));
                ("admit", original, source).into_pyobject(py)
            }
            Verdict::Answer(kind) => ("answer", kind, PyBytes::new(py, &reply)).into_pyobject(py),
            Verdict::Drop(reason) => ("drop", reason.name()).into_pyobject(py),
        }
    }
}
