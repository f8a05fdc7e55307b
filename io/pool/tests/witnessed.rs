//! What one leg answered is passed on only with the word of the others, or of the lock disks.

mod support;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use support::{Answer, Bench, read, run, settle, volume, write};
use understudy_device::medium::{Medium as _, MediumError};
use understudy_pool::InSync;

#[test]
fn read_is_not_answered_by_a_leg_whose_sibling_was_fenced_by_a_new_owner() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        write(&v, 0, 1).await;
        // Which of the two answers for the first region does not matter: the other one is fenced, and the lock disks are lost.
        for fenced in [0, 1] {
            let [answers, fenced] = [1 - fenced, fenced].map(|at| &bench.disks[at]);
            bench.watcher.owner.set(false);
            bench.watcher.proof.set(Answer::Unknown);
            fenced.set_conflict(true);
            let before = answers.reads();
            let mut shown = v.read(0, 1);
            settle().await;
            assert!((&mut shown).now_or_never().is_none(), "{before} reads before");
            fenced.set_conflict(false);
            bench.watcher.proof.set(Answer::Held);
            shown.await.expect("nobody had taken it over");
        }
        bench.disks[1].set_conflict(true);
        bench.watcher.proof.set(Answer::Lost);
        assert_eq!(v.read(0, 1).await, Err(MediumError::Fenced), "or it was lost for good");
    });
}

#[test]
fn lock_disks_stand_in_for_a_leg_that_is_away() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        write(&v, 0, 1).await;
        bench.watcher.proof.set(Answer::Unknown);
        bench.watcher.gate_open.set(false);
        bench.disks[1].cut_link();
        settle().await;
        assert_eq!(read(&v, 0).await, 1, "at once, not only when the loss is recorded");
        bench.watcher.owner.set(false);
        let mut shown = v.read(0, 1);
        settle().await;
        assert!((&mut shown).now_or_never().is_none());
        // Once the loss is recorded, nobody can go on with that leg.
        bench.watcher.open_gate();
        shown.await.expect("one leg is all there is");
    });
}

#[test]
fn any_number_of_reads_ask_one_question_at_a_time() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        write(&v, 0, 1).await;
        bench.disks.iter().for_each(|disk| disk.set_jitter(1, Duration::from_millis(1)));
        let before = bench.disks.iter().map(|disk| disk.questions()).sum::<u64>();
        for read in join_all((0..64).map(|_| v.read(0, 1))).await {
            read.expect("read");
        }
        let asked = bench.disks.iter().map(|disk| disk.questions()).sum::<u64>() - before;
        assert!((1..=2).contains(&asked), "{asked} questions");
    });
}
