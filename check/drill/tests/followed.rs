//! What the drills' own network does when a portal moves while it is late: as a switch does that learns an address where it was
//! heard last, it must end up with the owner, or every drill on it would judge the network and not the pair.

use std::time::Duration;

use anyhow::Context;
use understudy::admin::{Request, TakeoverKind};
use understudy::config::NodeName;
use understudy::harness::Signal;
use understudy_drill::ground::{Ground, Hosting, Manner, Wish};
use understudy_drill::stage::serving;
use understudy_drill::table::hosting;
use understudy_drill::{Fault, play};

/// Several times what it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The taker listens and is stopped, the giver has ceased and claims back: closed and listening again before the network looks.
#[test]
fn clients_find_a_giver_that_claimed_back_before_the_network_saw_it_cease() {
    if hosting() == Hosting::Here {
        return;
    }
    play(LIMIT, |folder| {
        let program = env!("CARGO_BIN_EXE_understudy-drilled").into();
        let wish = Wish { program, parent: folder.to_owned(), volumes: 1, hosting: Hosting::Apart };
        let mut ground = Ground::make(&wish)?;
        let outcome = claimed_back_unseen(&mut ground);
        if outcome.is_err() {
            drop(ground.give_up());
        }
        outcome
    });
}

fn claimed_back_unseen(ground: &mut Ground) -> anyhow::Result<()> {
    let (giver, taker) = (NodeName::B, NodeName::A);
    ground.start_clients(1)?;
    ground.network.as_ref().context("cables")?.look_away();
    // It hangs before it is stopped: its page, which says that it listens, can be read by then.
    ground.stage.arm(taker, "fenced", Fault::Hung)?;
    ground.ask_aside(taker, Request::Takeover { kind: TakeoverKind::Planned }, Manner::UntilItMay);
    ground.stage.wait_until_hit(taker, Fault::Hung)?;
    ground.stage.wait_until_told(giver, "ceased", "")?;
    ground.stage.pair.signal(taker, Signal::STOP)?;
    ground.stage.wait_for("the giver serves everything again", |stage| {
        stage.pair.status(giver).is_ok_and(|status| serving(&status).len() == status.pools.len())
    })?;
    ground.network.as_ref().context("cables")?.follow_again();
    ground.stage.wait_until_clients_go_on("at the giver again")?;
    ground.stage.repair(taker, Fault::Hung)?;
    ground.stage.pair.signal(taker, Signal::CONT)?;
    ground.wait_until_sound()?;
    ground.judge().map(drop)
}
