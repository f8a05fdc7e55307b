//! The verifying client against a medium in memory that lies in every way a failover could: it must find each lie, and
//! must not complain about what a real client would take in its stride.
//!
//! The medium lives in one `Arc`, because each login gets a disk of its own while the blocks stay.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, pending};
use understudy_disk::disk::{Disk, DiskError, DiskIdentity, Durability, Extent, Geometry, Link};
use understudy_disk::reservation::Reservations;
use understudy_load::{Route, Verdict, Verifier, VerifierOptions};

const BLOCK: usize = 512;
const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 2048 };
const LIMIT: Duration = Duration::from_secs(20);

/// What is wrong with the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// Nothing.
    None,
    /// Every 50th write is acknowledged and thrown away.
    LosesWrites,
    /// Every 50th write is acknowledged and lands one slot further.
    Misdirects,
    /// Every 50th write lands with its second half missing.
    Tears,
    /// Every 50th command costs the connection; half of the writes lost so were carried out. Every other login is refused.
    DropsConnections,
    /// As above, and the write lands after its repetition and the one that followed it: a stopped node that wakes up.
    WakesUpLate,
    /// Every 50th command fails with MEDIUM ERROR.
    FailsCommands,
    /// Every 50th command is answered by a unit attention.
    Attentions,
    /// The 50th command and every 500th after it are never answered.
    FallsSilent,
    /// After 200 commands nothing can be reached any more.
    Dies,
    /// The second login shows another serial number.
    ChangesIdentity,
}

#[derive(Debug)]
struct Medium {
    lie: Lie,
    commands: u64,
    writes: u64,
    logins: u64,
    blocks: BTreeMap<u64, Vec<u8>>,
    /// Writes of a stopped node: how many more writes pass before each lands.
    late: Vec<(u32, Extent, Bytes)>,
}

impl Medium {
    fn put(&mut self, lba: u64, bytes: &[u8]) {
        for (index, block) in bytes.chunks(BLOCK).enumerate() {
            self.blocks.insert(lba + index as u64, block.to_vec());
        }
    }

    fn get(&self, extent: Extent) -> Bytes {
        let empty = vec![0; BLOCK];
        let lbas = extent.lba()..extent.lba() + u64::from(extent.blocks());
        lbas.flat_map(|lba| self.blocks.get(&lba).unwrap_or(&empty).clone()).collect()
    }

    fn land_late_writes_over(&mut self, extent: Extent) {
        for (left, ..) in self.late.iter_mut().filter(|(_, late, _)| *late == extent) {
            *left -= 1;
        }
        let (landing, waiting): (Vec<_>, Vec<_>) = self.late.drain(..).partition(|(left, ..)| *left == 0);
        self.late = waiting;
        landing.iter().for_each(|(_, extent, bytes)| self.put(extent.lba(), bytes));
    }

    fn write(&mut self, extent: Extent, bytes: &Bytes) -> Result<(), DiskError> {
        self.writes += 1;
        let struck = self.writes.is_multiple_of(50);
        match self.lie {
            Lie::LosesWrites if struck => {}
            Lie::Misdirects if struck => {
                let further = (extent.lba() + u64::from(extent.blocks())) % GEOMETRY.blocks;
                self.put(further, bytes);
            }
            Lie::Tears if struck => {
                let mut torn = self.get(extent).to_vec();
                let half = BLOCK / 2;
                torn[..half].copy_from_slice(&bytes[..half]);
                self.put(extent.lba(), &torn);
            }
            Lie::DropsConnections if struck => {
                if self.writes.is_multiple_of(100) {
                    self.put(extent.lba(), bytes);
                }
                return Err(DiskError::OutcomeUnknown("connection lost".to_owned()));
            }
            Lie::WakesUpLate if struck => {
                // The repetition is the first write to pass, the next one of the slot the second.
                self.late.push((2, extent, bytes.clone()));
                return Err(DiskError::OutcomeUnknown("connection lost".to_owned()));
            }
            Lie::None
            | Lie::LosesWrites
            | Lie::Misdirects
            | Lie::Tears
            | Lie::DropsConnections
            | Lie::WakesUpLate
            | Lie::FailsCommands
            | Lie::Attentions
            | Lie::FallsSilent
            | Lie::Dies
            | Lie::ChangesIdentity => self.put(extent.lba(), bytes),
        }
        self.land_late_writes_over(extent);
        Ok(())
    }

