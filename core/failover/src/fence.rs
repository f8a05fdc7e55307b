//! The next move on one pool disk that is to be fenced, and how the fence of a whole pool ended.
//!
//! Pure judgement over READ KEYS and READ RESERVATION of one disk. Not here: who may fence, and when. The one idea: the driver
//! carries a move out, reads both again whatever the answer was, and asks again, so that the end state is always one that was read back,
//! by whatever route it came about; a preempt that was refused or whose answer was lost needs no special case.

use crate::effect::FenceKind;
use crate::input::FenceOutcome;
use crate::key::ReservationKey;
use crate::words::{Generation, LegIndex, LegSet, MirrorIndex};

/// The two reservation types a pair uses (SPC-4 r37 §5.13.3, table 61).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FenceType {
    /// Type 5, Write Exclusive - Registrants Only: others read, none but registrants write.
    WriteGuard,
    /// Type 6, Exclusive Access - Registrants Only: none but registrants read or write.
    Exclusive,
}

/// What stands on one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStanding {
    /// READ KEYS.
    pub keys: Vec<ReservationKey>,
    /// READ RESERVATION: the holder's key and the type, `None` as type if it is one a pair never uses.
    pub reservation: Option<(ReservationKey, Option<FenceType>)>,
}

/// The next move on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FenceMove {
    /// REGISTER AND IGNORE EXISTING KEY with the own key.
    Register,
    /// PREEMPT AND ABORT this key with the own one and this type.
    PreemptAndAbort(ReservationKey, FenceType),
    /// RESERVE with the own key and this type.
    Reserve(FenceType),
    /// PREEMPT of the own key by itself: the type changes in one step, the own commands go on.
    ChangeType(FenceType),
    /// Nothing more to do here.
    End(DiskFence),
}

/// What became of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskFence {
    /// The end state was read back.
    Fenced,
    /// Own key is gone and the partner's stands.
    Lost,
    /// The end state is not there, and nothing says that the partner has it.
    Incomplete,
    /// The disk gave no answer.
    Unreached,
    /// A key of the partner stands with a higher generation.
    NewerKey(Generation),
}

/// Whether the own key was registered in the course of this fence already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Registered {
    /// Not yet: the own key's absence means nothing.
    NotYet,
    /// Yes: the own key's absence means that somebody removed it.
    Already,
}

/// The next move towards `kind` on a disk that stands as `now`.
///
/// A key of another system is never preempted: the disk is left alone and the fence stays incomplete.
#[must_use]
pub fn fence_move(now: &DiskStanding, own: ReservationKey, kind: FenceKind, registered: Registered) -> FenceMove {
    let Some(parts) = own.parts() else { return FenceMove::End(DiskFence::Incomplete) };
    let wanted = match kind {
        FenceKind::Look => return FenceMove::End(judge(now, own)),
        FenceKind::Exclusive => FenceType::Exclusive,
        FenceKind::WriteGuard => FenceType::WriteGuard,
    };
    if now.keys.iter().any(|key| key.parts().is_none_or(|other| other.pair != parts.pair)) {
        return FenceMove::End(DiskFence::Incomplete);
    }
    let partner = |key: &&ReservationKey| key.is_of(parts.pair, parts.node.partner());
    let newer = now.keys.iter().filter(partner).filter_map(|key| key.parts()).map(|other| other.generation).max();
    if let Some(newer) = newer.filter(|newer| *newer > parts.generation) {
        return FenceMove::End(DiskFence::NewerKey(newer));
    }
    if !now.keys.contains(&own) {
        return match (registered, newer) {
            (Registered::NotYet, _) => FenceMove::Register,
            (Registered::Already, Some(_)) => FenceMove::End(DiskFence::Lost),
            (Registered::Already, None) => FenceMove::End(DiskFence::Incomplete),
        };
    }
    if let Some(other) = now.keys.iter().find(|key| **key != own) {
        return FenceMove::PreemptAndAbort(*other, wanted);
    }
    match now.reservation {
        None => FenceMove::Reserve(wanted),
        Some((holder, Some(held))) if holder == own && held == wanted => FenceMove::End(DiskFence::Fenced),
        Some((holder, Some(_))) if holder == own => FenceMove::ChangeType(wanted),
        Some(_) => FenceMove::End(DiskFence::Incomplete),
    }
}

