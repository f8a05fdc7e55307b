//! The owner's side of `shm`: takes rendezvous connections and gives each an endpoint of its own.
//!
//! One thread sleeps on all of them. It moves libfabric on only when a reader asks ([`crate::rendezvous`] says why), and
//! never for a reader that is gone. An endpoint belongs to one connection, because the provider forgets no peer: one
//! endpoint for all would be full after 256 reconnections.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fd::AsFd;

use crate::fabric_calls::{Domain, Fabric, Info, Purpose, Registration, UnconnectedEndpoint};
use crate::greeting::{Greeting, Verdict};
use crate::region::Region;
use crate::rendezvous::{Arrived, HELLO_BYTES, Hello, QUEUE_PLACES, own_name, sweep, take};
use crate::server::{CONNECTIONS_MAX, LANDING_KEY, PAGE_KEY, Shared, judge, remote};
use crate::threads::{calm, sleep_on};
use crate::{FabricError, ServerOptions};

/// The thread that accepts and serves.
pub(crate) struct SharedAcceptor {
    // Fields drop in this order: connections before the memory they use.
    connections: Vec<Connection>,
    listener: TcpListener,
    greeting: Greeting,
    _page: Registration,
    _landing: Registration,
    domain: Arc<Domain>,
    info: Info,
    shared: Arc<Shared>,
}

/// One rendezvous connection.
struct Connection {
    // The reader hears of the end before the memory is gone: within one process the two share one mapping.
    stream: TcpStream,
    endpoint: Option<UnconnectedEndpoint>,
    hello: Vec<u8>,
}

impl SharedAcceptor {
    pub(crate) fn open(
        options: &ServerOptions,
        page: Arc<Region>,
        landing: Arc<Region>,
        shared: Arc<Shared>,
    ) -> Result<(Self, SocketAddr), FabricError> {
        sweep();
        let info = Info::unconnected(&own_name(), QUEUE_PLACES)?;
        let fabric = Fabric::open(&info)?;
        let domain = Domain::open(&fabric, &info)?;
        let virtual_addresses = info.uses_virtual_addresses();
        let page = Registration::new(&domain, page, Purpose::PartnerReads, PAGE_KEY)?;
        let landing = Registration::new(&domain, landing, Purpose::PartnerWrites, LANDING_KEY)?;
        let greeting = Greeting {
            verdict: Verdict::Welcome,
            identity: options.identity,
            page: remote(&page, virtual_addresses),
            landing: remote(&landing, virtual_addresses),
        };
        let failed = |error: std::io::Error| FabricError::System { what: "listen", text: error.to_string() };
        let listener = TcpListener::bind(options.address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let acceptor =
            Self { connections: Vec::new(), listener, greeting, _page: page, _landing: landing, domain, info, shared };
        Ok((acceptor, address))
    }

    /// BOUND: ends when the server is dropped, which sets `stop` and wakes the thread.
    pub(crate) fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let mut descriptors = vec![self.shared.wake.as_fd(), self.listener.as_fd()];
            descriptors.extend(self.connections.iter().map(|connection| connection.stream.as_fd()));
            let ready = sleep_on(&descriptors, None);
            calm(&self.shared.wake);
            self.serve(&ready[2..]);
            if ready[1] {
                self.accept();
            }
            self.shared.connections.store(self.connections.len(), Ordering::Relaxed);
        }
    }

    /// Serves the connections that have news, and forgets those that ended.
    fn serve(&mut self, ready: &[bool]) {
        let mut kept = Vec::with_capacity(self.connections.len());
        for (mut connection, ready) in std::mem::take(&mut self.connections).into_iter().zip(ready) {
            if !ready || self.attend(&mut connection) {
                kept.push(connection);
            }
        }
        self.connections = kept;
    }

    fn accept(&mut self) {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            // Gone again before it was taken, or out of descriptors: the next one tells.
            Err(error) => return tracing::debug!(%error, "interconnect: nothing to accept"),
        };
        if stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).is_err() {
            return;
        }
        if self.connections.len() >= CONNECTIONS_MAX {
            self.connections.remove(0);
        }
        self.connections.push(Connection { stream, endpoint: None, hello: Vec::new() });
    }

    /// Takes what a connection sent; `false` if it has ended.
    fn attend(&self, connection: &mut Connection) -> bool {
        let (mut bytes, mut arrived) = ([0; 512], 0);
        // Everything, so that an end behind it is seen before anything is done for this reader.
        // BOUND: a reader sends one byte an operation, and waits for the operation's end.
        loop {
            match take(&connection.stream, &mut bytes) {
                Arrived::End => return false,
                Arrived::Bytes(0) => break,
                Arrived::Bytes(count) => {
                    let missing = HELLO_BYTES - connection.hello.len();
                    connection.hello.extend(&bytes[..count.min(missing)]);
                    arrived += count;
                }
            }
            if arrived > HELLO_BYTES * 64 {
                return false;
            }
        }
        match &connection.endpoint {
            Some(endpoint) => endpoint.look().is_ok(),
            None if connection.hello.len() == HELLO_BYTES => self.answer(connection),
            None => true,
        }
    }

    /// Answers a hello; `false` if that is the end of it.
    fn answer(&self, connection: &mut Connection) -> bool {
        let caller = Hello::decode(&connection.hello);
        let verdict = judge(&self.greeting, caller.as_ref().map(|hello| hello.greeting));
        tracing::debug!(?verdict, "interconnect: connection request answered");
        let Some(caller) = caller.filter(|_| verdict == Verdict::Welcome) else {
            let refusal = Greeting { verdict, ..Greeting::caller(self.greeting.identity) };
            say(&connection.stream, &Hello { greeting: refusal, endpoint: String::new() });
            return false;
        };
        match self.meet(&caller.endpoint) {
            Ok((endpoint, name)) => {
                connection.endpoint = Some(endpoint);
                say(&connection.stream, &Hello { greeting: self.greeting, endpoint: name })
            }
            Err(error) => {
                tracing::warn!(%error, "interconnect: a connection request could not be answered");
                false
            }
        }
    }

    /// An endpoint that knows its peer before the peer is told its name: the provider trips over a first word from a
    /// peer whose memory it cannot find, and a peer that is gone never speaks.
    fn meet(&self, peer: &str) -> Result<(UnconnectedEndpoint, String), FabricError> {
        let mut endpoint = UnconnectedEndpoint::open(&self.domain, &self.info)?;
        endpoint.meet(peer)?;
        let name = endpoint.name()?;
        Ok((endpoint, name))
    }
}

/// Sends a hello; `false` if it could not be sent whole.
fn say(mut stream: &TcpStream, hello: &Hello) -> bool {
    hello.encode().is_some_and(|bytes| std::io::Write::write_all(&mut stream, &bytes).is_ok())
}