    /// What happens to the next command before it gets to the blocks; `None`: it is never answered.
    fn admit(&mut self) -> Option<Result<(), DiskError>> {
        self.commands += 1;
        let struck = self.commands.is_multiple_of(50);
        match self.lie {
            Lie::FailsCommands if struck => Some(Err(DiskError::CheckCondition { key: 3, asc: 0x1100 })),
            Lie::Attentions if struck => Some(Err(DiskError::CheckCondition { key: 6, asc: 0x2a06 })),
            Lie::FallsSilent if self.commands % 500 == 50 => None,
            Lie::Dies if self.commands > 200 => Some(Err(DiskError::Unreachable("dead".to_owned()))),
            Lie::ChangesIdentity if self.commands == 50 => Some(Err(DiskError::Unreachable("moved".to_owned()))),
            _ => Some(Ok(())),
        }
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Medium>>);

impl Shared {
    fn with<T>(&self, ask: impl FnOnce(&mut Medium) -> T) -> T {
        ask(&mut self.0.lock().expect("no test panics while it holds the medium"))
    }

    async fn admitted(&self) -> Result<(), DiskError> {
        tokio::task::yield_now().await;
        match self.with(Medium::admit) {
            Some(answer) => answer,
            None => pending().await,
        }
    }
}

struct Session {
    medium: Shared,
    login: u64,
}

impl Disk for Session {
    fn name(&self) -> &str {
        "memory"
    }
    fn geometry(&self) -> Result<Geometry, DiskError> {
        Ok(GEOMETRY)
    }
    fn identify(&self) -> LocalBoxFuture<'_, Result<DiskIdentity, DiskError>> {
        let changed = self.login > 1 && self.medium.with(|medium| medium.lie == Lie::ChangesIdentity);
        let serial = if changed { "other" } else { "one" }.to_owned();
        Box::pin(async { Ok(DiskIdentity { product: String::new(), serial, designator: String::new() }) })
    }
    fn probe(&self) -> LocalBoxFuture<'_, Result<Geometry, DiskError>> {
        Box::pin(async { Ok(GEOMETRY) })
    }
    fn admits_reads(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.medium.admitted())
    }
    fn read(&self, extent: Extent) -> LocalBoxFuture<'_, Result<Bytes, DiskError>> {
        Box::pin(async move {
            self.medium.admitted().await?;
            Ok(self.medium.with(|medium| medium.get(extent)))
        })
    }
    fn write(&self, extent: Extent, bytes: Bytes, _: Durability) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            self.medium.admitted().await?;
            self.medium.with(|medium| medium.write(extent, &bytes))
        })
    }
    fn flush(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async { Ok(()) })
    }
    fn link(&self) -> Link {
        Link::Connected { epoch: self.login }
    }
    fn link_changed(&self, _: Link) -> LocalBoxFuture<'_, Link> {
        Box::pin(pending())
    }
    fn reservations(&self) -> Option<&dyn Reservations> {
        None
    }
}

impl Route for Shared {
    fn connect(&self) -> LocalBoxFuture<'_, Result<Rc<dyn Disk>, DiskError>> {
        Box::pin(async move {
            let login = self.with(|medium| {
                medium.logins += 1;
                medium.logins
            });
            if self.with(|medium| medium.lie == Lie::DropsConnections) && login.is_multiple_of(2) {
                return Err(DiskError::Unreachable("refused".to_owned()));
            }
            Ok(Rc::new(Session { medium: self.clone(), login }) as Rc<dyn Disk>)
        })
    }
}

