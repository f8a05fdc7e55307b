//! The checker bites: every deliberate mistake is found, by a law that names what is wrong, and the sound pair breaks none where it
//! was found.

use std::time::Duration;

use understudy_failover::mutants::Mutant;
use understudy_model::explore::{Effort, Told, explore};
use understudy_model::scenes::{Scene, mistakes, short};
use understudy_model::tale;

const EFFORT: Effort = Effort { threads: 1, limit: Duration::from_secs(120), told: Told::Nothing };

fn must_find(mutant: Mutant) {
    let (scene, laws) = mistakes().into_iter().find(|(scene, _)| scene.mutant == Some(mutant)).expect("a scene for it");
    let report = explore(&scene, EFFORT);
    let found = report.broken.unwrap_or_else(|| panic!("{mutant:?} was not found in {} states", report.states));
    let tale = tale::tell(&scene, &found);
    println!("{tale}");
    assert!(laws.contains(&found.law), "{mutant:?} was found by another law: {}", found.law);
    assert!(tale.ends_with(&found.how), "the tale ends with what is wrong");
}

fn must_hold(name: &str) {
    let scene: Scene = short().into_iter().find(|scene| scene.name == name).expect("a scene");
    let report = explore(&scene, EFFORT);
    if let Some(found) = &report.broken {
        panic!("{}", tale::tell(&scene, found));
    }
    assert!(report.complete, "{name} was not explored to its end");
}

#[test]
fn preempting_without_reading_back_is_found() {
    must_find(Mutant::SkipReadBack);
}

#[test]
fn portals_before_the_fence_is_found() {
    must_find(Mutant::PortalsBeforeFence);
}

#[test]
fn announcing_before_commit_stands_is_found() {
    must_find(Mutant::AnnounceBeforeCommit);
}

#[test]
fn releasing_to_unreserved_is_found() {
    must_find(Mutant::ReleaseWithoutGuard);
}

#[test]
fn any_survey_taken_for_the_ordered_one_is_found() {
    must_find(Mutant::IgnoreOpNumbers);
}

#[test]
fn preempt_without_abort_is_found() {
    must_find(Mutant::PlainPreempt);
}

#[test]
fn dropping_a_leg_before_it_is_recorded_is_found() {
    must_find(Mutant::DropLegUnrecorded);
}

#[test]
fn resuming_after_commit_was_sent_is_found() {
    must_find(Mutant::ResumeAfterCommitSent);
}

#[test]
fn repeating_a_write_of_unknown_outcome_is_found() {
    must_find(Mutant::RepeatUnknownWrite);
}

#[test]
fn serving_at_an_older_metadata_version_is_found() {
    must_find(Mutant::OldMetadata);
}

#[test]
fn handing_out_a_generation_twice_is_found() {
    must_find(Mutant::SameGeneration);
}

#[test]
fn handing_out_what_the_partner_may_hand_out_is_found() {
    must_find(Mutant::ShareGenerations);
}

#[test]
fn overlooking_that_the_partner_registered_again_is_found() {
    must_find(Mutant::OverlookReturn);
}

#[test]
fn keeping_a_pool_that_only_the_partner_could_serve_is_found() {
    must_find(Mutant::KeepUnopened);
}

#[test]
fn never_leaving_out_a_leg_that_is_lost_is_found() {
    must_find(Mutant::KeepLostLegs);
}

#[test]
fn answering_a_read_that_nobody_confirmed_is_found() {
    must_find(Mutant::ReadUnwitnessed);
}

#[test]
fn trying_a_contested_pool_again_with_a_weaker_fence_is_found() {
    must_find(Mutant::RetryWithGuard);
}

#[test]
fn giving_back_to_a_node_that_finds_other_disks_is_found() {
    must_find(Mutant::IgnoreInventory);
}

#[test]
fn taking_a_unit_attention_for_defeat_is_found() {
    must_find(Mutant::AttentionIsDefeat);
}

#[test]
fn serving_before_the_fence_is_found() {
    must_find(Mutant::ServeBeforeFence);
}

#[test]
fn a_record_on_a_minority_taken_for_standing_is_found() {
    must_find(Mutant::ServeOnMinorityRecord);
}

#[test]
fn writing_over_the_record_that_stands_is_found() {
    must_find(Mutant::OverwriteStanding);
}

#[test]
fn taking_a_release_for_another_is_found() {
    must_find(Mutant::AnyRelease);
}

#[test]
fn closing_the_partners_service_early_is_found() {
    must_find(Mutant::CloseEarly);
}

#[test]
fn leaving_a_dead_partners_pools_is_found() {
    must_find(Mutant::LeaveOrphans);
}

#[test]
fn overlooking_the_release_is_found() {
    must_find(Mutant::OverlookRelease);
}

#[test]
fn overlooking_an_announced_commit_is_found() {
    must_find(Mutant::OverlookAnnouncement);
}

#[test]
fn serving_crosswise_is_found() {
    must_find(Mutant::ServeCrosswise);
}

/// Two races of half a million moves each are left to `cargo xtask model --mutants`.
#[test]
fn every_mistake_has_a_scene() {
    let listed: Vec<Mutant> = mistakes().into_iter().filter_map(|(scene, _)| scene.mutant).collect();
    assert!(Mutant::ALL.iter().all(|mutant| listed.contains(mutant)), "{listed:?}");
}

#[test]
fn a_sound_pair_survives_a_death_in_every_schedule() {
    must_hold("death");
}

#[test]
fn a_sound_pair_survives_a_commit_of_unknown_outcome_in_every_schedule() {
    must_hold("giveback-unknown");
}

#[test]
fn a_sound_pair_gives_back_in_every_schedule() {
    must_hold("giveback");
}
