//! Claims on runs of blocks: a write is never at the medium together with a command that overlaps it.
//!
//! That is what makes COMPARE AND WRITE atomic (SBC-3 r36 §5.2), it keeps the legs of a mirror equal without the
//! mirror having to order anything, and it keeps a read from showing half of a block: many a disk that is really a file
//! (tgtd's, for one) answers a read in the middle of a write with some bytes of each. Claims are granted in the order
//! they were made, so nobody starves.

use crate::intervals::{Intervals, NOBODY};

/// Name of one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    age: u64,
    slot: u32,
}

/// Who else may be at the medium with the claimed blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Others that claim them shared: for commands that only read.
    Shared,
    /// Nobody: for commands that write.
    Exclusive,
}

/// Claims that are simply looked through, one after the other: for so few that is quicker than any order among them.
const MOST_LOOSE: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Run {
    lba: u64,
    end: u64,
    sharing: Sharing,
}

impl Run {
    fn excludes(&self, other: &Self) -> bool {
        let overlap = self.lba < other.end && other.lba < self.end;
        overlap && (self.sharing == Sharing::Exclusive || other.sharing == Sharing::Exclusive)
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// When the claim was made: higher is younger. Zero in a slot that is free.
    age: u64,
    run: Run,
    /// Older claims that exclude this one and have not been given up.
    behind: u32,
    /// Where it is among the loose ones, [`NOBODY`] if it is in a tree.
    loose_at: u32,
}

/// Every claim there is.
///
/// A claim is granted when no older one excludes it. How many do is counted once, when it is made, and counted down as they
/// are given up. The first claims are kept loose and the others in trees, one for each kind of sharing; so a claim on blocks that
/// nobody else wants costs about the same however many claims there are.
#[derive(Debug)]
pub struct ExtentClaims {
    /// By slot. BOUND: one for each run of blocks of a command.
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Slots with their runs. BOUND: [`MOST_LOOSE`].
    loose: Vec<(u32, Run)>,
    by_blocks: Intervals,
    /// Root of the shared claims.
    shared: u32,
    /// Root of the exclusive claims.
    exclusive: u32,
    waiting: usize,
    last: u64,
}

impl Default for ExtentClaims {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            loose: Vec::new(),
            by_blocks: Intervals::default(),
            shared: NOBODY,
            exclusive: NOBODY,
            waiting: 0,
            last: 0,
        }
    }
}

impl ExtentClaims {
    /// Claims blocks `lba..lba + blocks`.
    pub fn claim(&mut self, lba: u64, blocks: u64, sharing: Sharing) -> Claim {
        self.last += 1;
        let run = Run { lba, end: lba.saturating_add(blocks), sharing };
        let mut behind = 0;
        self.excluding(&run, &mut |_| behind += 1);
        self.waiting += usize::from(behind != 0);
        let slot = self.place(Entry { age: self.last, run, behind, loose_at: NOBODY });
        if self.loose.len() < MOST_LOOSE {
            self.entries[slot as usize].loose_at = self.loose.len() as u32;
            self.loose.push((slot, run));
        } else {
            let root = *self.root_mut(sharing);
            *self.root_mut(sharing) = self.by_blocks.insert(root, slot, run.lba, run.end);
        }
        Claim { age: self.last, slot }
    }

    /// Whether the claim is granted: nothing older excludes it any more.
    #[must_use]
    pub fn granted(&self, claim: Claim) -> bool {
        self.entry(claim).is_some_and(|entry| entry.behind == 0)
    }

    /// Whether such a claim would be granted at once.
    #[must_use]
    pub fn is_free(&self, lba: u64, blocks: u64, sharing: Sharing) -> bool {
        let mut free = true;
        self.excluding(&Run { lba, end: lba.saturating_add(blocks), sharing }, &mut |_| free = false);
        free
    }

    /// Gives a claim up, granted or not. Answers whether somebody else's was granted by that.
    #[must_use]
    pub fn release(&mut self, claim: Claim) -> Released {
        let mut released = Released::Nobody;
        self.release_telling(claim, |_| released = Released::Somebody);
        released
    }

    /// The same, and names each claim that was granted by that, in no order.
    pub fn release_telling(&mut self, claim: Claim, granted: impl FnMut(Claim)) {
        let Some(&gone) = self.entry(claim) else { return };
        self.take_out(claim.slot, &gone);
        self.waiting -= usize::from(gone.behind != 0);
        if self.waiting != 0 {
            self.let_pass_behind(&gone, granted);
        }
    }

    fn entry(&self, claim: Claim) -> Option<&Entry> {
        self.entries.get(claim.slot as usize).filter(|entry| entry.age == claim.age)
    }

