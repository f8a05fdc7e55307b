//! The thread that keeps addresses: takes, announces, renews and leaves them, and hears who else claims them.
//!
//! What it hears is looked at before anything is sent. So a process that was stopped while its partner took an address over finds the
//! partner's announcement first, and stays quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::oneshot;

use crate::frames::{ARP, Heard, IPV6, advertisement, announcement, hear, probe};
use crate::netlink::{Interface, Removed, Rtnetlink};
use crate::sockets::{Frames, Packets, Wanted};
use crate::{AddressError, Connection, Contested, HardwareAddress, LIFETIME, ManagedAddress};

/// When an address is announced after it was taken. The first is what clients wait for; the others are for those who lost it, and for
/// switches and hosts that believe a second announcement only. The last is for those who asked while two machines answered: by then the
/// kernel of a partner that was stopped has let go ([`LIFETIME`]).
const ANNOUNCED_AFTER: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(6),
    Duration::from_secs(11),
];

/// Between two questions whether somebody else has an address, once it was announced.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Between two announcements that answer somebody else's claim: as fast as hosts can be expected to follow.
const DEFEND_EVERY: Duration = Duration::from_millis(100);

/// Another one with the same address is nothing to be said aloud for so long: a partner that hands over has it for milliseconds, one
/// that was stopped until its kernel lets go.
const OTHERS_WITHIN: Duration = Duration::from_secs(15);

/// Who was heard before that, and not again since, is gone: two questions would have been answered.
const OTHERS_FORGOTTEN: Duration = Duration::from_secs(25);

/// After somebody else's announcement nothing is announced or renewed for so long: of two nodes the one that took an address last has
/// it, and the other one learns from its disks that it lost, and ends. Several times what that takes.
const QUIET: Duration = Duration::from_secs(3);

/// When clients are tickled: again for segments that were lost.
const TICKLED_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1)];

type Done = oneshot::Sender<Result<(), AddressError>>;

enum Order {
    Take(Vec<ManagedAddress>, Done),
    Leave(Vec<ManagedAddress>, Done),
    Keep,
    Tickle(Vec<Connection>),
}

/// Keeps the addresses of a node. Dropping it leaves them where they are: the kernel lets go of them after [`LIFETIME`].
pub struct Keeper {
    orders: Option<Sender<Order>>,
    wake: Arc<OwnedFd>,
    contested: Arc<Mutex<BTreeSet<Contested>>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Opens what is needed for these addresses, none of which this machine has from then on: an earlier run may have left one.
    ///
    /// # Errors
    /// An interface is missing, or a capability.
    pub fn start(addresses: &[ManagedAddress]) -> Result<Self, AddressError> {
        let rtnetlink = Rtnetlink::open()?;
        let mut interfaces = BTreeMap::new();
        for address in addresses {
            let found = rtnetlink.interface(&address.interface)?;
            if rtnetlink.remove(found.index, address)? == Removed::It {
                tracing::info!(address = %address.address, interface = address.interface, "left by an earlier run: taken off");
            }
            if !interfaces.contains_key(&address.interface) {
                interfaces.insert(address.interface.clone(), Ears::open(found, &address.interface, addresses)?);
            }
        }
        let system = |error: rustix::io::Errno| AddressError::system("make an eventfd", error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system)?;
        let (wake, contested) = (Arc::new(wake), Arc::default());
        let (orders, inbox) = channel();
        let worker = Worker {
            rtnetlink,
            packets: Packets::open()?,
            all: addresses.to_vec(),
            interfaces,
            held: BTreeMap::new(),
            tickles: Vec::new(),
            inbox,
            wake: Arc::clone(&wake),
            contested: Arc::clone(&contested),
        };
        let spawned = std::thread::Builder::new().name("addresses".to_owned()).spawn(move || worker.run());
        let thread = spawned.map_err(|error| AddressError::system("start a thread", error))?;
        Ok(Self { orders: Some(orders), wake, contested, thread: Some(thread) })
    }

    /// Puts addresses on their interfaces and announces them. Done when they can be used; the announcements go on beside.
    ///
    /// # Errors
    /// The interface is gone, or the system refused.
    pub async fn take(&self, addresses: Vec<ManagedAddress>) -> Result<(), AddressError> {
        self.ask(|done| Order::Take(addresses, done)).await
    }

    /// Takes addresses off; done when they are gone.
    ///
    /// # Errors
    /// The interface is gone, or the system refused.
    pub async fn leave(&self, addresses: Vec<ManagedAddress>) -> Result<(), AddressError> {
        self.ask(|done| Order::Leave(addresses, done)).await
    }

