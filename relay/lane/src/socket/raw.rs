//! What the kernel's structures look like: addresses, control messages, message headers.
//!
//! Must never live here: system calls, but for asking a socket its address.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::ptr;

/// A socket address of either family. Zero is the unspecified family.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Name {
    family: libc::sa_family_t,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    pub fn empty() -> Self {
        // SAFETY: all fields are integers, for which zero is valid.
        unsafe { mem::zeroed() }
    }

    pub fn of(address: &SocketAddr) -> Self {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                }
            }
            SocketAddr::V6(v6) => {
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo().to_be(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                }
            }
        }
        name
    }

    /// The address that a socket is bound to.
    pub fn of_socket(fd: &impl AsRawFd) -> io::Result<Self> {
        let mut name = Self::empty();
        let mut size = mem::size_of::<Self>() as libc::socklen_t;
        // SAFETY: `name` and `size` are valid for writes, and `size` says how large `name` is.
        super::check(unsafe {
            libc::getsockname(fd.as_raw_fd(), ptr::from_mut(&mut name).cast(), &mut size)
        })?;
        Ok(name)
    }

    pub fn family(&self) -> libc::c_int {
        // SAFETY: every constructor initialises all bytes, and the family is the first field of both forms.
        unsafe { self.family }.into()
    }

    pub fn size(&self) -> libc::socklen_t {
        let size = match self.family() {
            libc::AF_INET => mem::size_of::<libc::sockaddr_in>(),
            _ => mem::size_of::<libc::sockaddr_in6>(),
        };
        size as libc::socklen_t
    }

    /// The address, if the kernel wrote a whole one.
    pub fn address(&self, len: usize) -> Option<SocketAddr> {
        match self.family() {
            libc::AF_INET if len >= mem::size_of::<libc::sockaddr_in>() => {
                // SAFETY: plain integers, all initialised; the family says which form it is.
                let v4 = unsafe { &self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(
                    ip,
                    u16::from_be(v4.sin_port),
                )))
            }
            libc::AF_INET6 if len >= mem::size_of::<libc::sockaddr_in6>() => {
                // SAFETY: as above.
                let v6 = unsafe { &self.v6 };
                let (ip, port) = (
                    Ipv6Addr::from(v6.sin6_addr.s6_addr),
                    u16::from_be(v6.sin6_port),
                );
                let flow = u32::from_be(v6.sin6_flowinfo);
                Some(SocketAddr::V6(SocketAddrV6::new(
                    ip,
                    port,
                    flow,
                    v6.sin6_scope_id,
                )))
            }
            _ => None,
        }
    }
}

/// Room for one control message that carries a segment size: as u16 on the way out, as int on the way in.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
pub struct Control {
    len: usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: [u8; 8],
    spare: [u64; 5],
}

impl Control {
    const HEAD: usize = 16; // cmsghdr on 64-bit Linux: size_t, int, int
    pub const SEND_SIZE: usize = Self::HEAD + 8;

    pub fn set_segment(&mut self, size: u16) {
        self.len = Self::HEAD + mem::size_of::<u16>();
        self.level = libc::SOL_UDP;
        self.kind = libc::UDP_SEGMENT;
        self.value = [0; 8];
        if let Some(head) = self.value.first_chunk_mut() {
            *head = size.to_ne_bytes();
        }
    }

    pub fn segment(&self) -> Option<usize> {
        let is_ours =
            self.level == libc::SOL_UDP && self.kind == libc::UDP_GRO && self.len >= Self::HEAD + 4;
        let size = i32::from_ne_bytes(*self.value.first_chunk()?);
        usize::try_from(size)
            .ok()
            .filter(|&size| is_ours && size > 0)
    }
}

pub fn piece(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast(),
        iov_len: len,
    }
}

pub fn header() -> libc::mmsghdr {
    // SAFETY: integers and pointers, for which zero is valid.
    unsafe { mem::zeroed() }
}
