//! libfabric as safe Rust objects: with its submodule and the mapping in `memory.rs`, the only `unsafe` of this crate. No policy: each method is one call of the C shim.
//!
//! Objects close themselves, and hold what libfabric wants to outlive them: an endpoint its queues and domain, a
//! registration its memory. All of them may be used from several threads because the domain asks for `FI_THREAD_SAFE`.

mod unconnected;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::region::Region;
use crate::{FabricError, Provider};

pub(crate) use unconnected::UnconnectedEndpoint;

/// `FI_EAGAIN`: nothing there yet.
const AGAIN: c_int = 11;
/// `FI_EINTR`.
const INTERRUPTED: c_int = 4;
/// `FI_ETIMEDOUT`: what some providers say at the end of a wait.
const TIMED_OUT: c_int = 110;
/// A connected endpoint's reads and writes name no peer.
const NO_PEER: u64 = 0;
/// Room for private data, as in the shim.
const PRIVATE_BYTES: usize = 64;

#[repr(C)]
struct RawEvent {
    kind: u32,
    error: i32,
    fid: *mut c_void,
    info: *mut c_void,
    length: u32,
    bytes: [u8; PRIVATE_BYTES],
}

#[repr(C)]
struct RawCompletion {
    context: *mut c_void,
    error: i32,
}

type Out = *mut *mut c_void;

// SAFETY: the signatures are those of shim/fabric.c; every object is an opaque pointer to a struct that begins with
// libfabric's `struct fid`.
unsafe extern "C" {
    fn uf_load(why: *mut c_char, room: usize) -> c_int;
    fn uf_getinfo(
        provider: *const c_char,
        node: *const c_char,
        service: *const c_char,
        passive: c_int,
        out: Out,
    ) -> c_int;
    fn uf_freeinfo(info: *mut c_void);
    fn uf_uses_virtual_addresses(info: *const c_void) -> c_int;
    fn uf_fabric(info: *mut c_void, out: Out) -> c_int;
    fn uf_domain(fabric: *mut c_void, info: *mut c_void, out: Out) -> c_int;
    fn uf_eq_open(fabric: *mut c_void, out: Out, descriptor: *mut c_int) -> c_int;
    fn uf_trywait(fabric: *mut c_void, queue: *mut c_void) -> c_int;
    fn uf_eq_read(eq: *mut c_void, out: *mut RawEvent) -> c_int;
    fn uf_passive(fabric: *mut c_void, info: *mut c_void, eq: *mut c_void, out: Out) -> c_int;
    fn uf_passive_name(pep: *mut c_void, address: *mut c_void, length: *mut usize) -> c_int;
    fn uf_reject(pep: *mut c_void, info: *mut c_void, bytes: *const c_void, length: usize) -> c_int;
    fn uf_cq_open(domain: *mut c_void, out: Out, descriptor: *mut c_int) -> c_int;
    fn uf_cq_sread(cq: *mut c_void, timeout_ms: c_int, out: *mut RawCompletion) -> c_int;
    fn uf_cq_signal(cq: *mut c_void) -> c_int;
    fn uf_endpoint(domain: *mut c_void, info: *mut c_void, eq: *mut c_void, cq: *mut c_void, out: Out) -> c_int;
    fn uf_connect(ep: *mut c_void, info: *mut c_void, bytes: *const c_void, length: usize) -> c_int;
    fn uf_accept(ep: *mut c_void, bytes: *const c_void, length: usize) -> c_int;
    fn uf_shutdown(ep: *mut c_void) -> c_int;
    fn uf_register(
        domain: *mut c_void,
        bytes: *mut c_void,
        length: usize,
        kind: c_int,
        requested_key: u64,
        out: Out,
        descriptor: Out,
        key: *mut u64,
    ) -> c_int;
    fn uf_read(
        ep: *mut c_void,
        bytes: *mut c_void,
        length: usize,
        descriptor: *mut c_void,
        peer: u64,
        address: u64,
        key: u64,
        context: *mut c_void,
    ) -> c_int;
    fn uf_write(
        ep: *mut c_void,
        bytes: *const c_void,
        length: usize,
        descriptor: *mut c_void,
        peer: u64,
        address: u64,
        key: u64,
        context: *mut c_void,
    ) -> c_int;
    fn uf_close(object: *mut c_void) -> c_int;
    fn uf_strerror(error: c_int) -> *const c_char;
    fn uf_prefer_providers(names: *const c_char) -> c_int;
}