    async fn ask(&self, order: impl FnOnce(Done) -> Order) -> Result<(), AddressError> {
        let (done, outcome) = oneshot::channel();
        self.order(order(done));
        outcome.await.unwrap_or(Err(AddressError::Ended))
    }

    /// The node serves: what was taken is kept for another [`LIFETIME`].
    pub fn keep(&self) {
        self.order(Order::Keep);
    }

    /// Tells the clients of a node that died that their connections are no more.
    pub fn tickle(&self, connections: Vec<Connection>) {
        self.order(Order::Tickle(connections));
    }

    /// Addresses kept here that another machine has had for longer than a move takes.
    #[must_use]
    pub fn contested(&self) -> Vec<Contested> {
        self.contested.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn order(&self, order: Order) {
        // If the thread has ended nobody answers, which is what the caller is told.
        let sent = self.orders.as_ref().map(|orders| orders.send(order));
        drop(sent);
        // A full counter means that the thread is about to wake up anyway.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.orders = None;
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which was printed.
            drop(thread.join());
        }
    }
}

/// The sockets of one interface.
struct Ears {
    index: i32,
    arp: Frames,
    neighbours: Frames,
}

impl Ears {
    fn open(found: Interface, name: &str, all: &[ManagedAddress]) -> Result<Self, AddressError> {
        let v4 = all.iter().filter(|one| one.interface == name).filter_map(|one| match one.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let arp = Frames::open(found.index, ARP, &Wanted::SentBy(&v4.collect::<Vec<_>>()))?;
        let neighbours = Frames::open(found.index, IPV6, &Wanted::Nothing)?;
        Ok(Self { index: found.index, arp, neighbours })
    }
}

/// An address that was taken.
struct Held {
    what: ManagedAddress,
    /// None where nothing can be announced.
    hardware: Option<HardwareAddress>,
    since: Instant,
    announced: usize,
    next_question: Instant,
    last_announcement: Option<Instant>,
    /// Somebody else announced it: nothing is sent or renewed before.
    quiet_until: Option<Instant>,
    /// Who else has it, since when, and when that was last heard.
    other: Option<(HardwareAddress, Instant, Instant)>,
}

impl Held {
    fn new(what: ManagedAddress, hardware: Option<HardwareAddress>, now: Instant) -> Self {
        Self {
            what,
            hardware,
            since: now,
            announced: 0,
            next_question: now,
            last_announcement: None,
            quiet_until: None,
            other: None,
        }
    }

    /// When something is to be done for it next.
    fn due(&self) -> Instant {
        let announcement = ANNOUNCED_AFTER.get(self.announced).map(|after| self.since + *after);
        let next = announcement.map_or(self.next_question, |at| at.min(self.next_question));
        self.quiet_until.map_or(next, |until| next.max(until))
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_until.is_some_and(|until| now < until)
    }

    fn announce(&mut self, ears: &Ears, now: Instant) {
        let Some(hardware) = self.hardware else { return };
        self.last_announcement = Some(now);
        let sent = match self.what.address {
            IpAddr::V4(address) => ears.arp.send(&announcement(hardware, address)),
            IpAddr::V6(address) => ears.neighbours.send(&advertisement(hardware, address)),
        };
        if let Err(error) = sent {
            let (address, interface) = (self.what.address, &self.what.interface);
            tracing::warn!(%error, %address, interface, "could not be announced; tried again");
        }
    }

    /// Asks whether somebody else has it. The answer comes as any other frame.
    fn question(&self, ears: &Ears) {
        if let (Some(hardware), IpAddr::V4(address)) = (self.hardware, self.what.address) {
            // An announcement that cannot be sent either is complained about.
            let _ = ears.arp.send(&probe(hardware, address));
        }
    }

    /// Somebody else has it, or says so now.
    fn other_is_heard(&mut self, by: HardwareAddress, heard: Heard, now: Instant) -> Reaction {
        let since = self.other.filter(|(other, ..)| *other == by).map(|(_, since, _)| since);
        if since.is_none() {
            tracing::info!(address = %self.what.address, %by, ?heard, "another machine has this address, too");
        }
        self.other = Some((by, since.unwrap_or(now), now));
        if self.is_quiet(now) {
            return Reaction::Nothing;
        }
        let rested = self.last_announcement.is_none_or(|last| now >= last + DEFEND_EVERY);
        match heard {
            // Once: who stays quiet for ever would let anybody take it.
            Heard::Announced if self.quiet_until.is_none() => {
                self.quiet_until = Some(now + QUIET);
                Reaction::Nothing
            }
            Heard::Announced | Heard::Used if rested => Reaction::Announce,
            Heard::Announced | Heard::Used => Reaction::Nothing,
        }
    }

