//! System calls: control channel with descriptors, epoll, one send, a batch received, the process's CPU time.
//!
//! Must never live here: what a packet holds.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddrV4;
use std::os::fd::RawFd;
use std::ptr::{null, null_mut};

pub const BATCH: usize = 32;
pub const SIZE: usize = 2048;
const CONTROL: usize = 64;

fn check(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Nanoseconds of a clock.
pub fn clock(id: libc::clockid_t) -> u64 {
    let mut t: libc::timespec = unsafe { zeroed() };
    unsafe { libc::clock_gettime(id, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Wall clock: the one of the kernel's time stamps.
pub fn wall() -> u64 {
    clock(libc::CLOCK_REALTIME)
}

/// CPU time of this process.
pub fn cpu() -> u64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Waits end when asked, not up to 50 us later.
pub fn sharp_timers() {
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1000 as libc::c_ulong) };
}

/// Let the socket talk to one address only, without blocking; `stamps`: the kernel notes arrivals.
pub fn prepare(fd: RawFd, to: SocketAddrV4) -> io::Result<()> {
    let mut addr: libc::sockaddr_in = unsafe { zeroed() };
    addr.sin_family = libc::AF_INET as libc::sa_family_t;
    addr.sin_port = to.port().to_be();
    addr.sin_addr.s_addr = u32::from_ne_bytes(to.ip().octets());
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    check(unsafe { libc::connect(fd, (&raw const addr).cast(), length) })?;
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

/// Turn the kernel's arrival stamps on or off.
pub fn stamps(fd: RawFd, on: bool) {
    let value = libc::c_int::from(on);
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const value).cast(),
            size,
        )
    };
}

/// One packet to the connected peer.
pub fn send(fd: RawFd, data: &[u8]) -> bool {
    let sent = unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_DONTWAIT) };
    usize::try_from(sent) == Ok(data.len())
}

/// Which sockets have something to read.
pub struct Poll {
    fd: RawFd,
    events: Vec<libc::epoll_event>,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })? as RawFd;
        Ok(Self {
            fd,
            events: vec![unsafe { zeroed() }; 512],
        })
    }

    pub fn add(&self, fd: RawFd, key: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: key,
        };
        check(unsafe { libc::epoll_ctl(self.fd, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Keys of readable sockets, after at most so many nanoseconds.
    pub fn wait(&mut self, nanos: u64, keys: &mut Vec<u64>) {
        let time = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as libc::time_t,
            tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
        };
        let most = self.events.len() as libc::c_int;
        let got = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd,
                self.events.as_mut_ptr(),
                most,
                &raw const time,
                null::<libc::sigset_t>(),
                0usize,
            )
        };
        keys.clear();
        let got = usize::try_from(got).unwrap_or(0);
        keys.extend(self.events.iter().take(got).map(|event| event.u64));
    }
}

/// Buffers for a batch of received packets.
pub struct Inbox {
    data: Vec<[u8; SIZE]>,
    control: Vec<[u64; CONTROL / 8]>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Inbox {
    pub fn new() -> Self {
        let mut inbox = Self {
            data: vec![[0; SIZE]; BATCH],
            control: vec![[0; CONTROL / 8]; BATCH],
            vectors: vec![unsafe { zeroed() }; BATCH],
            headers: vec![unsafe { zeroed() }; BATCH],
        };
        for i in 0..BATCH {
            inbox.vectors[i] = libc::iovec {
                iov_base: inbox.data[i].as_mut_ptr().cast(),
                iov_len: SIZE,
            };
            inbox.headers[i].msg_hdr.msg_iov = &raw mut inbox.vectors[i];
            inbox.headers[i].msg_hdr.msg_iovlen = 1;
            inbox.headers[i].msg_hdr.msg_control = inbox.control[i].as_mut_ptr().cast();
        }
        inbox
    }

    /// How many packets were waiting, at most `BATCH`.
    pub fn receive(&mut self, fd: RawFd, stamped: bool) -> usize {
        for header in &mut self.headers {
            header.msg_hdr.msg_controllen = if stamped { CONTROL } else { 0 };
        }
        let flags = libc::MSG_DONTWAIT;
        let got = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                BATCH as u32,
                flags as _,
                null_mut(),
            )
        };
        usize::try_from(got).unwrap_or(0)
    }

    /// Packet `i` of the batch and the wall-clock time of its arrival in the kernel (0: not told).
    pub fn packet(&mut self, i: usize) -> (&mut [u8], u64) {
        let length = self.headers[i].msg_len as usize;
        let mut at = 0;
        if self.headers[i].msg_hdr.msg_controllen > 0 {
            let first = unsafe { libc::CMSG_FIRSTHDR(&raw const self.headers[i].msg_hdr) };
            if !first.is_null() && unsafe { (*first).cmsg_type } == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = unsafe {
                    libc::CMSG_DATA(first)
                        .cast::<libc::timespec>()
                        .read_unaligned()
                };
                at = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
            }
        }
        (&mut self.data[i][..length], at)
    }
}

/// One order of the parent, with the descriptor that came along. `None`: the parent is gone.
pub fn order(channel: RawFd, buffer: &mut [u8]) -> Option<(usize, Option<RawFd>)> {
    let mut control = [0u64; CONTROL / 8];
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let got = unsafe { libc::recvmsg(channel, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(got).ok().filter(|n| *n > 0)?;
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    let has_one = !first.is_null() && unsafe { (*first).cmsg_type } == libc::SCM_RIGHTS;
    let fd = has_one.then(|| unsafe { libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned() });
    Some((length, fd))
}