/// libfabric's text for a positive `fi_errno` value.
pub(crate) fn error_text(code: i32) -> String {
    // SAFETY: the shim, like fi_strerror, returns a static string for any number.
    let text = unsafe { CStr::from_ptr(uf_strerror(code)) };
    text.to_string_lossy().into_owned()
}

fn call_failed(call: &'static str, status: c_int) -> FabricError {
    let code = status.saturating_neg();
    FabricError::Call { call, code, text: error_text(code) }
}

fn checked(call: &'static str, status: c_int) -> Result<(), FabricError> {
    if status == 0 { Ok(()) } else { Err(call_failed(call, status)) }
}

/// An object of libfabric, closed when dropped.
struct Object(NonNull<c_void>);

// SAFETY: the domain is opened with FI_THREAD_SAFE, so libfabric serialises access to its objects; closing happens
// once, in Drop, when no other reference is left.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

impl Object {
    fn new(call: &'static str, status: c_int, raw: *mut c_void) -> Result<Self, FabricError> {
        checked(call, status)?;
        NonNull::new(raw).map(Self).ok_or_else(|| call_failed(call, -22))
    }

    fn raw(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a successful open of libfabric and is closed exactly once.
        let status = unsafe { uf_close(self.raw()) };
        if status != 0 {
            tracing::debug!(text = %error_text(status.saturating_neg()), "closing an object of libfabric failed");
        }
    }
}

/// What `fi_getinfo` found: an address together with the provider's attributes.
pub(crate) struct Info(NonNull<c_void>);

// SAFETY: an fi_info is plain memory that nobody else changes; libfabric only reads it in the calls below.
unsafe impl Send for Info {}

impl Info {
    /// For listening at `address`.
    pub(crate) fn listening(provider: Provider, address: SocketAddr) -> Result<Self, FabricError> {
        Self::find(provider, address, 1)
    }

    /// For connecting to `address`.
    pub(crate) fn connecting(provider: Provider, address: SocketAddr) -> Result<Self, FabricError> {
        Self::find(provider, address, 0)
    }

    fn find(provider: Provider, address: SocketAddr, passive: c_int) -> Result<Self, FabricError> {
        load_library()?;
        let text = |text: String| CString::new(text).expect("addresses and names have no zero byte");
        let name = text(provider.name().to_owned());
        let node = text(address.ip().to_string());
        let service = text(address.port().to_string());
        let mut raw = ptr::null_mut();
        // SAFETY: three strings that end in zero and outlive the call, and a place for the answer.
        let status = unsafe { uf_getinfo(name.as_ptr(), node.as_ptr(), service.as_ptr(), passive, &raw mut raw) };
        if status != 0 {
            return Err(call_failed("fi_getinfo", status));
        }
        NonNull::new(raw).map(Self).ok_or_else(|| call_failed("fi_getinfo", -61))
    }

    /// Whether remote addresses are virtual addresses of the registering process, or count from the region's start.
    pub(crate) fn uses_virtual_addresses(&self) -> bool {
        // SAFETY: the pointer is a live fi_info.
        unsafe { uf_uses_virtual_addresses(self.0.as_ptr()) != 0 }
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: came from fi_getinfo or a connection request, freed once.
        unsafe { uf_freeinfo(self.0.as_ptr()) }
    }
}

/// Loads libfabric, once a process, and has it offer our providers only, unless `FI_PROVIDER` is set.
fn load_library() -> Result<(), FabricError> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        // SAFETY: a static string. setenv races only with getenv in foreign code of other threads: a node starts its
        // interconnect first thing, before it has any, and Rust's own environment calls lock.
        let status = unsafe { uf_prefer_providers(c"tcp,shm,verbs".as_ptr()) };
        if status != 0 {
            tracing::debug!("FI_PROVIDER could not be set; libfabric offers every provider it has");
        }
        let mut why = [0u8; 256];
        // SAFETY: a buffer and its length; the shim ends the text within it. Called once, before any other call.
        let status = unsafe { uf_load(why.as_mut_ptr().cast(), why.len()) };
        let text = CStr::from_bytes_until_nul(&why).unwrap_or_default();
        if status == 0 { Ok(()) } else { Err(text.to_string_lossy().into_owned()) }
    });
    loaded.clone().map_err(FabricError::Missing)
}

/// A fabric: what endpoints and event queues of one provider and network hang on.
pub(crate) struct Fabric(Object);

