//! Telling the processor which memory will be wanted soon.
//!
//! A leg whose turn comes every 20 ms has left the caches by then, and one that is read line by line costs a trip to
//! memory for each. Asked for in one go, and a few packets ahead, the trips overlap. It is advice only: it changes
//! nothing, and an address that is no memory of ours does no harm. Must never live here: which memory that is.

/// Bytes of a cache line.
const LINE: usize = 64;

/// `bytes` from this address on will be read soon. Any address: one that is stale or wrong costs a little time.
#[inline]
pub fn prefetch(address: usize, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..bytes.saturating_add(address % LINE)).step_by(LINE) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        let line = std::ptr::without_provenance((address - address % LINE).wrapping_add(at));
        // SAFETY: the instruction is part of SSE, which every x86-64 has; it reads nothing that a program could
        // see, and raises no fault whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, bytes, LINE);
}