    /// Who has had it for longer than a move takes.
    fn contested(&self, now: Instant) -> Option<Contested> {
        let (by, since, last) = self.other?;
        let long = last > since + OTHERS_WITHIN && now <= last + OTHERS_FORGOTTEN;
        long.then_some(Contested { address: self.what.address, by })
    }
}

/// What is done about somebody else with an address that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    Nothing,
    Announce,
}

struct Worker {
    rtnetlink: Rtnetlink,
    packets: Packets,
    all: Vec<ManagedAddress>,
    interfaces: BTreeMap<String, Ears>,
    held: BTreeMap<IpAddr, Held>,
    /// Connections to be tickled, since when, and how often it was done.
    tickles: Vec<(Vec<Connection>, Instant, usize)>,
    inbox: Receiver<Order>,
    wake: Arc<OwnedFd>,
    contested: Arc<Mutex<BTreeSet<Contested>>>,
}

impl Worker {
    /// BOUND: ends when the keeper is dropped.
    fn run(mut self) {
        loop {
            self.listen();
            // BOUND: what was ordered so far.
            loop {
                match self.inbox.try_recv() {
                    Ok(order) => self.carry_out(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.do_what_is_due();
            self.note_contested();
            self.sleep();
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            // Who asked may have gone.
            Order::Take(addresses, done) => {
                // All are tried, whatever becomes of one.
                let taken = addresses.into_iter().map(|one| self.take(one));
                drop(done.send(taken.fold(Ok(()), Result::and)));
            }
            Order::Leave(addresses, done) => drop(done.send(self.leave(&addresses))),
            Order::Keep => self.keep(),
            Order::Tickle(connections) => self.tickles.push((connections, Instant::now(), 0)),
        }
    }

    fn take(&mut self, what: ManagedAddress) -> Result<(), AddressError> {
        let found = self.rtnetlink.interface(&what.interface)?;
        // An interface that was removed and made again is another one to the kernel.
        if self.interfaces.get(&what.interface).is_none_or(|ears| ears.index != found.index) {
            self.interfaces.insert(what.interface.clone(), Ears::open(found, &what.interface, &self.all)?);
        }
        self.rtnetlink.add(found.index, &what, LIFETIME)?;
        let now = Instant::now();
        let mut held = Held::new(what, found.hardware, now);
        // Before the answer goes out: a client that comes because of it finds the way.
        held.announce(&self.interfaces[&held.what.interface], now);
        held.announced = 1;
        self.held.insert(held.what.address, held);
        Ok(())
    }

    /// All are tried, whatever becomes of one.
    fn leave(&mut self, addresses: &[ManagedAddress]) -> Result<(), AddressError> {
        let mut outcome = Ok(());
        for what in addresses {
            self.held.remove(&what.address);
            let found = self.rtnetlink.interface(&what.interface);
            let left = found.and_then(|found| self.rtnetlink.remove(found.index, what));
            outcome = outcome.and(left.map(drop));
        }
        outcome
    }

    fn keep(&mut self) {
        let now = Instant::now();
        for held in self.held.values().filter(|held| !held.is_quiet(now)) {
            let Some(ears) = self.interfaces.get(&held.what.interface) else { continue };
            if let Err(error) = self.rtnetlink.add(ears.index, &held.what, LIFETIME) {
                tracing::warn!(%error, address = %held.what.address, "could not be renewed; tried again");
            }
        }
    }

    /// Takes in what was heard.
    fn listen(&mut self) {
        let now = Instant::now();
        for (name, ears) in &self.interfaces {
            // BOUND: what is there; a network that sends faster than this reads has lost its storage anyway.
            while let Some(frame) = ears.arp.next() {
                let Some((address, by, heard)) = hear(&frame) else { continue };
                let held = self.held.get_mut(&IpAddr::V4(address)).filter(|held| held.what.interface == *name);
                let Some(held) = held.filter(|held| held.hardware != Some(by)) else { continue };
                if held.other_is_heard(by, heard, now) == Reaction::Announce {
                    held.announce(ears, now);
                }
            }
        }
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        for held in self.held.values_mut().filter(|held| held.due() <= now) {
            let Some(ears) = self.interfaces.get(&held.what.interface) else { continue };
            if ANNOUNCED_AFTER.get(held.announced).is_some_and(|after| held.since + *after <= now) {
                held.announced += 1;
                held.announce(ears, now);
            }
            held.question(ears);
            held.next_question = now + ASK_EVERY;
            if held.other.is_some_and(|(_, _, last)| now > last + OTHERS_FORGOTTEN) {
                held.other = None;
                held.quiet_until = None;
            }
        }
        for (connections, since, done) in &mut self.tickles {
            if TICKLED_AFTER.get(*done).is_some_and(|after| *since + *after <= now) {
                *done += 1;
                for connection in connections.iter() {
                    if let Err(error) = self.packets.tickle(connection) {
                        tracing::debug!(%error, client = %connection.client, "a client could not be told; tried again");
                    }
                }
            }
        }
        self.tickles.retain(|(_, _, done)| *done < TICKLED_AFTER.len());
    }

    fn note_contested(&self) {
        let now = Instant::now();
        let contested: BTreeSet<_> = self.held.values().filter_map(|held| held.contested(now)).collect();
        let mut noted = self.contested.lock().unwrap_or_else(PoisonError::into_inner);
        for new in contested.difference(&noted) {
            tracing::error!(address = %new.address, by = %new.by, "another machine keeps answering for this address");
        }
        *noted = contested;
    }

    fn sleep(&self) {
        let tickles = self.tickles.iter().filter_map(|(_, since, done)| Some(*since + *TICKLED_AFTER.get(*done)?));
        let next = self.held.values().map(Held::due).chain(tickles).min();
        let within = next.map(|next| next.saturating_duration_since(Instant::now()));
        let limit = within.map(|within| Timespec {
            tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: within.subsec_nanos().into(),
        });
        let mut waits = vec![PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)];
        waits.extend(self.interfaces.values().map(|ears| PollFd::from_borrowed_fd(ears.arp.as_fd(), PollFlags::IN)));
        // An interrupted wait is a short one.
        let _ = poll(&mut waits, limit.as_ref());
        // Nothing to read: nobody woke us.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 0x0b]);

    fn held(now: Instant) -> Held {
        let what = ManagedAddress { address: [10, 0, 0, 11].into(), prefix: 32, interface: "eth1".to_owned() };
        let mut held = Held::new(what, Some(HardwareAddress([2, 0, 0, 0, 0, 0x0a])), now);
        held.last_announcement = Some(now);
        held.announced = 1;
        held
    }

    #[test]
    fn an_address_that_was_announced_elsewhere_later_is_kept_quiet_and_defended_only_if_it_stays() {
        let began = Instant::now();
        let mut held = held(began);
        let announced = began + Duration::from_secs(5);
        assert_eq!(held.other_is_heard(OTHER, Heard::Announced, announced), Reaction::Nothing);
        assert_eq!(held.other_is_heard(OTHER, Heard::Used, announced + QUIET / 2), Reaction::Nothing);
        assert!(held.is_quiet(announced + QUIET / 2));
        assert!(held.due() >= announced + QUIET, "nothing is sent before");
        assert_eq!(held.other_is_heard(OTHER, Heard::Announced, announced + QUIET), Reaction::Announce);
    }

    #[test]
    fn who_only_answers_is_answered_with_an_announcement_now_and_then() {
        let began = Instant::now();
        let mut held = held(began);
        assert_eq!(held.other_is_heard(OTHER, Heard::Used, began + DEFEND_EVERY / 2), Reaction::Nothing);
        assert_eq!(held.other_is_heard(OTHER, Heard::Used, began + DEFEND_EVERY), Reaction::Announce);
    }

    #[test]
    fn another_one_is_an_alarm_only_if_it_stays_and_only_as_long_as_it_is_heard() {
        let began = Instant::now();
        let mut held = held(began);
        held.other_is_heard(OTHER, Heard::Used, began);
        assert_eq!(held.contested(began), None);
        let late = began + OTHERS_WITHIN + Duration::from_secs(1);
        held.other_is_heard(OTHER, Heard::Used, late);
        assert_eq!(held.contested(late), Some(Contested { address: held.what.address, by: OTHER }));
        assert_eq!(held.contested(late + OTHERS_FORGOTTEN + Duration::from_secs(1)), None);
        held.other_is_heard(HardwareAddress([2; 6]), Heard::Used, late);
        assert_eq!(held.contested(late), None, "this one came only now");
    }

    #[test]
    fn a_missing_interface_is_named_before_anything_runs() {
        let address = ManagedAddress { address: [10, 0, 0, 11].into(), prefix: 32, interface: "no-such".to_owned() };
        let refused = Keeper::start(&[address]).err().expect("there is no such interface");
        assert!(matches!(&refused, AddressError::NoInterface(name) if name == "no-such"), "{refused}");
    }
}
