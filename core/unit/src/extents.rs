//! Claims on runs of blocks: two writes that overlap are never at the medium at the same time.
//!
//! That is what makes COMPARE AND WRITE atomic (SBC-3 r36 §5.2), and it keeps the legs of a mirror equal without the
//! mirror having to order anything. Claims are granted in the order they were made, so nobody starves.

/// Name of one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim(u64);

#[derive(Debug)]
struct Entry {
    claim: Claim,
    lba: u64,
    end: u64,
    granted: bool,
}

/// Every claim there is, oldest first.
#[derive(Debug, Default)]
pub struct ExtentClaims {
    // BOUND: one entry for each command that writes.
    entries: Vec<Entry>,
    waiting: usize,
    last: u64,
}

impl ExtentClaims {
    /// Claims blocks `lba..lba + blocks`.
    pub fn claim(&mut self, lba: u64, blocks: u64) -> Claim {
        self.last += 1;
        let claim = Claim(self.last);
        let end = lba.saturating_add(blocks);
        let granted = !self.entries.iter().any(|older| older.lba < end && lba < older.end);
        self.waiting += usize::from(!granted);
        self.entries.push(Entry { claim, lba, end, granted });
        claim
    }

    /// Whether the claim is granted: no older claim overlaps any more.
    #[must_use]
    pub fn granted(&self, claim: Claim) -> bool {
        self.entries.iter().any(|entry| entry.claim == claim && entry.granted)
    }

    /// Gives a claim up, granted or not. Answers whether somebody else's was granted by that.
    #[must_use]
    pub fn release(&mut self, claim: Claim) -> Released {
        let Some(at) = self.entries.iter().position(|entry| entry.claim == claim) else { return Released::Nobody };
        let gone = self.entries.remove(at);
        self.waiting -= usize::from(!gone.granted);
        if self.waiting == 0 {
            return Released::Nobody;
        }
        self.grant_the_next()
    }

    fn grant_the_next(&mut self) -> Released {
        let mut released = Released::Nobody;
        for at in 0..self.entries.len() {
            if self.entries[at].granted {
                continue;
            }
            let (older, rest) = self.entries.split_at_mut(at);
            let entry = &mut rest[0];
            if !older.iter().any(|older| older.lba < entry.end && entry.lba < older.end) {
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
    use super::*;

    #[test]
    fn overlapping_claims_wait_in_order_and_others_pass() {
        let mut claims = ExtentClaims::default();
        let first = claims.claim(0, 8);
        let second = claims.claim(4, 8);
        let behind_second = claims.claim(10, 4);
        let elsewhere = claims.claim(100, 1);
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
        let first = claims.claim(0, 4);
        let waiting = claims.claim(0, 12);
        let last = claims.claim(8, 4);
        assert!(!claims.granted(last));
        assert_eq!(claims.release(waiting), Released::Somebody);
        assert!(claims.granted(last) && claims.granted(first));
    }
}