/// Runs the client on a medium with this lie until `enough` commands were completed or tried.
fn verdict_on(lie: Lie) -> (Verdict, Shared) {
    let (blocks, late) = (BTreeMap::new(), Vec::new());
    let medium = Shared(Arc::new(Mutex::new(Medium { lie, commands: 0, writes: 0, logins: 0, blocks, late })));
    let options = VerifierOptions {
        depth: 4,
        command_bytes: 1024,
        span_bytes: 64 * 1024,
        command_deadline: Duration::from_millis(20),
        ..VerifierOptions::default()
    };
    let shared = medium.clone();
    let verifier =
        Verifier::start_on("memory", options, move || vec![Rc::new(shared) as Rc<dyn Route>]).expect("a thread");
    let patience = Instant::now() + LIMIT;
    while medium.with(|medium| medium.commands) < 4000 && Instant::now() < patience {
        if lie == Lie::Dies && verifier.progress().connection_losses > 0 {
            break;
        }
        std::thread::yield_now();
    }
    let limit = if lie == Lie::Dies { Duration::from_millis(50) } else { LIMIT };
    (verifier.finish(limit), medium)
}

#[test]
fn an_honest_medium_passes() {
    let (verdict, medium) = verdict_on(Lie::None);
    assert!(verdict.holds(), "{verdict:?}");
    assert!(verdict.acknowledged_writes > 1000 && verdict.verified_reads > 500, "{verdict:?}");
    assert_eq!(verdict.acknowledged_writes, medium.with(|medium| medium.writes));
    assert_eq!(verdict.backward_reads, 0);
}

#[test]
fn a_lost_write_is_found() {
    let (verdict, _) = verdict_on(Lie::LosesWrites);
    assert!(verdict.lost_writes > 0 && !verdict.holds(), "{verdict:?}");
}

#[test]
fn a_misdirected_write_is_found() {
    let (verdict, _) = verdict_on(Lie::Misdirects);
    assert!(verdict.lost_writes > 0 && !verdict.holds(), "{verdict:?}");
}

#[test]
fn a_torn_block_is_found() {
    let (verdict, _) = verdict_on(Lie::Tears);
    assert!(verdict.violations.iter().any(|what| what.contains("damaged")), "{verdict:?}");
}

#[test]
fn a_late_write_of_an_older_session_is_found() {
    let (verdict, _) = verdict_on(Lie::WakesUpLate);
    assert!(verdict.lost_writes > 0 && !verdict.holds(), "{verdict:?}");
}

#[test]
fn lost_connections_are_survived_without_a_failed_command() {
    let (verdict, _) = verdict_on(Lie::DropsConnections);
    assert!(verdict.holds(), "{verdict:?}");
    assert!(verdict.connection_losses > 5, "{verdict:?}");
}

#[test]
fn a_failed_command_is_counted_and_tried_again() {
    let (verdict, medium) = verdict_on(Lie::FailsCommands);
    assert!(!verdict.holds(), "{verdict:?}");
    assert_eq!(verdict.failed_commands, medium.with(|medium| medium.commands / 50));
    assert_eq!((verdict.lost_writes, verdict.connection_losses, verdict.unverified_slots), (0, 0, 0), "{verdict:?}");
}

#[test]
fn a_unit_attention_is_no_failure() {
    let (verdict, _) = verdict_on(Lie::Attentions);
    assert!(verdict.holds(), "{verdict:?}");
    assert_eq!(verdict.connection_losses, 0);
}

#[test]
fn a_command_without_an_answer_costs_the_connection_and_nothing_else() {
    let (verdict, _) = verdict_on(Lie::FallsSilent);
    assert!(verdict.holds(), "{verdict:?}");
    assert!(verdict.connection_losses > 0, "{verdict:?}");
    assert!(verdict.longest_pause >= Duration::from_millis(15), "{verdict:?}");
}

#[test]
fn what_cannot_be_read_back_is_not_called_safe() {
    let (verdict, _) = verdict_on(Lie::Dies);
    assert!(verdict.unverified_slots > 0 && !verdict.holds(), "{verdict:?}");
    assert_eq!(verdict.lost_writes, 0);
}

#[test]
fn a_lun_that_became_another_is_found() {
    let (verdict, _) = verdict_on(Lie::ChangesIdentity);
    assert!(!verdict.holds(), "{verdict:?}");
    assert!(verdict.violations.iter().any(|what| what.contains("other")), "{verdict:?}");
}
