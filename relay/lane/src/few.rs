//! Lists that mostly hold one entry or a few: those lie where the list does, so that a leg is one piece of memory
//! and one look ahead fetches all of it. Must never live here: what is in a list.

use std::mem::size_of;

use smallvec::SmallVec;

/// A list with room for `N` before it allocates.
pub type Few<T, const N: usize> = SmallVec<[T; N]>;

/// Bytes that a list takes beside its struct.
pub fn heap<T, const N: usize>(list: &Few<T, N>) -> usize
where
    [T; N]: smallvec::Array<Item = T>,
{
    if list.spilled() {
        list.capacity().saturating_mul(size_of::<T>())
    } else {
        0
    }
}
