//! Persistent reservations of clients over everything that moves a volume: a cluster of clients that fences itself with them must
//! never see them vanish, change or come back.

use std::time::Duration;

use anyhow::ensure;
use understudy::config::NodeName;
use understudy_drill::client_port::{ClientPort, RestlessPort, Shown};
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play};
use understudy_load::LunAddress;
use understudy_scsi::Status;
use understudy_scsi::reservation::{OutAction, OutList, Persistence, ReservationType};
use understudy_scsi::sense::Asc;

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
const KIND: Option<ReservationType> = Some(ReservationType::WriteExclusiveRegistrantsOnly);
const ALICE: u64 = 0xa11c_e000;
const BOB: u64 = 0xb0b0;
const DAVE: u64 = 0xda5e;

/// A registered holder, a registered writer, somebody who was fenced off while away, and a stranger.
struct Cluster {
    alice: ClientPort,
    bob: ClientPort,
    carol: ClientPort,
    dave: ClientPort,
}

impl Cluster {
    /// Alice holds the reservation with a key that she asked to be forgotten at a loss of power, and has fenced off Dave.
    fn form(volume: &LunAddress) -> anyhow::Result<Self> {
        let port = |name| ClientPort::new(name, volume);
        let cluster = Self { alice: port("alice"), bob: port("bob"), carol: port("carol"), dave: port("dave") };
        let register = |port: &ClientPort, key, persistence| {
            port.visit(async |visit| {
                ensure!(visit.register(key, persistence).await? == Status::Good);
                Ok(())
            })
        };
        register(&cluster.bob, BOB, Persistence::ThroughPowerLoss)?;
        register(&cluster.dave, DAVE, Persistence::ThroughPowerLoss)?;
        register(&cluster.alice, ALICE, Persistence::Volatile)?;
        cluster.alice.visit(async |alice| {
            let own = OutList { key: ALICE, ..OutList::default() };
            ensure!(alice.reserve_out(OutAction::Reserve, KIND, &own).await? == Status::Good);
            let fence = OutList { key: ALICE, action_key: DAVE, ..OutList::default() };
            ensure!(alice.reserve_out(OutAction::PreemptAndAbort, KIND, &fence).await? == Status::Good);
            Ok(())
        })?;
        Ok(cluster)
    }

    /// What everybody is shown, after demanding that those who may write can and the others cannot.
    fn demand_fenced(&self) -> anyhow::Result<Shown> {
        for port in [&self.alice, &self.bob] {
            port.visit(async |visit| {
                ensure!(visit.write(1).await? == Status::Good, "a registrant is kept out");
                Ok(())
            })?;
        }
        for port in [&self.carol, &self.dave] {
            port.visit(async |visit| {
                ensure!(visit.write(1).await? == Status::ReservationConflict, "an outsider was let in");
                Ok(())
            })?;
        }
        let shown = self.carol.visit(async |visit| visit.shown().await)?;
        ensure!(shown.keys.keys.len() == 2 && shown.keys.keys.contains(&ALICE) && shown.keys.keys.contains(&BOB));
        Ok(shown)
    }

    fn demand_same(&self, before: &Shown, when: &str) -> anyhow::Result<()> {
        let now = self.demand_fenced().map_err(|error| error.context(when.to_owned()))?;
        ensure!(now == *before, "{when}: {now:?} is shown, before it was {before:?}");
        eprintln!("{when}: the same, generation {}", now.keys.generation);
        Ok(())
    }
}

#[test]
fn reservations_survive_takeover_giveback_and_the_restart_of_both_nodes() {
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        let volume = stage.address_of("vol-a0", NodeName::A)?;
        let cluster = Cluster::form(&volume)?;
        stage.lose(NodeName::A)?;
        // Dave was away when he was fenced off, and the node that did it is dead: he is told, and not only kept out.
        let told = cluster.dave.visit(async |dave| Ok(dave.told.clone()))?;
        ensure!(told == [Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET, Asc::REGISTRATIONS_PREEMPTED], "{told:?}");
        let before = cluster.demand_fenced()?;
        // Alice 1, Bob 1, Dave 1, and his end.
        ensure!(before.keys.generation == 4, "{before:?}");

        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        cluster.demand_same(&before, "after the giveback")?;

        for node in NodeName::BOTH {
            stage.pair.kill(node)?;
        }
        for node in NodeName::BOTH {
            stage.pair.start(node)?;
        }
        stage.wait_until_home()?;
        cluster.demand_same(&before, "after the restart of both")?;

        stage.lose(NodeName::A)?;
        cluster.demand_same(&before, "after another takeover")?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        // The way out is as durable: nobody finds a reservation that was given up.
        cluster.alice.visit(async |alice| {
            let own = OutList { key: ALICE, ..OutList::default() };
            ensure!(alice.reserve_out(OutAction::Clear, None, &own).await? == Status::Good);
            Ok(())
        })?;
        stage.lose(NodeName::A)?;
        let told = cluster.bob.visit(async |bob| Ok(bob.told.clone()))?;
        ensure!(told == [Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET, Asc::RESERVATIONS_PREEMPTED], "{told:?}");
        let cleared = cluster.carol.visit(async |carol| {
            ensure!(carol.write(1).await? == Status::Good, "kept out by a reservation that was cleared");
            carol.shown().await
        })?;
        ensure!(cleared.keys.keys.is_empty() && cleared.keys.generation == before.keys.generation + 1, "{cleared:?}");
        stage.pair.start(NodeName::A)?;
        stage.conclude()
    });
}

/// Registrations go on all the time: into the death of the owner, while the other node loads the pool that is about to change
/// again, into the hold of a giveback. What was acknowledged is there, and what was not is as before or as asked.
#[test]
fn registrations_made_during_every_move_are_there_after_it() {
    /// Registrations acknowledged in a row before something else happens.
    const GOING_ON: u64 = 20;
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        let volume = stage.address_of("vol-a0", NodeName::A)?;
        let port = ClientPort::new("restless", &volume);
        let restless = RestlessPort::start(port.clone());
        let go_on = |stage: &mut Stage, when: &str| {
            let before = restless.acknowledged()?;
            stage.wait_for(&format!("registrations go on {when}"), |_| {
                restless.acknowledged().map_or(true, |now| now > before + GOING_ON)
            })?;
            restless.acknowledged().map(|now| eprintln!("{when}: {now} registrations acknowledged"))
        };
        go_on(&mut stage, "at the start")?;
        for round in 1..=2 {
            stage.lose(NodeName::A)?;
            go_on(&mut stage, &format!("after takeover {round}"))?;
            stage.pair.start(NodeName::A)?;
            stage.wait_until_home()?;
            go_on(&mut stage, &format!("after giveback {round}"))?;
        }
        for node in NodeName::BOTH {
            stage.pair.kill(node)?;
        }
        for node in NodeName::BOTH {
            stage.pair.start(node)?;
        }
        go_on(&mut stage, "after the restart of both")?;
        let possible = restless.conclude()?;
        let keys = port.visit(async |visit| Ok(visit.shown().await?.keys))?;
        ensure!(keys.keys.len() == 1 && possible.contains(&keys.keys[0]), "{keys:?}, of {possible:?}");
        stage.conclude()
    });
}