    fn place(&mut self, entry: Entry) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = entry;
            return slot;
        }
        self.entries.push(entry);
        self.entries.len() as u32 - 1
    }

    fn take_out(&mut self, slot: u32, gone: &Entry) {
        self.entries[slot as usize].age = 0;
        self.free.push(slot);
        if gone.loose_at == NOBODY {
            let root = *self.root_mut(gone.run.sharing);
            *self.root_mut(gone.run.sharing) = self.by_blocks.remove(root, slot);
            return;
        }
        self.loose.swap_remove(gone.loose_at as usize);
        if let Some(&(moved, _)) = self.loose.get(gone.loose_at as usize) {
            self.entries[moved as usize].loose_at = gone.loose_at;
        }
    }

    fn root_mut(&mut self, sharing: Sharing) -> &mut u32 {
        match sharing {
            Sharing::Shared => &mut self.shared,
            Sharing::Exclusive => &mut self.exclusive,
        }
    }

    /// Names the claims that cannot be granted together with this one: exclusive ones on its blocks, and shared ones too if it
    /// is exclusive itself.
    fn excluding(&self, run: &Run, found: &mut impl FnMut(u32)) {
        self.loose.iter().filter(|(_, loose)| loose.excludes(run)).for_each(|(slot, _)| found(*slot));
        self.by_blocks.overlapping(self.exclusive, run.lba, run.end, found);
        match run.sharing {
            Sharing::Shared => (),
            Sharing::Exclusive => self.by_blocks.overlapping(self.shared, run.lba, run.end, found),
        }
    }

    /// A claim is gone: those that were made after it and wait for it have one less to wait for.
    fn let_pass_behind(&mut self, gone: &Entry, mut granted: impl FnMut(Claim)) {
        let mut touched = Vec::new();
        self.excluding(&gone.run, &mut |slot| touched.push(slot));
        for slot in touched {
            let entry = &mut self.entries[slot as usize];
            if entry.age < gone.age {
                continue;
            }
            entry.behind -= 1;
            if entry.behind == 0 {
                self.waiting -= 1;
                granted(Claim { age: entry.age, slot });
            }
        }
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
    use proptest::prelude::*;

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

    /// The same rules by looking at every claim every time: what the structure above has to equal.
    #[derive(Default)]
    struct Plain {
        entries: Vec<(u64, u64, u64, Sharing, bool)>,
    }

    impl Plain {
        fn excluded(&self, at: usize) -> bool {
            let (_, lba, end, sharing, _) = self.entries[at];
            self.entries[..at].iter().any(|&(_, own, own_end, own_sharing, _)| {
                own < end && lba < own_end && (sharing == Exclusive || own_sharing == Exclusive)
            })
        }

        fn claim(&mut self, name: u64, lba: u64, blocks: u64, sharing: Sharing) {
            self.entries.push((name, lba, lba + blocks, sharing, false));
            let last = self.entries.len() - 1;
            self.entries[last].4 = !self.excluded(last);
        }

        fn release(&mut self, name: u64) -> Released {
            self.entries.retain(|entry| entry.0 != name);
            let mut released = Released::Nobody;
            for at in 0..self.entries.len() {
                if !self.entries[at].4 && !self.excluded(at) {
                    self.entries[at].4 = true;
                    released = Released::Somebody;
                }
            }
            released
        }
    }

    proptest! {
        #[test]
        fn claims_are_granted_as_if_each_were_compared_with_every_older_one(
            steps in prop::collection::vec((0u8..5, 0u64..200, 0u64..12), 1..300),
        ) {
            let (mut claims, mut plain) = (ExtentClaims::default(), Plain::default());
            let mut alive: Vec<(u64, Claim)> = Vec::new();
            for (name, (what, lba, blocks)) in (0u64..).zip(steps) {
                // More come than go: the loose places fill up, and the trees do.
                if what >= 3 && !alive.is_empty() {
                    let (name, claim) = alive.remove((lba * 12 + blocks) as usize % alive.len());
                    prop_assert_eq!(claims.release(claim), plain.release(name));
                    prop_assert_eq!(claims.release(claim), Released::Nobody, "given up twice");
                    prop_assert!(!claims.granted(claim));
                } else {
                    let sharing = if what == 0 { Exclusive } else { Shared };
                    alive.push((name, claims.claim(lba, blocks, sharing)));
                    plain.claim(name, lba, blocks, sharing);
                }
                for (name, claim) in &alive {
                    let expected = plain.entries.iter().find(|entry| entry.0 == *name).unwrap().4;
                    prop_assert_eq!(claims.granted(*claim), expected);
                }
            }
        }
    }
}
