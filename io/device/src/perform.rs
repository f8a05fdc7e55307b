//! Commands at the medium, step by step, in chunks where they are long.
//!
//! Between two chunks an aborted command stops: what it wrote so far stays, as the standard allows, and what is left is
//! never written.

use bytes::Bytes;
use understudy_scsi::cdb::{Compare, Deallocate, Pattern, Span};
use understudy_scsi::provisioning::ProvisioningStatus;
use understudy_scsi::sense::{Asc, SenseKey};
use understudy_unit::unit::{Change, Durability as UnitDurability, LogicalUnit, StateRequest, Work};
use understudy_unit::{Completion, NexusId};

use crate::compare::{first_difference, first_difference_from_repeated};
use crate::medium::{Durability, MediumError, Provisioned};
use crate::task::{Holding, Listed};

/// Bytes a long command reads or writes at once: long enough to be efficient, short enough to stop soon.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes a long command zeroes at once; zeroing is mostly bookkeeping.
const ZERO_CHUNK_BYTES: u64 = 256 << 20;

type Done = Result<Completion, MediumError>;

/// Sense data for a failed access.
pub(crate) fn medium_error(core: &LogicalUnit, error: &MediumError) -> Completion {
    match error {
        MediumError::Read { lba } => core.medium_error(SenseKey::MediumError, Asc::UNRECOVERED_READ_ERROR, Some(*lba)),
        MediumError::Write { lba } => core.medium_error(SenseKey::MediumError, Asc::WRITE_ERROR, Some(*lba)),
        MediumError::NoSpace => {
            core.medium_error(SenseKey::DataProtect, Asc::SPACE_ALLOCATION_FAILED_WRITE_PROTECT, None)
        }
        // A fenced unit answers nothing; whoever asks for sense data all the same gets the truth.
        MediumError::Fenced => core.medium_error(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE, None),
    }
}

/// The spans in order, without overlaps: a command must not wait for itself.
pub(crate) fn merged(spans: &[Span]) -> Vec<Span> {
    let mut sorted = spans.to_vec();
    sorted.sort_by_key(|span| span.lba);
    let mut out: Vec<Span> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match out.last_mut() {
            Some(last) if span.lba <= last.lba + last.blocks => {
                last.blocks = last.blocks.max(span.lba + span.blocks - last.lba);
            }
            Some(_) | None => out.push(span),
        }
    }
    out
}

/// Carries out whatever is not a plain read.
pub(crate) async fn run(listed: &Listed, nexus: NexusId, work: Work, holding: Holding, data_out: Bytes) -> Done {
    match work {
        Work::Done(completion) => Ok(completion),
        Work::Read(_) => unreachable!("reads are not carried"),
        Work::Write(span, durability) => {
            let bytes = data_out.slice(..listed.bytes(span.blocks));
            listed.unit.medium.write(span.lba, bytes, medium_durability(durability)).await?;
            Ok(Completion::good())
        }
        Work::WriteAndVerify(span, compare) => {
            let bytes = data_out.slice(..listed.bytes(span.blocks));
            listed.unit.medium.write(span.lba, bytes, Durability::ForceUnitAccess).await?;
            listed.verify(span, compare, &data_out).await
        }
        Work::Verify(span, compare) => listed.verify(span, compare, &data_out).await,
        Work::WriteSame(span, pattern, deallocate) => listed.write_same(span, pattern, deallocate, &data_out).await,
        Work::Unmap(spans) => {
            let ranges = merged(&spans).into_iter().map(|span| (span.lba, span.blocks)).collect();
            listed.unit.medium.unmap(ranges).await?;
            listed.flush_unless_cached().await?;
            Ok(Completion::good())
        }
        Work::CompareAndWrite(span, durability) => listed.compare_and_write(span, durability, &data_out).await,
        Work::OrWrite(span, durability) => listed.or_write(span, durability, &data_out).await,
        Work::LbaStatus { lba, most, allocation } => {
            let stretches = listed.unit.medium.stretches(lba, most).await?;
            let stretches: Vec<_> = stretches.iter().map(|stretch| (stretch.blocks, status(stretch.state))).collect();
            Ok(LogicalUnit::lba_statuses(lba, &stretches, allocation))
        }
        Work::Flush => {
            listed.unit.medium.flush().await?;
            Ok(Completion::good())
        }
        Work::Change(request) => {
            let done = listed.change(nexus, &request).await;
            drop(holding.turn);
            done
        }
    }
}