impl Fabric {
    pub(crate) fn open(info: &Info) -> Result<Arc<Self>, FabricError> {
        let mut raw = ptr::null_mut();
        // SAFETY: a live fi_info and a place for the answer.
        let status = unsafe { uf_fabric(info.0.as_ptr(), &raw mut raw) };
        Ok(Arc::new(Self(Object::new("fi_fabric", status, raw)?)))
    }
}

/// An endpoint's name in events: compared, never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndpointName(usize);

/// News of the connection manager.
pub(crate) enum Event {
    /// The partner wants to connect.
    Requested { request: Info, bytes: Vec<u8> },
    /// Connected, with the other end's private data.
    Connected { endpoint: EndpointName, bytes: Vec<u8> },
    /// The other end is gone.
    Shutdown { endpoint: EndpointName },
    /// A connection failed; a rejection carries private data.
    Failed { endpoint: EndpointName, code: i32, bytes: Vec<u8> },
    /// News we have no use for.
    Other,
}

/// Where the connection manager's news arrive.
pub(crate) struct EventQueue {
    queue: Object,
    descriptor: RawFd,
    fabric: Arc<Fabric>,
}

impl EventQueue {
    pub(crate) fn open(fabric: &Arc<Fabric>) -> Result<Arc<Self>, FabricError> {
        let (mut raw, mut descriptor) = (ptr::null_mut(), -1);
        // SAFETY: a live fabric and two places for the answers.
        let status = unsafe { uf_eq_open(fabric.0.raw(), &raw mut raw, &raw mut descriptor) };
        let queue = Object::new("fi_eq_open", status, raw)?;
        Ok(Arc::new(Self { queue, descriptor, fabric: fabric.clone() }))
    }

    /// The next event, if there is one.
    pub(crate) fn next(&self) -> Result<Option<Event>, FabricError> {
        let mut raw = RawEvent {
            kind: 0,
            error: 0,
            fid: ptr::null_mut(),
            info: ptr::null_mut(),
            length: 0,
            bytes: [0; PRIVATE_BYTES],
        };
        // SAFETY: a live queue and a struct of the shim's layout.
        let status = unsafe { uf_eq_read(self.queue.raw(), &raw mut raw) };
        if status == -AGAIN || status == -INTERRUPTED {
            return Ok(None);
        }
        checked("fi_eq_read", status)?;
        let endpoint = EndpointName(raw.fid as usize);
        let bytes = raw.bytes[..(raw.length as usize).min(PRIVATE_BYTES)].to_vec();
        Ok(Some(match (raw.kind, NonNull::new(raw.info)) {
            (1, Some(info)) => Event::Requested { request: Info(info), bytes },
            (2, _) => Event::Connected { endpoint, bytes },
            (3, _) => Event::Shutdown { endpoint },
            (4, _) => Event::Failed { endpoint, code: raw.error, bytes },
            _ => Event::Other,
        }))
    }

    /// The descriptor that polls readable for news, if it is safe to sleep on it now.
    pub(crate) fn sleepable(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: a live fabric and a queue of it.
        let status = unsafe { uf_trywait(self.fabric.0.raw(), self.queue.raw()) };
        // SAFETY: the descriptor belongs to the queue and is open as long as it lives, which the borrow ensures.
        (status == 0).then(|| unsafe { BorrowedFd::borrow_raw(self.descriptor) })
    }
}

/// A domain: what memory is registered with.
pub(crate) struct Domain {
    domain: Object,
    fabric: Arc<Fabric>,
}

impl Domain {
    pub(crate) fn open(fabric: &Arc<Fabric>, info: &Info) -> Result<Arc<Self>, FabricError> {
        let mut raw = ptr::null_mut();
        // SAFETY: a live fabric, a live fi_info and a place for the answer.
        let status = unsafe { uf_domain(fabric.0.raw(), info.0.as_ptr(), &raw mut raw) };
        Ok(Arc::new(Self { domain: Object::new("fi_domain", status, raw)?, fabric: fabric.clone() }))
    }
}

/// A listening endpoint.
pub(crate) struct Listener {
    listener: Object,
    _queue: Arc<EventQueue>,
}

impl Listener {
    pub(crate) fn open(fabric: &Fabric, info: &Info, queue: &Arc<EventQueue>) -> Result<Self, FabricError> {
        let mut raw = ptr::null_mut();
        // SAFETY: live objects and a place for the answer; the queue is kept for as long as the listener.
        let status = unsafe { uf_passive(fabric.0.raw(), info.0.as_ptr(), queue.queue.raw(), &raw mut raw) };
        Ok(Self { listener: Object::new("fi_listen", status, raw)?, _queue: queue.clone() })
    }

