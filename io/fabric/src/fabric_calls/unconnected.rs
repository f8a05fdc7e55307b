//! Endpoints without connections (`FI_EP_RDM`): peers are names in an address vector. One call of the shim a method.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use super::{
    Completion, CompletionQueue, Domain, Info, Object, Out, Registration, call_failed, checked, load_library, posted,
    uf_read, uf_write,
};
use crate::FabricError;

// SAFETY: the signatures are those of shim/fabric.c.
unsafe extern "C" {
    fn uf_getinfo_unconnected(provider: *const c_char, name: *const c_char, entries: usize, out: Out) -> c_int;
    fn uf_cq_open_polled(domain: *mut c_void, out: Out) -> c_int;
    fn uf_endpoint_unconnected(
        domain: *mut c_void,
        info: *mut c_void,
        av: *mut c_void,
        cq: *mut c_void,
        out: Out,
    ) -> c_int;
    fn uf_endpoint_name(ep: *mut c_void, name: *mut c_void, length: *mut usize) -> c_int;
    fn uf_av_open(domain: *mut c_void, out: Out) -> c_int;
    fn uf_av_insert(av: *mut c_void, name: *const c_char, peer: *mut u64) -> c_int;
}

impl Info {
    /// For endpoints of the `shm` provider whose names begin with `name` and whose queues have `entries` places.
    pub(crate) fn unconnected(name: &str, entries: usize) -> Result<Self, FabricError> {
        load_library()?;
        let name = CString::new(name).expect("our own names have no zero byte");
        let mut raw = ptr::null_mut();
        // SAFETY: strings that end in zero and outlive the call, and a place for the answer.
        let status = unsafe { uf_getinfo_unconnected(c"shm".as_ptr(), name.as_ptr(), entries, &raw mut raw) };
        checked("fi_getinfo", status)?;
        NonNull::new(raw).map(Self).ok_or_else(|| call_failed("fi_getinfo", -61))
    }
}

/// An enabled endpoint with an address vector of one peer.
pub(crate) struct UnconnectedEndpoint {
    // Fields drop in this order: the endpoint before what it uses.
    endpoint: Object,
    peers: Object,
    queue: CompletionQueue,
    peer: Option<u64>,
}

impl UnconnectedEndpoint {
    pub(crate) fn open(domain: &Arc<Domain>, info: &Info) -> Result<Self, FabricError> {
        let mut raw = ptr::null_mut();
        // SAFETY: a live domain and a place for the answer.
        let status = unsafe { uf_cq_open_polled(domain.domain.raw(), &raw mut raw) };
        let queue = Object::new("fi_cq_open", status, raw)?;
        let queue = CompletionQueue { queue, descriptor: -1, domain: domain.clone() };
        raw = ptr::null_mut();
        // SAFETY: as above.
        let status = unsafe { uf_av_open(domain.domain.raw(), &raw mut raw) };
        let peers = Object::new("fi_av_open", status, raw)?;
        raw = ptr::null_mut();
        // SAFETY: live objects and a place for the answer; vector and queue are kept for as long as the endpoint.
        let status = unsafe {
            uf_endpoint_unconnected(domain.domain.raw(), info.0.as_ptr(), peers.raw(), queue.queue.raw(), &raw mut raw)
        };
        let endpoint = Object::new("fi_endpoint", status, raw)?;
        Ok(Self { endpoint, peers, queue, peer: None })
    }

    /// What a peer calls this endpoint.
    pub(crate) fn name(&self) -> Result<String, FabricError> {
        let mut room = [0u8; 256];
        let mut length = room.len();
        // SAFETY: a live endpoint, a buffer and its length.
        let status = unsafe { uf_endpoint_name(self.endpoint.raw(), room.as_mut_ptr().cast(), &raw mut length) };
        checked("fi_getname", status)?;
        let name = CStr::from_bytes_until_nul(&room).unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// Makes the peer known; reads and writes go to it from now on.
    pub(crate) fn meet(&mut self, name: &str) -> Result<(), FabricError> {
        let Ok(name) = CString::new(name) else { return Err(call_failed("fi_av_insert", -22)) };
        let mut peer = 0;
        // SAFETY: a live vector, a string that ends in zero, and a place for the answer.
        let status = unsafe { uf_av_insert(self.peers.raw(), name.as_ptr(), &raw mut peer) };
        checked("fi_av_insert", status)?;
        self.peer = Some(peer);
        Ok(())
    }

    /// The next completion, if there is one; looking also moves the provider on.
    pub(crate) fn look(&self) -> Result<Option<Completion>, FabricError> {
        self.queue.wait(Duration::ZERO)
    }

    /// Posts a read of `length` bytes at the peer's `address` into the start of `into`. `false`: not now.
    pub(crate) fn post_read(
        &self,
        into: &Registration,
        length: usize,
        address: u64,
        key: u64,
        context: usize,
    ) -> Result<bool, FabricError> {
        assert!(length <= into.region.bytes(), "a read fits its buffer");
        let peer = self.peer.ok_or_else(|| call_failed("fi_read", -107))?;
        // SAFETY: the buffer is registered, long enough (asserted), and outlives the endpoint's use of it: whoever owns
        // both closes the endpoint first (`shared_line::SharedLine`).
        let status = unsafe {
            uf_read(
                self.endpoint.raw(),
                into.region.start().cast(),
                length,
                into.descriptor as *mut c_void,
                peer,
                address,
                key,
                context as *mut c_void,
            )
        };
        posted("fi_read", status)
    }

    /// Posts a write of the first `length` bytes of `from` to the peer's `address`. `false`: not now.
    pub(crate) fn post_write(
        &self,
        from: &Registration,
        length: usize,
        address: u64,
        key: u64,
        context: usize,
    ) -> Result<bool, FabricError> {
        assert!(length <= from.region.bytes(), "a write fits its buffer");
        let peer = self.peer.ok_or_else(|| call_failed("fi_write", -107))?;
        // SAFETY: as in `post_read`.
        let status = unsafe {
            uf_write(
                self.endpoint.raw(),
                from.region.start().cast_const().cast(),
                length,
                from.descriptor as *mut c_void,
                peer,
                address,
                key,
                context as *mut c_void,
            )
        };
        posted("fi_write", status)
    }
}