/// The partner's and stale own keys that the next moves take away, if the next one is to register and nobody else changes anything: a driver
/// may then send the preempts right behind the registration, without a look in between.
///
/// What it does is what the moves would do with the look taken at once after the registration, and the end state is read back all the
/// same. It only counts if it is [`DiskFence::Fenced`]: a look sent together with the moves may have been answered before them.
#[must_use]
pub fn victims_ahead(
    now: &DiskStanding,
    own: ReservationKey,
    kind: FenceKind,
    registered: Registered,
) -> Vec<(ReservationKey, FenceType)> {
    if fence_move(now, own, kind, registered) != FenceMove::Register {
        return Vec::new();
    }
    let mut ahead = now.clone();
    ahead.keys.push(own);
    let mut victims = Vec::new();
    // BOUND: each turn takes a key away.
    while let FenceMove::PreemptAndAbort(victim, wanted) = fence_move(&ahead, own, kind, Registered::Already) {
        ahead.keys.retain(|key| *key != victim);
        victims.push((victim, wanted));
    }
    victims
}

/// Whether the fence of `own` stands, of whichever of the two types.
fn judge(now: &DiskStanding, own: ReservationKey) -> DiskFence {
    let Some(parts) = own.parts() else { return DiskFence::Incomplete };
    let partner = now.keys.iter().any(|key| key.is_of(parts.pair, parts.node.partner()));
    match (now.keys.contains(&own), partner, now.reservation) {
        (true, false, Some((holder, Some(_)))) if holder == own => DiskFence::Fenced,
        (false, true, _) => DiskFence::Lost,
        _ => DiskFence::Incomplete,
    }
}

/// A disk by its place in the pool, and what became of it.
pub type PlacedFence = (MirrorIndex, LegIndex, DiskFence);