    /// The address it got, `None` if it is none of IPv4 or IPv6.
    pub(crate) fn address(&self) -> Result<Option<SocketAddr>, FabricError> {
        let mut room = [0u8; 128];
        let mut length = room.len();
        // SAFETY: a live endpoint, a buffer and its length.
        let status = unsafe { uf_passive_name(self.listener.raw(), room.as_mut_ptr().cast(), &raw mut length) };
        checked("fi_getname", status)?;
        Ok(socket_address(&room))
    }

    /// Turns a request down, saying why.
    pub(crate) fn reject(&self, request: &Info, bytes: &[u8]) -> Result<(), FabricError> {
        // SAFETY: live objects and a buffer with its length.
        let status = unsafe { uf_reject(self.listener.raw(), request.0.as_ptr(), bytes.as_ptr().cast(), bytes.len()) };
        checked("fi_reject", status)
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
fn socket_address(room: &[u8; 128]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([room[2], room[3]]);
    let ip = match i32::from(u16::from_ne_bytes([room[0], room[1]])) {
        2 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&room[4..8]).ok()?)),
        10 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&room[8..24]).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// How one operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    /// What the operation was posted with.
    pub(crate) context: usize,
    /// 0, or a positive `fi_errno` value.
    pub(crate) code: i32,
}

/// Where operations report their end.
pub(crate) struct CompletionQueue {
    queue: Object,
    descriptor: RawFd,
    domain: Arc<Domain>,
}

impl CompletionQueue {
    pub(crate) fn open(domain: &Arc<Domain>) -> Result<Arc<Self>, FabricError> {
        let (mut raw, mut descriptor) = (ptr::null_mut(), -1);
        // SAFETY: a live domain and two places for the answers.
        let status = unsafe { uf_cq_open(domain.domain.raw(), &raw mut raw, &raw mut descriptor) };
        let queue = Object::new("fi_cq_open", status, raw)?;
        Ok(Arc::new(Self { queue, descriptor, domain: domain.clone() }))
    }

    /// The descriptor that polls readable when the provider has work to do, if it is safe to sleep on it now.
    pub(crate) fn sleepable(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: a live fabric and a queue of it.
        let status = unsafe { uf_trywait(self.domain.fabric.0.raw(), self.queue.raw()) };
        // SAFETY: the descriptor belongs to the queue and is open as long as it lives, which the borrow ensures.
        (status == 0).then(|| unsafe { BorrowedFd::borrow_raw(self.descriptor) })
    }

    /// Waits up to `within` (rounded up to milliseconds) for a completion; being in here also moves the provider on.
    pub(crate) fn wait(&self, within: Duration) -> Result<Option<Completion>, FabricError> {
        let timeout_ms = c_int::try_from(within.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
        let mut raw = RawCompletion { context: ptr::null_mut(), error: 0 };
        // SAFETY: a live queue and a struct of the shim's layout.
        let status = unsafe { uf_cq_sread(self.queue.raw(), timeout_ms, &raw mut raw) };
        if [-AGAIN, -INTERRUPTED, -TIMED_OUT].contains(&status) {
            return Ok(None);
        }
        checked("fi_cq_sread", status)?;
        Ok(Some(Completion { context: raw.context as usize, code: raw.error }))
    }

    /// Ends a wait in another thread early.
    pub(crate) fn wake(&self) {
        // SAFETY: a live queue. A provider without signals answers an error; then the wait ends by its own time limit.
        let _ = unsafe { uf_cq_signal(self.queue.raw()) };
    }
}

/// Memory made known to a domain.
pub(crate) struct Registration {
    _registration: Object,
    descriptor: usize,
    key: u64,
    region: Arc<Region>,
    _domain: Arc<Domain>,
}

/// What registered memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// This side's end of its own reads and writes.
    Local = 0,
    /// The partner reads it.
    PartnerReads = 1,
    /// The partner writes it.
    PartnerWrites = 2,
}

