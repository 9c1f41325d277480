//! The kernel's side of UDP: batches in, batches out, waiting, waking. All of the crate's `unsafe`.
//!
//! ```text
//! Ring     recvmmsg into buffers that are allocated once; UDP_GRO when asked for
//! Sender   sendmmsg; runs of equal packets to one address go as one UDP_SEGMENT message
//! Door     one relayed address, of which there are many: Watch (epoll) tells which have packets, Exit sends
//! Poll     ppoll on the sockets and on the event that ends the thread
//! ```
//!
//! Each call sets every pointer it hands to the kernel from the buffers it borrows, so no pointer outlives a
//! call. Nothing here blocks but `Poll`, nothing allocates after construction, nothing panics.
//! Must never live here: what packets mean.

mod apart;
mod door;
mod marks;
mod prefetch;
mod raw;
mod ring;
mod sender;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::RefCell;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use apart::Apart;
pub use door::{Door, Exit, Ready, Side, Watch};
pub use marks::{Mark, Marks};
pub use prefetch::prefetch;
pub use ring::{Received, Ring};
pub use sender::Sender;

/// Packets per system call. More do not make it cheaper; fewer do make it dearer.
pub const BATCH: usize = 64;

/// One packet to send: its place in an arena, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub start: usize,
    pub len: usize,
    pub to: SocketAddr,
    /// Index of the socket it leaves by: that of the listen address plus a multiple of their number.
    pub sock: u16,
}

/// A UDP socket that somebody else made and bound; ours is a duplicate of its descriptor.
pub struct Socket {
    fd: OwnedFd,
    apart: RefCell<Apart>,
    coalesces: bool,
}

impl Socket {
    /// Take a duplicate of an open descriptor. The options of the socket stay as they are.
    pub fn duplicate(fd: RawFd) -> io::Result<Self> {
        let fd = duplicate(fd)?;
        let can_segment = option(&fd, libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        let socket = Self {
            fd,
            apart: RefCell::default(),
            coalesces: false,
        };
        if !can_segment {
            socket.send_plain();
        }
        Ok(socket)
    }

    /// Let the kernel join packets of one sender (UDP_GRO). It holds for all readers of the socket.
    pub fn coalesce(&mut self, on: bool) -> io::Result<()> {
        set_option(
            &self.fd,
            libc::SOL_UDP,
            libc::UDP_GRO,
            &libc::c_int::from(on),
        )?;
        self.coalesces = on;
        Ok(())
    }

    /// Ask for kernel buffers of so many bytes, both ways; it may grant less.
    pub fn reserve(&self, bytes: u32) {
        for name in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
            let _ = set_option(&self.fd, libc::SOL_SOCKET, name, &bytes);
        }
    }

    /// Whether runs of equal packets to this address leave as one message: not for a minute after one was
    /// refused.
    pub fn segments(&self, to: &SocketAddr) -> bool {
        let apart = self.apart.borrow();
        !apart.holds(to, apart.now())
    }

    /// Send packets one by one for good: for a kernel that cannot do better, and for measuring.
    pub fn send_plain(&self) {
        self.apart.borrow_mut().everywhere(f64::INFINITY);
    }
}

/// An eventfd: a counter that wakes who polls it.
pub struct Event(OwnedFd);

impl Event {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is a new descriptor or -1.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: `fd` was just made and has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Take a duplicate of somebody else's eventfd.
    pub fn duplicate(fd: RawFd) -> io::Result<Self> {
        duplicate(fd).map(Self)
    }

