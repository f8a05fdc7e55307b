//! Claims on runs of blocks: a write is never at the medium together with a command that overlaps it.
//!
//! That is what makes COMPARE AND WRITE atomic (SBC-3 r36 §5.2), it keeps the legs of a mirror equal without the
//! mirror having to order anything, and it keeps a read from showing half of a block: many a disk that is really a file
//! (tgtd's, for one) answers a read in the middle of a write with some bytes of each. Claims are granted in the order
//! they were made, so nobody starves.

/// Name of one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim(u64);

/// Who else may be at the medium with the claimed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Others that claim them shared: for commands that only read.
    Shared,
    /// Nobody: for commands that write.
    Exclusive,
}

#[derive(Debug)]
struct Entry {
    claim: Claim,
    lba: u64,
    end: u64,
    sharing: Sharing,
    granted: bool,
}

impl Entry {
    fn excludes(&self, other: &Self) -> bool {
        let overlap = self.lba < other.end && other.lba < self.end;
        overlap && (self.sharing == Sharing::Exclusive || other.sharing == Sharing::Exclusive)
    }
}

/// Every claim there is, oldest first.
#[derive(Debug, Default)]
pub struct ExtentClaims {
    /// In the order they were made, so by rising claim. BOUND: one entry for each run of blocks of a command.
    entries: Vec<Entry>,
    waiting: usize,
    last: u64,
}

impl ExtentClaims {
    /// Claims blocks `lba..lba + blocks`.
    pub fn claim(&mut self, lba: u64, blocks: u64, sharing: Sharing) -> Claim {
        self.last += 1;
        let claim = Claim(self.last);
        let mut entry = Entry { claim, lba, end: lba.saturating_add(blocks), sharing, granted: false };
        entry.granted = !self.entries.iter().any(|older| older.excludes(&entry));
        self.waiting += usize::from(!entry.granted);
        self.entries.push(entry);
        claim
    }

    /// Whether the claim is granted: nothing older excludes it any more.
    #[must_use]
    pub fn granted(&self, claim: Claim) -> bool {
        self.position(claim).is_some_and(|at| self.entries[at].granted)
    }

    /// Gives a claim up, granted or not. Answers whether somebody else's was granted by that.
    #[must_use]
    pub fn release(&mut self, claim: Claim) -> Released {
        let Some(at) = self.position(claim) else { return Released::Nobody };
        let gone = self.entries.remove(at);
        self.waiting -= usize::from(!gone.granted);
        if self.waiting == 0 {
            return Released::Nobody;
        }
        self.grant_the_next()
    }

    fn position(&self, claim: Claim) -> Option<usize> {
        self.entries.binary_search_by_key(&claim, |entry| entry.claim).ok()
    }

    fn grant_the_next(&mut self) -> Released {
        let mut released = Released::Nobody;
        for at in 0..self.entries.len() {
            if self.entries[at].granted {
                continue;
            }
            let (older, rest) = self.entries.split_at_mut(at);
            let entry = &mut rest[0];
            if !older.iter().any(|older| older.excludes(entry)) {
                entry.granted = true;
                self.waiting -= 1;
                released = Released::Somebody;
            }
        }
        released
    }
}

/// What giving up a claim did to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// No waiting claim was granted.
    Nobody,
    /// At least one was.
    Somebody,
}

#[cfg(test)]
mod tests {
    use super::Sharing::{Exclusive, Shared};
    use super::*;

    #[test]
    fn overlapping_claims_wait_in_order_and_others_pass() {
        let mut claims = ExtentClaims::default();
        let first = claims.claim(0, 8, Exclusive);
        let second = claims.claim(4, 8, Exclusive);
        let behind_second = claims.claim(10, 4, Exclusive);
        let elsewhere = claims.claim(100, 1, Exclusive);
        assert!(claims.granted(first) && claims.granted(elsewhere));
        assert!(!claims.granted(second) && !claims.granted(behind_second));
        assert_eq!(claims.release(first), Released::Somebody);
        assert!(claims.granted(second) && !claims.granted(behind_second));
        assert_eq!(claims.release(second), Released::Somebody);
        assert!(claims.granted(behind_second));
        assert_eq!(claims.release(behind_second), Released::Nobody);
    }

    #[test]
    fn a_waiting_claim_given_up_lets_the_next_pass() {
        let mut claims = ExtentClaims::default();
        let first = claims.claim(0, 4, Exclusive);
        let waiting = claims.claim(0, 12, Exclusive);
        let last = claims.claim(8, 4, Exclusive);
        assert!(!claims.granted(last));
        assert_eq!(claims.release(waiting), Released::Somebody);
        assert!(claims.granted(last) && claims.granted(first));
    }

    #[test]
    fn shared_claims_go_together_and_wait_only_for_exclusive_ones() {
        let mut claims = ExtentClaims::default();
        let reads = [claims.claim(0, 8, Shared), claims.claim(4, 8, Shared)];
        assert!(reads.iter().all(|&read| claims.granted(read)));
        let write = claims.claim(6, 1, Exclusive);
        let behind = claims.claim(0, 8, Shared);
        let beside = claims.claim(20, 8, Shared);
        assert!(claims.granted(beside));
        assert!(!claims.granted(write) && !claims.granted(behind), "a stream of reads must not starve a write");
        assert_eq!(claims.release(reads[0]), Released::Nobody);
        assert_eq!(claims.release(reads[1]), Released::Somebody);
        assert!(claims.granted(write) && !claims.granted(behind));
        assert_eq!(claims.release(write), Released::Somebody);
        assert!(claims.granted(behind));
    }
}