fn status(state: Provisioned) -> ProvisioningStatus {
    match state {
        Provisioned::Mapped => ProvisioningStatus::Mapped,
        Provisioned::Deallocated => ProvisioningStatus::Deallocated,
    }
}

pub(crate) fn medium_durability(durability: UnitDurability) -> Durability {
    match durability {
        UnitDurability::Cached => Durability::Cached,
        UnitDurability::ForceUnitAccess => Durability::ForceUnitAccess,
    }
}

impl Listed {
    fn block_bytes(&self) -> u64 {
        u64::from(self.unit.core.borrow().geometry().block_bytes)
    }

    pub(crate) fn bytes(&self, blocks: u64) -> usize {
        (blocks * self.block_bytes()) as usize
    }

    /// The span in chunks of `chunk_bytes`, each with its offset in bytes; ends early if the command is aborted.
    fn chunks(&self, span: Span, chunk_bytes: u64) -> impl Iterator<Item = (Span, u64)> + '_ {
        let block_bytes = self.block_bytes();
        let most = (chunk_bytes / block_bytes).max(1);
        let mut done = 0;
        std::iter::from_fn(move || {
            if done >= span.blocks || self.unit.is_aborted(self.task) {
                return None;
            }
            let chunk = Span { lba: span.lba + done, blocks: most.min(span.blocks - done) };
            let offset = done * block_bytes;
            done += chunk.blocks;
            Some((chunk, offset))
        })
    }

    async fn verify(&self, span: Span, compare: Compare, data_out: &Bytes) -> Done {
        for (chunk, offset) in self.chunks(span, CHUNK_BYTES) {
            let found = self.unit.medium.read(chunk.lba, chunk.blocks as u32).await?;
            let difference = match compare {
                Compare::Nothing => None,
                Compare::EveryBlock => first_difference(&found, &data_out[offset as usize..]),
                Compare::OneBlock => first_difference_from_repeated(&found, &data_out[..self.bytes(1)]),
            };
            if let Some(at) = difference {
                return Ok(self.miscompare(offset + at as u64));
            }
        }
        Ok(Completion::good())
    }

    /// SBC-3 r36 §5.2: INFORMATION is the offset of the first byte that differs.
    fn miscompare(&self, offset: u64) -> Completion {
        self.unit.core.borrow().medium_error(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY, Some(offset))
    }

    async fn write_same(&self, span: Span, pattern: Pattern, deallocate: Deallocate, data_out: &Bytes) -> Done {
        let block = match pattern {
            Pattern::Zeroes => None,
            Pattern::DataOut => Some(&data_out[..self.bytes(1)]).filter(|block| block.iter().any(|byte| *byte != 0)),
        };
        match block {
            None => self.zero(span, deallocate).await?,
            Some(block) => self.repeat(span, block).await?,
        }
        self.flush_unless_cached().await?;
        Ok(Completion::good())
    }

    /// What was done without FUA is made durable before the answer if a client has switched the write cache off (SBC-3 r36 §6.5.5,
    /// WCE).
    async fn flush_unless_cached(&self) -> Result<(), MediumError> {
        let caches = self.unit.core.borrow().caches_writes();
        if caches { Ok(()) } else { self.unit.medium.flush().await }
    }

    async fn repeat(&self, span: Span, block: &[u8]) -> Result<(), MediumError> {
        let repeats = (CHUNK_BYTES / self.block_bytes()).min(span.blocks) as usize;
        let full = Bytes::from(block.repeat(repeats));
        for (chunk, _) in self.chunks(span, CHUNK_BYTES) {
            let bytes = full.slice(..self.bytes(chunk.blocks));
            self.unit.medium.write(chunk.lba, bytes, Durability::Cached).await?;
        }
        Ok(())
    }

    async fn zero(&self, span: Span, deallocate: Deallocate) -> Result<(), MediumError> {
        let medium = &self.unit.medium;
        for (chunk, _) in self.chunks(span, ZERO_CHUNK_BYTES) {
            match deallocate {
                Deallocate::Allowed => medium.unmap(vec![(chunk.lba, chunk.blocks)]).await?,
                Deallocate::No => medium.zero(chunk.lba, chunk.blocks).await?,
            }
        }
        Ok(())
    }

    async fn compare_and_write(&self, span: Span, durability: UnitDurability, data_out: &Bytes) -> Done {
        let length = self.bytes(span.blocks);
        let found = self.unit.medium.read(span.lba, span.blocks as u32).await?;
        if let Some(at) = first_difference(&found, &data_out[..length]) {
            return Ok(self.miscompare(at as u64));
        }
        let bytes = data_out.slice(length..2 * length);
        self.unit.medium.write(span.lba, bytes, medium_durability(durability)).await?;
        Ok(Completion::good())
    }

    /// SBC-3 r36 §5.7: what is there and what came, combined bit by bit. In one piece: the claim on the blocks keeps others away
    /// between the read and the write.
    async fn or_write(&self, span: Span, durability: UnitDurability, data_out: &Bytes) -> Done {
        let found = self.unit.medium.read(span.lba, span.blocks as u32).await?;
        let combined: Bytes = found.iter().zip(data_out).map(|(there, came)| there | came).collect();
        self.unit.medium.write(span.lba, combined, medium_durability(durability)).await?;
        Ok(Completion::good())
    }

    /// Plan, keep, commit, wait for what was aborted. See the head of `understudy_unit` for the order.
    async fn change(&self, nexus: NexusId, request: &StateRequest) -> Done {
        let planned = self.unit.core.borrow().plan_change(nexus, self.task, request);
        let change = match planned {
            Ok(change) => change,
            Err(refused) => return Ok(refused),
        };
        let kept = match self.keep(&change).await {
            Ok(kept) => kept,
            Err(MediumError::Fenced) => return Err(MediumError::Fenced),
            Err(MediumError::NoSpace) => return Ok(self.unit.core.borrow().no_room_to_keep(request)),
            Err(MediumError::Read { .. } | MediumError::Write { .. }) => return Ok(self.unit.core.borrow().not_kept()),
        };
        let aborting = self.unit.core.borrow_mut().commit(change, kept);
        self.unit.look_again();
        self.unit.off_medium(&aborting).await;
        Ok(Completion::good())
    }

    /// Keeps what a change asks for, in as many bytes as there is room for; answers what was kept.
    async fn keep(&self, change: &Change) -> Result<Option<Vec<u8>>, MediumError> {
        let all = self.unit.core.borrow().bytes_to_keep(change);
        let Some(all) = all else { return Ok(None) };
        match self.unit.medium.keep_state(all.clone()).await {
            Ok(()) => return Ok(Some(all)),
            Err(MediumError::NoSpace) => (),
            Err(error) => return Err(error),
        }
        let fewest = self.unit.core.borrow().fewest_bytes_to_keep(change);
        match fewest {
            Some(fewest) if fewest.len() < all.len() => {
                self.unit.medium.keep_state(fewest.clone()).await?;
                Ok(Some(fewest))
            }
            // Kept is what is kept already, without the ports still to be told.
            None => Ok(None),
            Some(_) => Err(MediumError::NoSpace),
        }
    }
}