    /// Wake the poller. A counter that is full wakes as well, so errors say nothing.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is valid for reads of its size.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Seconds of CLOCK_MONOTONIC: the clock of Python's `time.monotonic`.
pub fn monotonic() -> f64 {
    // SAFETY: an all-zero timespec is valid.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: `time` is valid for writes; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Let no signal come to the calling thread: they are the interpreter's.
pub fn block_signals() {
    // SAFETY: an all-zero set is valid for `sigfillset` to write; both calls only touch `set` and this thread.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
    }
}

/// Ask the scheduler to run the calling thread in turns of `slice`: a thread of longer turns that has the CPU when
/// this one wakes gives way at once, not at the end of its turn (Linux 6.12 and later; kernels before accept and
/// ignore it). Needs no privilege; a filter of system calls may refuse it.
///
/// And, where that is allowed (RLIMIT_NICE or CAP_SYS_NICE), let it run at `nice`, unless it has a lower value:
/// in the middle of its work it would else give way to a thread that wakes, for as long as that one's turn.
pub fn shorten_turns(slice: Duration, nice: i32) -> io::Result<()> {
    // SAFETY: integers, for which zero is valid.
    let mut wanted: libc::sched_attr = unsafe { mem::zeroed() };
    let size = mem::size_of::<libc::sched_attr>() as libc::c_uint;
    // SAFETY: `wanted` is valid for writes of `size`; thread 0 is the calling one.
    let told = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &mut wanted, size, 0) };
    if told < 0 {
        return Err(io::Error::last_os_error());
    }
    if wanted.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(()); // somebody chose a policy for us: theirs to keep
    }
    wanted.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    let own = wanted.sched_nice;
    wanted.sched_nice = own.min(nice);
    if set_attributes(&wanted).is_ok() {
        return Ok(());
    }
    wanted.sched_nice = own;
    set_attributes(&wanted)
}

fn set_attributes(wanted: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: `wanted` is valid for reads of the size that it names.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, wanted, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for packets, or for the event that ends the wait.
pub struct Poll {
    entries: Vec<libc::pollfd>,
}

impl Poll {
    pub fn new(end: &Event, sockets: &[Socket]) -> Self {
        let fds = std::iter::once(&end.0).chain(sockets.iter().map(|socket| &socket.fd));
        let entry = |fd: &OwnedFd| libc::pollfd {
            fd: fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        Self {
            entries: fds.map(entry).collect(),
        }
    }

    /// Until a packet waits, the event is set or the time is over; None waits for ever.
    pub fn wait(&mut self, timeout: Option<Duration>) {
        let count = self.entries.len();
        self.poll(count, timeout);
    }

    /// Until the event is set or the time is over, whatever packets come.
    pub fn doze(&mut self, timeout: Duration) {
        self.poll(1, Some(timeout));
    }

    /// Do not wait for this socket, until `follow_again`.
    pub fn leave(&mut self, socket: usize) {
        self.turn(socket, |fd| fd >= 0);
    }

    /// Wait for this socket again.
    pub fn follow_again(&mut self, socket: usize) {
        self.turn(socket, |fd| fd < 0);
    }

    /// The kernel passes over negative numbers: their complement is what they were.
    fn turn(&mut self, socket: usize, is_to: impl Fn(RawFd) -> bool) {
        if let Some(entry) = self.entries.get_mut(socket + 1) {
            if is_to(entry.fd) {
                (entry.fd, entry.revents) = (!entry.fd, 0);
            }
        }
    }

    /// Whether the last wait found the event set.
    pub fn has_ended(&self) -> bool {
        self.entries.first().is_some_and(|entry| entry.revents != 0)
    }

    /// Whether the last wait found something (a packet, an error) at this socket.
    pub fn is_ready(&self, socket: usize) -> bool {
        self.entries
            .get(socket + 1)
            .is_some_and(|entry| entry.revents != 0)
    }

    fn poll(&mut self, count: usize, timeout: Option<Duration>) {
        for entry in &mut self.entries {
            entry.revents = 0;
        }
        let time = timeout.map(|time| libc::timespec {
            tv_sec: time.as_secs().min(3600) as libc::time_t,
            tv_nsec: time.subsec_nanos().into(),
        });
        let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        let count = count.min(self.entries.len()) as libc::nfds_t;
        // SAFETY: `entries` holds at least `count` entries, `time` is null or points to a timespec that lives
        // until the end of this function. An error (a signal came) leaves revents 0: the caller tries again.
        unsafe { libc::ppoll(self.entries.as_mut_ptr(), count, time, ptr::null()) };
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a number that is no descriptor is an error.
    let fd = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: `fd` was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` and `size` are valid for writes, and `size` says how large `value` is.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_mut(&mut value).cast(),
            &mut size,
        )
    })?;
    Ok(value)
}

fn set_option<T>(
    fd: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let size = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for reads of `size` bytes; the kernel copies what it keeps.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size,
        )
    })?;
    Ok(())
}