impl Registration {
    pub(crate) fn new(
        domain: &Arc<Domain>,
        region: Arc<Region>,
        purpose: Purpose,
        requested_key: u64,
    ) -> Result<Self, FabricError> {
        let (mut raw, mut descriptor, mut key) = (ptr::null_mut(), ptr::null_mut(), 0);
        // SAFETY: the region is kept by the registration for as long as libfabric knows it, does not move, and is made
        // of atomics, so writes from outside are allowed.
        let status = unsafe {
            uf_register(
                domain.domain.raw(),
                region.start().cast(),
                region.bytes(),
                purpose as c_int,
                requested_key,
                &raw mut raw,
                &raw mut descriptor,
                &raw mut key,
            )
        };
        let registration = Object::new("fi_mr_reg", status, raw)?;
        Ok(Self { _registration: registration, descriptor: descriptor as usize, key, region, _domain: domain.clone() })
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }
}

/// A connected (or connecting) endpoint.
pub(crate) struct Endpoint {
    endpoint: Object,
    queue: Arc<CompletionQueue>,
    _events: Arc<EventQueue>,
    _domain: Arc<Domain>,
}

impl Endpoint {
    /// An enabled endpoint with a completion queue of its own.
    pub(crate) fn open(domain: &Arc<Domain>, info: &Info, events: &Arc<EventQueue>) -> Result<Self, FabricError> {
        let queue = CompletionQueue::open(domain)?;
        let mut raw = ptr::null_mut();
        // SAFETY: live objects and a place for the answer; both queues are kept for as long as the endpoint.
        let status = unsafe {
            uf_endpoint(domain.domain.raw(), info.0.as_ptr(), events.queue.raw(), queue.queue.raw(), &raw mut raw)
        };
        let endpoint = Object::new("fi_endpoint", status, raw)?;
        Ok(Self { endpoint, queue, _events: events.clone(), _domain: domain.clone() })
    }

    pub(crate) fn name(&self) -> EndpointName {
        EndpointName(self.endpoint.raw() as usize)
    }

    pub(crate) fn completions(&self) -> &Arc<CompletionQueue> {
        &self.queue
    }

    /// Starts to connect; [`Event::Connected`] or [`Event::Failed`] tells the end.
    pub(crate) fn connect(&self, info: &Info, bytes: &[u8]) -> Result<(), FabricError> {
        // SAFETY: live objects and a buffer with its length.
        let status = unsafe { uf_connect(self.endpoint.raw(), info.0.as_ptr(), bytes.as_ptr().cast(), bytes.len()) };
        checked("fi_connect", status)
    }

    /// Accepts the request this endpoint was opened with.
    pub(crate) fn accept(&self, bytes: &[u8]) -> Result<(), FabricError> {
        // SAFETY: a live endpoint and a buffer with its length.
        let status = unsafe { uf_accept(self.endpoint.raw(), bytes.as_ptr().cast(), bytes.len()) };
        checked("fi_accept", status)
    }

    /// Says goodbye, so that the other end sees a shutdown and not silence.
    pub(crate) fn shut_down(&self) {
        // SAFETY: a live endpoint. An error means there is nobody to say it to.
        let _ = unsafe { uf_shutdown(self.endpoint.raw()) };
    }

    /// Posts a read of `length` bytes at the partner's `address` into the start of `into`. `false`: queue full.
    pub(crate) fn post_read(
        &self,
        into: &Registration,
        length: usize,
        address: u64,
        key: u64,
        context: usize,
    ) -> Result<bool, FabricError> {
        assert!(length <= into.region.bytes(), "a read fits its buffer");
        // SAFETY: the buffer is registered, long enough (asserted), and outlives the endpoint's use of it: whoever owns
        // both closes the endpoint first (`connected_line::ConnectedLine`).
        let status = unsafe {
            uf_read(
                self.endpoint.raw(),
                into.region.start().cast(),
                length,
                into.descriptor as *mut c_void,
                NO_PEER,
                address,
                key,
                context as *mut c_void,
            )
        };
        posted("fi_read", status)
    }

    /// Posts a write of the first `length` bytes of `from` to the partner's `address`. `false`: queue full.
    pub(crate) fn post_write(
        &self,
        from: &Registration,
        length: usize,
        address: u64,
        key: u64,
        context: usize,
    ) -> Result<bool, FabricError> {
        assert!(length <= from.region.bytes(), "a write fits its buffer");
        // SAFETY: as in `post_read`.
        let status = unsafe {
            uf_write(
                self.endpoint.raw(),
                from.region.start().cast_const().cast(),
                length,
                from.descriptor as *mut c_void,
                NO_PEER,
                address,
                key,
                context as *mut c_void,
            )
        };
        posted("fi_write", status)
    }
}

fn posted(call: &'static str, status: c_int) -> Result<bool, FabricError> {
    if status == -AGAIN { Ok(false) } else { checked(call, status).map(|()| true) }
}
