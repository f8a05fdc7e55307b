//! The foreign interface of this crate: sockets that carry whole frames of one interface (packet(7)), and whole IP packets (raw(7)).
//!
//! They never block: what an interface does not take at once is one announcement of several that is lost.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::frames::{ARP_SENDER_AT, tickle};
use crate::{AddressError, Connection};

/// Bytes of the longest frame that is looked at.
const FRAME_BYTES: usize = 128;

/// Frames of one Ethernet type on one interface.
pub(crate) struct Frames(Socket);

/// Which frames a socket is given, of those with its Ethernet type.
pub(crate) enum Wanted<'a> {
    /// ARP whose sender claims one of these addresses.
    SentBy(&'a [Ipv4Addr]),
    /// None: the socket only sends.
    Nothing,
}

impl Frames {
    /// On the interface with this index.
    pub(crate) fn open(index: i32, kind: u16, wanted: &Wanted<'_>) -> Result<Self, AddressError> {
        let refused = |error| AddressError::system("send and hear ARP on an interface", error);
        let socket = || -> io::Result<Socket> {
            // Without a protocol it hears nothing before the filter is there.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
            socket.attach_filter(&filter(wanted))?;
            socket.set_nonblocking(true)?;
            socket.bind(&link(index, kind)?)?;
            Ok(socket)
        };
        socket().map(Self).map_err(refused)
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.0.send(frame).map(drop)
    }

    /// The next frame, if one is there.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let mut bytes = [0; FRAME_BYTES];
        // Also when the interface went down: there is nothing to hear then.
        let length = io::Read::read(&mut &self.0, &mut bytes).ok()?;
        Some(bytes[..length].to_vec())
    }
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whole IP packets, of both families.
pub(crate) struct Packets {
    v4: Socket,
    /// None on a machine without IPv6.
    v6: Option<Socket>,
}

impl Packets {
    pub(crate) fn open() -> Result<Self, AddressError> {
        let refused = |error| AddressError::system("send packets of other nodes' connections", error);
        // The header comes with each packet (raw(7)), and nothing is received.
        let whole = Some(Protocol::from(libc::IPPROTO_RAW));
        let v4 = Socket::new(Domain::IPV4, Type::RAW, whole).map_err(refused)?;
        v4.set_nonblocking(true).map_err(refused)?;
        let v6 = Socket::new(Domain::IPV6, Type::RAW, whole).ok().filter(|socket| socket.set_nonblocking(true).is_ok());
        Ok(Self { v4, v6 })
    }

    /// Sends a client a segment that fits nothing.
    pub(crate) fn tickle(&self, connection: &Connection) -> io::Result<()> {
        let unfit = || io::Error::from(io::ErrorKind::Unsupported);
        let packet = tickle(connection).ok_or_else(unfit)?;
        let socket = match connection.client.ip() {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or_else(unfit)?,
        };
        // The port is in the packet; raw(7) wants none here.
        let to = SocketAddr::new(connection.client.ip(), 0);
        socket.send_to(&packet, &to.into()).map(drop)
    }
}

/// A classic BPF program: the first 128 bytes of frames that are wanted, nothing of others.
fn filter(wanted: &Wanted<'_>) -> Vec<SockFilter> {
    /// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`.
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let instruction = |code, on_true, on_false, number| SockFilter::new(code, on_true, on_false, number);
    let mut program = Vec::new();
    if let Wanted::SentBy(addresses) = wanted {
        program.push(instruction(LOAD, 0, 0, ARP_SENDER_AT as u32));
        for (at, address) in addresses.iter().enumerate() {
            // Over the comparisons behind this one and the return of nothing.
            let over = u8::try_from(addresses.len() - at).unwrap_or(u8::MAX);
            program.push(instruction(EQUAL, over, 0, u32::from(*address)));
        }
    }
    program.push(instruction(RETURN, 0, 0, 0));
    program.push(instruction(RETURN, 0, 0, FRAME_BYTES as u32));
    program
}

/// `struct sockaddr_ll` of an interface and an Ethernet type.
fn link(index: i32, kind: u16) -> io::Result<SockAddr> {
    // SAFETY: the storage is zeroed, as large as any address and aligned for it; a `sockaddr_ll` of integers is written to its
    // begin, and the length given is that of what was written.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = kind.to_be();
            address.sll_ifindex = index;
            storage.cast::<libc::sockaddr_ll>().write(address);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}