/// How the fence of a pool ended, from every disk of every leg recorded good.
#[must_use]
pub fn judge_pool(disks: &[PlacedFence]) -> FenceOutcome {
    let ends = || disks.iter().map(|(_, _, end)| *end);
    let newest = ends().filter_map(|end| match end {
        DiskFence::NewerKey(generation) => Some(generation),
        DiskFence::Fenced | DiskFence::Lost | DiskFence::Incomplete | DiskFence::Unreached => None,
    });
    if let Some(generation) = newest.max() {
        return FenceOutcome::NewerKey { generation };
    }
    if ends().any(|end| end == DiskFence::Lost) {
        return FenceOutcome::Lost;
    }
    let fenced = ends().filter(|end| *end == DiskFence::Fenced).count();
    if fenced == disks.len() && !disks.is_empty() {
        return FenceOutcome::Fenced;
    }
    let mut unreached = Vec::new();
    for (mirror, leg, _) in disks.iter().filter(|(_, _, end)| *end == DiskFence::Unreached) {
        let at = mirror.0 as usize;
        unreached.resize(unreached.len().max(at + 1), LegSet(0));
        unreached[at] = unreached[at].with(*leg);
    }
    FenceOutcome::Incomplete { fenced: fenced as u32, of: disks.len() as u32, unreached }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::{Incarnation, NodeId, PairId};

    fn key(node: NodeId, generation: u32) -> ReservationKey {
        ReservationKey::on_pool_disk(PairId(9), node, 0, Generation(generation), Incarnation(7))
    }

    fn standing(keys: &[ReservationKey], reservation: Option<(ReservationKey, FenceType)>) -> DiskStanding {
        DiskStanding { keys: keys.to_vec(), reservation: reservation.map(|(key, kind)| (key, Some(kind))) }
    }

    /// Carries moves out on a model disk, as the driver does on a real one.
    fn carry_out(mut now: DiskStanding, own: ReservationKey, kind: FenceKind) -> (DiskStanding, DiskFence) {
        let mut registered = Registered::NotYet;
        for _ in 0..8 {
            match fence_move(&now, own, kind, registered) {
                FenceMove::Register => {
                    now.keys.push(own);
                    registered = Registered::Already;
                }
                FenceMove::PreemptAndAbort(victim, kind) => {
                    now.keys.retain(|key| *key != victim);
                    if now.reservation.is_some_and(|(holder, _)| holder == victim) {
                        now.reservation = Some((own, Some(kind)));
                    }
                }
                FenceMove::Reserve(kind) | FenceMove::ChangeType(kind) => now.reservation = Some((own, Some(kind))),
                FenceMove::End(end) => return (now, end),
            }
        }
        panic!("the fence does not end");
    }

    #[test]
    fn a_takeover_ends_with_own_keys_only_and_type_6() {
        let (a, b) = (key(NodeId::A, 4), key(NodeId::B, 5));
        let before = standing(&[a], Some((a, FenceType::WriteGuard)));
        let (after, end) = carry_out(before, b, FenceKind::Exclusive);
        assert_eq!((after, end), (standing(&[b], Some((b, FenceType::Exclusive))), DiskFence::Fenced));
    }

    #[test]
    fn what_a_registration_is_followed_by_is_known_beforehand() {
        let (a, b, stale) = (key(NodeId::A, 4), key(NodeId::B, 5), key(NodeId::B, 3));
        let now = standing(&[a, stale], Some((a, FenceType::WriteGuard)));
        let victims = victims_ahead(&now, b, FenceKind::Exclusive, Registered::NotYet);
        assert_eq!(victims, [(a, FenceType::Exclusive), (stale, FenceType::Exclusive)]);
        // Nothing to register, or nothing that may be done at all.
        for (keys, kind) in [
            (vec![a, b], FenceKind::Exclusive),
            (vec![a], FenceKind::Look),
            (vec![a, ReservationKey(0xdead)], FenceKind::Exclusive),
            (vec![key(NodeId::A, 6)], FenceKind::Exclusive),
        ] {
            assert_eq!(victims_ahead(&standing(&keys, None), b, kind, Registered::NotYet), [], "{keys:?}");
        }
    }

    #[test]
    fn an_unreserved_disk_with_a_stale_own_key_is_fenced_too() {
        let (stale, own) = (key(NodeId::A, 3), key(NodeId::A, 5));
        let (after, end) = carry_out(standing(&[stale], None), own, FenceKind::WriteGuard);
        assert_eq!((after, end), (standing(&[own], Some((own, FenceType::WriteGuard))), DiskFence::Fenced));
    }

    #[test]
    fn a_newer_key_of_the_partner_is_never_preempted() {
        let (a, b) = (key(NodeId::A, 4), key(NodeId::B, 5));
        assert_eq!(
            fence_move(&standing(&[b], None), a, FenceKind::Exclusive, Registered::NotYet),
            FenceMove::End(DiskFence::NewerKey(Generation(5)))
        );
    }

    #[test]
    fn own_key_gone_after_registering_is_lost_if_the_partner_stands_and_incomplete_if_nobody_does() {
        let (a, b) = (key(NodeId::A, 5), key(NodeId::B, 5));
        let go_on = |keys: &[_]| fence_move(&standing(keys, None), a, FenceKind::Exclusive, Registered::Already);
        assert_eq!(go_on(&[b]), FenceMove::End(DiskFence::Lost));
        assert_eq!(go_on(&[]), FenceMove::End(DiskFence::Incomplete));
    }

    #[test]
    fn a_key_of_another_system_is_left_alone() {
        let own = key(NodeId::A, 5);
        let now = standing(&[own, ReservationKey(0xdead)], None);
        let next = fence_move(&now, own, FenceKind::Exclusive, Registered::Already);
        assert_eq!(next, FenceMove::End(DiskFence::Incomplete));
    }

    #[test]
    fn looking_changes_nothing_and_takes_either_type() {
        let own = key(NodeId::A, 5);
        for kind in [FenceType::Exclusive, FenceType::WriteGuard] {
            let now = standing(&[own], Some((own, kind)));
            let next = fence_move(&now, own, FenceKind::Look, Registered::Already);
            assert_eq!(next, FenceMove::End(DiskFence::Fenced));
        }
        let gone = standing(&[key(NodeId::B, 6)], None);
        let next = fence_move(&gone, own, FenceKind::Look, Registered::Already);
        assert_eq!(next, FenceMove::End(DiskFence::Lost));
    }

    #[test]
    fn a_pool_is_fenced_only_when_every_disk_is_and_a_pool_without_disks_never() {
        use DiskFence::{Fenced, Incomplete, Lost, NewerKey};
        let incomplete = |fenced, of| FenceOutcome::Incomplete { fenced, of, unreached: Vec::new() };
        assert_eq!(judge_pool(&placed(&[Fenced, Fenced])), FenceOutcome::Fenced);
        assert_eq!(judge_pool(&placed(&[Fenced, Incomplete])), incomplete(1, 2));
        assert_eq!(judge_pool(&placed(&[Fenced, Lost, Incomplete])), FenceOutcome::Lost);
        assert_eq!(
            judge_pool(&placed(&[Lost, NewerKey(Generation(9)), Fenced])),
            FenceOutcome::NewerKey { generation: Generation(9) }
        );
        assert_eq!(judge_pool(&[]), incomplete(0, 0));
    }

    /// Two legs a mirror.
    fn placed(ends: &[DiskFence]) -> Vec<PlacedFence> {
        let place = |at: usize| (MirrorIndex(at as u16 / 2), LegIndex(at as u8 % 2));
        ends.iter().enumerate().map(|(at, end)| (place(at).0, place(at).1, *end)).collect()
    }

    #[test]
    fn disks_that_gave_no_answer_are_told_by_their_place() {
        use DiskFence::{Fenced, Incomplete, Unreached};
        let ends = placed(&[Fenced, Fenced, Fenced, Unreached, Incomplete, Fenced]);
        let unreached = vec![LegSet(0), LegSet(0).with(LegIndex(1))];
        assert_eq!(judge_pool(&ends), FenceOutcome::Incomplete { fenced: 4, of: 6, unreached });
    }
}
