//! Two numbers of a leg in memory that outlives the process: a file that somebody else holds, too.
//!
//! Must never live here: what the numbers mean, and when they are written.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::{check, duplicate};

/// Of a leg: numbers below the first may have been used, and below the second came.
type Pair = [AtomicU64; 2];

/// Places for legs at the beginning of a file.
pub struct Marks {
    pairs: NonNull<Pair>,
    count: usize,
}

// SAFETY: the memory is shared, lives as long as the value, and is touched by atomic operations only.
unsafe impl Send for Marks {}
// SAFETY: as above.
unsafe impl Sync for Marks {}

impl Marks {
    /// Bytes that a place takes.
    pub const SIZE: usize = size_of::<Pair>();

    /// The places of an open file, which must be so long and never be cut.
    pub fn map(fd: RawFd, count: usize) -> io::Result<Arc<Self>> {
        let file = duplicate(fd)?;
        // SAFETY: an all-zero stat is valid for `fstat` to write.
        let mut facts: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: `facts` is valid for writes.
        check(unsafe { libc::fstat(file.as_raw_fd(), &mut facts) })?;
        let size = count.saturating_mul(Self::SIZE);
        if size == 0 || usize::try_from(facts.st_size).unwrap_or(0) < size {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of `size` bytes, anywhere, of an open file that is as long.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                rights,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pairs = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Arc::new(Self { pairs, count }))
    }

    /// A place; None when there are not so many.
    pub fn place(self: &Arc<Self>, place: usize) -> Option<Mark> {
        (place < self.count).then(|| Mark {
            marks: self.clone(),
            place,
        })
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        let size = self.count.saturating_mul(Self::SIZE);
        // SAFETY: this mapping was made in `map`, and no `Mark` of it is left.
        unsafe { libc::munmap(self.pairs.as_ptr().cast(), size) };
    }
}

/// One place, of one leg.
pub struct Mark {
    marks: Arc<Marks>,
    place: usize,
}

impl Mark {
    fn pair(&self) -> &Pair {
        // SAFETY: `place` is below the count of pairs in the mapping (`Marks::place`), a page's start is aligned for
        // them, any bytes are valid ones, and the mapping lives as long as `self.marks`.
        unsafe { self.marks.pairs.add(self.place).as_ref() }
    }

    /// Numbers below this may be used.
    pub fn note_sent(&self, below: u64) {
        self.pair()[0].store(below, Ordering::SeqCst);
    }

    /// Numbers below this may have come.
    pub fn note_came(&self, below: u64) {
        self.pair()[1].store(below, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn file(bytes: u64) -> File {
        let path = std::env::temp_dir().join(format!("marks-{}-{bytes}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn what_a_leg_notes_stands_in_the_file_when_the_leg_is_gone() {
        let file = file(64);
        let marks = Marks::map(file.as_raw_fd(), 4).unwrap();
        let mark = marks.place(2).unwrap();
        drop(marks);
        mark.note_sent(4096);
        mark.note_came(7);
        drop(mark);
        let mut place = [0; 16];
        file.read_exact_at(&mut place, 32).unwrap();
        assert_eq!(place[..8], 4096_u64.to_ne_bytes());
        assert_eq!(place[8..], 7_u64.to_ne_bytes());
    }

    #[test]
    fn a_file_that_is_too_short_and_a_place_beyond_it_are_refused() {
        let file = file(63);
        assert!(Marks::map(file.as_raw_fd(), 4).is_err());
        assert!(Marks::map(file.as_raw_fd(), 0).is_err());
        assert!(Marks::map(-1, 1).is_err());
        assert!(Marks::map(file.as_raw_fd(), 3).unwrap().place(3).is_none());
    }
}
