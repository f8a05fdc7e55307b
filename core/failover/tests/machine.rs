//! The machine by itself: facts that come late, twice, in no order, or from nowhere.

use std::collections::{BTreeMap, BTreeSet};

use understudy_failover::config::{AutomaticGiveback, Config, OnEnd, Policy};
use understudy_failover::effect::{Alarm, Effect, Effects, LegsAre, NoForecast, Reply, Veto, Withheld};
use understudy_failover::input::{
    Earnest, FenceOutcome, HandOffFindings, Health, Input, JoinOutcome, NotHeld, OpenOutcome, Request, SoftVetoes,
    TakeoverKind, Unreadable, WriteOutcome,
};
use understudy_failover::machine::{Machine, State};
use understudy_failover::page::{
    Announcement, DRY_RUN_LAYOUT, Page, PageContent, PoolState, StateWord, Want, WantAnswer, WantHow,
};
use understudy_failover::record::Record;
use understudy_failover::sim::{Chaos, Dice, PAIR, World, usual_config};
use understudy_failover::survey::Survey;
use understudy_failover::words::{
    Generation, Incarnation, LegIndex, LegSet, MetadataVersion, Micros, MirrorIndex, NodeId, Op, PoolId, RequestId,
};

fn machine() -> Machine {
    Machine::new(usual_config(NodeId::A), Incarnation(0x101))
}

fn step(machine: &mut Machine, millis: u64, input: Input) -> Effects {
    let mut out = Effects::new();
    machine.step(Micros::from_millis(millis), input, &mut out);
    out
}

#[test]
fn booting_is_published_before_anything_is_asked_of_a_disk() {
    let out = step(&mut machine(), 0, Input::Started);
    let published = out
        .iter()
        .position(|effect| matches!(effect, Effect::PublishPage(content) if content.state == StateWord::Booting));
    let surveyed = out.iter().position(|effect| matches!(effect, Effect::Survey { .. }));
    assert!(published.expect("published") < surveyed.expect("surveyed"), "{out:?}");
}

#[test]
fn nothing_is_answered_before_the_start() {
    let mut machine = machine();
    for input in some_facts(&mut Dice::new(1)) {
        if input != Input::Started {
            assert_eq!(step(&mut machine, 1, input), vec![]);
        }
    }
    assert_eq!(machine.state(), &State::Off);
}

#[test]
fn node_that_cannot_read_the_lock_disks_never_contests_and_never_serves() {
    let mut machine = machine();
    let mut all = step(&mut machine, 0, Input::Started);
    for tick in 1..400 {
        let survey = Box::new(Survey { disks: vec![None; 3] });
        let looked = step(&mut machine, tick * 50, Input::Surveyed { op: None, survey });
        let alarmed = looked.contains(&Effect::RaiseAlarm(Alarm::LockDisksUnreachable));
        assert_eq!(alarmed, tick == 2, "told once, and not of the first look, which no session may be there for yet");
        all.extend(looked);
        all.extend(step(&mut machine, tick * 50, Input::PartnerPageUnreadable(Unreadable::Refused)));
        all.extend(step(&mut machine, tick * 50, Input::TimerExpired));
    }
    assert_eq!(machine.state(), &State::Booting);
    let forbidden = |effect: &Effect| {
        matches!(effect, Effect::ContestLockDisks { .. } | Effect::ServePool { .. } | Effect::FencePool { .. })
    };
    assert!(!all.iter().any(forbidden), "{all:?}");
    assert!(all.iter().any(|effect| matches!(effect, Effect::RaiseAlarm(_))));
}

#[test]
fn node_without_records_never_serves() {
    let mut machine = machine();
    let mut all = step(&mut machine, 0, Input::Started);
    let mut op = 0;
    for tick in 1..400 {
        let disk = Some(understudy_failover::survey::LockDiskView {
            keys: vec![understudy_failover::key::ReservationKey::on_lock_disk(PAIR, NodeId::A, Incarnation(0x101))],
            ..Default::default()
        });
        let survey = Survey { disks: vec![disk.clone(); 3] };
        let out = step(&mut machine, tick * 50, Input::Surveyed { op: Some(Op(op)), survey: Box::new(survey) });
        for effect in &out {
            match effect {
                Effect::Survey { op: asked } => op = asked.0,
                Effect::ContestLockDisks { op, key, .. } => {
                    let input = Input::LockDisksContested { op: *op, disks: vec![Some(vec![*key]); 3] };
                    all.extend(step(&mut machine, tick * 50, input));
                }
                _ => {}
            }
        }
        all.extend(out);
    }
    assert!(!all.iter().any(|effect| matches!(effect, Effect::ServePool { .. } | Effect::FencePool { .. })));
}

/// One of every fact, with numbers drawn at random from small ranges so that they sometimes fit.
fn some_facts(dice: &mut Dice) -> Vec<Input> {
    let op = Op(dice.below(60));
    let pool = PoolId(1 + dice.below(3) as u32);
    let (mirror, leg) = (MirrorIndex(dice.below(2) as u16), LegIndex(dice.below(9) as u8));
    let outcome = [
        FenceOutcome::Fenced,
        FenceOutcome::Incomplete { fenced: 1, of: 2, unreached: vec![LegSet(1 << dice.below(2))] },
        FenceOutcome::Lost,
        FenceOutcome::NewerKey { generation: Generation(dice.below(40) as u32) },
    ][dice.below(4) as usize]
        .clone();
    let opened = [
        OpenOutcome::Opened { metadata_version: MetadataVersion(dice.below(3)) },
        OpenOutcome::NewerGeneration { generation: Generation(dice.below(40) as u32) },
        OpenOutcome::Failed,
    ][dice.below(3) as usize];
    let written = [WriteOutcome::Written, WriteOutcome::Failed, WriteOutcome::Unknown][dice.below(3) as usize];
    let joined = [JoinOutcome::Joined, JoinOutcome::Unreachable][dice.below(2) as usize];
    let (vetoes, earnest) = (SoftVetoes::Overridden, Earnest::Do);
    let what = [
        Request::Takeover { kind: TakeoverKind::Planned, vetoes, earnest },
        Request::Takeover { kind: TakeoverKind::Forced, vetoes, earnest },
        Request::Giveback { vetoes, earnest },
        Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::DryRun },
        Request::Halt,
    ][dice.below(5) as usize]
        .clone();
    let unreadable =
        [Unreadable::Refused, Unreadable::Closed, Unreadable::TimedOut, Unreadable::Torn, Unreadable::Rejected]
            [dice.below(5) as usize];
    let findings = HandOffFindings {
        inventory: dice.below(3),
        vetoes: BTreeSet::new(),
        of_pools: BTreeMap::new(),
        predicted_pause: Micros(1),
    };
    let (few, of) = (dice.below(3) as u32, 2);
    vec![
        Input::Started,
        Input::PartnerPageUnreadable(unreadable),
        Input::PartnerLinkClosed,
        Input::Surveyed { op: Some(op), survey: Box::new(Survey { disks: vec![None; 3] }) },
        Input::LockDisksJoined { op, disks: vec![joined; 3] },
        Input::LockDisksContested { op, disks: vec![None; 3] },
        Input::RecordWritten { op, disks: vec![written; 3] },
        Input::PoolFenced { op, pool, outcome },
        Input::ReservationsReleased { op, released: few, of },
        Input::ReservationsRestored { op, restored: few, of },
        Input::ReleaseChecked { op, open: few, of },
        Input::DisksInitialised { op, inventory: dice.below(3), found: few, of },
        Input::PoolsUnopenable { op, inventory: dice.below(3), found: few, of, pools: BTreeSet::from([pool]) },
        Input::DiskInitConflicted { op },
        Input::PoolOpened { op, pool, outcome: opened },
        Input::PoolHeld { op, pool, metadata_version: MetadataVersion(1), legs_are: LegsAre::Equal },
        Input::PoolNotHeld { op, pool, reason: NotHeld::OutcomeUnknown },
        Input::PortalsOpened { op },
        Input::HandOffPrepared { op, findings },
        Input::LegFailed { pool, mirror, leg },
        Input::LegResynced { pool, mirror, leg },
        Input::FenceDoubted { pool },
        Input::OperatorAsked { request: RequestId(dice.roll()), what },
        Input::TimerExpired,
        Input::ServiceHealthChanged(Health::Degraded),
    ]
}

/// Machines caught in the middle of random schedules are fed facts that nobody would tell them. None of them panics, and none serves
/// a pool it was not serving on such words alone: there is always a survey missing, which nothing here can forge.
#[test]
fn no_fact_in_any_order_makes_the_machine_panic_or_serve() {
    for seed in 0..150 {
        let configs = NodeId::BOTH.map(usual_config);
        let mut world = World::new(configs, seed, Chaos::WILD);
        let mut dice = Dice::new(seed ^ 0xfeed);
        let length = Micros::from_millis(dice.below(4_000));
        let _ = replay_for(&mut world, length);
        for node in NodeId::BOTH {
            let Some(mut machine) = world.nodes[node.index()].machine.clone() else { continue };
            for _ in 0..300 {
                let facts = some_facts(&mut dice);
                let input = facts[dice.below(facts.len() as u64) as usize].clone();
                let mut out = Effects::new();
                let now = world.now.after(Micros(dice.below(1_000_000)));
                machine.step(now, input, &mut out);
                let served = out.iter().any(|effect| matches!(effect, Effect::ServePool { .. }));
                assert!(!served, "seed {seed}: {out:?}");
            }
        }
    }
}

/// Runs a schedule's first part and stops in the middle of things.
fn replay_for(world: &mut World, length: Micros) -> Result<(), String> {
    for node in NodeId::BOTH {
        world.start(node);
    }
    let until = world.now.after(length);
    world.run_until(until)
}

#[test]
fn shifting_every_moment_back_changes_nothing_else() {
    let mut world = World::new(NodeId::BOTH.map(usual_config), 3, Chaos::NONE);
    replay_for(&mut world, Micros::from_millis(700)).expect("sound");
    let machine = world.nodes[0].machine.clone().expect("running");
    let by = Micros::from_millis(300);
    let mut shifted = machine.clone();
    shifted.shift_back(by);
    assert_eq!(shifted.poll_timeout(), machine.poll_timeout().map(|at| at.since(by)));
    let (mut one, mut other) = (machine, shifted);
    let (mut out, mut out_shifted) = (Effects::new(), Effects::new());
    let at = world.now.after(Micros::from_millis(200));
    one.step(at, Input::TimerExpired, &mut out);
    other.step(at.since(by), Input::TimerExpired, &mut out_shifted);
    assert_eq!(out, out_shifted);
}

/// Longer than anything takes.
fn limit(world: &World) -> Micros {
    world.now.after(Micros::from_millis(30_000))
}

/// Both were up, a was killed, and b has taken over.
fn alone_with(configs: [Config; 2]) -> World {
    let mut world = World::new(configs, 1, Chaos::NONE);
    NodeId::BOTH.into_iter().for_each(|node| world.start(node));
    let home = |world: &World| NodeId::BOTH.iter().all(|node| world.word(*node) == Some(StateWord::Up));
    world.run_until_true(limit(&world), "home", home).expect("home");
    world.kill(NodeId::A);
    let alone = |world: &World| world.word(NodeId::B) == Some(StateWord::Takeover);
    world.run_until_true(limit(&world), "taken over", alone).expect("taken over");
    world
}

/// A leg that was dropped, or could be read again, after the repaired node took its inventory: nobody but that node can look again.
#[test]
fn node_in_mbwait_looks_at_its_disks_again_when_its_partner_goes_on_finding_others() {
    let (mut machine, mut page, mut at) = in_mailbox_wait();
    page.content.vetoes = Veto::InventoryMismatch.bit();
    let mut looks = 0;
    // Long enough for the partner to judge again several times; each look begins with one at the release.
    for _ in 0..400 {
        at = at.after(Micros::from_millis(10));
        page.sequence += 2;
        page.live.heartbeat += 1;
        for input in [Input::PartnerPageRead(Box::new(page.clone())), Input::TimerExpired] {
            let mut out = Effects::new();
            machine.step(at, input, &mut out);
            looks += out.iter().filter(|effect| matches!(effect, Effect::CheckRelease { .. })).count();
        }
    }
    assert_eq!(looks, 1, "{:?}", machine.state());
}

/// In MBWAIT beside a partner that gives back when it is asked: the machine, the page it read last, and the moment.
fn in_mailbox_wait() -> (Machine, Page, Micros) {
    let configs = NodeId::BOTH.map(|node| {
        let mut config = usual_config(node);
        config.policy.giveback = AutomaticGiveback::OnRequest;
        config
    });
    let mut world = alone_with(configs);
    world.told = Some(Vec::new());
    world.start(NodeId::A);
    let waits = |world: &World| world.word(NodeId::A) == Some(StateWord::MailboxWait);
    world.run_until_true(limit(&world), "MBWAIT", waits).expect("MBWAIT");
    let machine = world.nodes[0].machine.clone().expect("running");
    let read = world.told.take().expect("asked for").into_iter().rev().find_map(|told| match told.input {
        Input::PartnerPageRead(page) if told.node == NodeId::A => Some(*page),
        _ => None,
    });
    (machine, read.expect("a page was read"), world.now)
}

/// The receiver went back to GIVEWAIT for a page that came late, while its partner had seen it in MBWAIT and committed.
#[test]
fn announcement_is_taken_by_a_receiver_that_went_back_to_givewait() {
    let (mut machine, mut page, now) = in_mailbox_wait();
    let mut reads = |state: StateWord, announcement: Option<Announcement>| {
        page.sequence += 2;
        page.content.state = state;
        page.content.announcement = announcement;
        if let Some(announced) = announcement {
            // As in a page of a node whose COMMIT stands.
            let given = page.content.pools.iter_mut().filter(|pool| pool.id == PoolId(1));
            given.for_each(|pool| (pool.owner, pool.generation) = (Some(NodeId::A), announced.generation));
        }
        let mut out = Effects::new();
        machine.step(now, Input::PartnerPageRead(Box::new(page.clone())), &mut out);
        (machine.clone(), out)
    };
    let (waiting, _) = reads(StateWord::Takeover, None);
    assert_eq!(waiting.state_word(), StateWord::GiveWait);
    let to = waiting.incarnation();
    let for_another = Announcement { generation: Generation(100), to: Incarnation(to.0 ^ 1) };
    let (waiting, _) = reads(StateWord::Giveback, Some(for_another));
    assert_eq!(waiting.state_word(), StateWord::GiveWait);
    let (_, out) = reads(StateWord::Giveback, Some(Announcement { generation: Generation(0), to }));
    assert!(out.iter().all(|effect| !matches!(effect, Effect::Survey { .. })), "an older one than is known");
    let (claiming, out) = reads(StateWord::Giveback, Some(Announcement { generation: Generation(100), to }));
    assert!(matches!(claiming.state(), State::Claiming(_)), "{:?}", claiming.state());
    // COMMIT itself is looked for on the lock disks before anything is done about a pool.
    let orders: Vec<_> = out.iter().filter(|it| !matches!(it, Effect::Timeline(_) | Effect::PublishPage(_))).collect();
    assert!(matches!(orders[..], [Effect::Survey { .. }, ..]), "{orders:?}");
}

/// The partner dies before the coordinated way is gone to its end: whoever serves its own has nothing left to tell of its disks.
#[test]
fn alarm_of_disks_not_initialised_ends_when_their_pools_are_served() {
    let mut world = alone_with(NodeId::BOTH.map(usual_config));
    world.start(NodeId::A);
    let begins = |world: &World| world.word(NodeId::A) == Some(StateWord::DiskInit);
    world.run_until_true(limit(&world), "DISKINIT", begins).expect("DISKINIT");
    let now = world.now;
    let machine = world.nodes[0].machine.as_mut().expect("running");
    let State::DiskInit(init) = machine.state().clone() else { panic!("{:?}", machine.state()) };
    let op = init.init.expect("ordered");
    machine.step(now, Input::DiskInitConflicted { op }, &mut Effects::new());
    assert!(machine.alarms().contains(&Alarm::DiskInitFailed));
    world.kill(NodeId::B);
    let serves = |world: &World| world.answers(NodeId::A, PoolId(1));
    world.run_until_true(limit(&world), "served", serves).expect("served");
    let machine = world.nodes[0].machine.as_ref().expect("running");
    assert!(!machine.alarms().contains(&Alarm::DiskInitFailed), "{:?}", machine.alarms());
}

/// Whoever handed its pools over goes the repaired node's way: what it closed is loaded anew while the partner serves, and not in the pause
/// of the giveback.
#[test]
fn giver_of_a_planned_takeover_initialises_its_disks_before_mbwait() {
    let mut world = World::new(NodeId::BOTH.map(usual_config), 1, Chaos::NONE);
    NodeId::BOTH.into_iter().for_each(|node| world.start(node));
    let home = |world: &World| NodeId::BOTH.iter().all(|node| world.word(*node) == Some(StateWord::Up));
    world.run_until_true(limit(&world), "home", home).expect("home");
    let (kind, vetoes, earnest) = (TakeoverKind::Planned, SoftVetoes::Overridden, Earnest::Do);
    world.ask(NodeId::B, 1, Request::Takeover { kind, vetoes, earnest });
    let served = |world: &World| world.answers(NodeId::B, PoolId(1));
    world.run_until_true(limit(&world), "handed over", served).expect("handed over");
    world.told = Some(Vec::new());
    let waits = |world: &World| world.word(NodeId::A) == Some(StateWord::MailboxWait);
    world.run_until_true(limit(&world), "MBWAIT", waits).expect("MBWAIT");
    let told = world.told.take().expect("asked for");
    let of_a = || told.iter().filter(|told| told.node == NodeId::A).map(|told| &told.input);
    let checked = of_a().position(|input| matches!(input, Input::ReleaseChecked { .. }));
    let initialised = of_a().position(|input| matches!(input, Input::DisksInitialised { .. }));
    assert!(checked.expect("the release is looked at first") < initialised.expect("the disks are initialised"));
    // What was taken on request goes home on request.
    let later = world.now.after(Micros::from_millis(5_000));
    world.run_until(later).expect("sound");
    assert!(waits(&world) && served(&world));
}

/// The newest page said by these effects.
fn published(out: &Effects) -> Option<PageContent> {
    out.iter().rev().find_map(|effect| match effect {
        Effect::PublishPage(content) => Some((**content).clone()),
        _ => None,
    })
}

/// Requests are counted anew in every run, so a number comes again.
#[test]
fn refusal_of_a_request_is_no_answer_to_a_later_run_of_the_partner() {
    let mut world = World::new(NodeId::BOTH.map(usual_config), 1, Chaos::NONE);
    world.told = Some(Vec::new());
    replay_for(&mut world, Micros::from_millis(5_000)).expect("sound");
    let mut machine = world.nodes[1].machine.clone().expect("running");
    let told = world.told.take().expect("asked for");
    let mut pages = told.into_iter().filter_map(|told| match told.input {
        Input::PartnerPageRead(page) if page.node == NodeId::A => Some(page),
        _ => None,
    });
    let mut page = pages.next_back().expect("a page was read");
    let mut at = world.now;
    let mut feed = |input: Input| {
        at = at.after(Micros::from_millis(1));
        let mut out = Effects::new();
        machine.step(at, input, &mut out);
        out
    };
    page.content.want = Some(Want { number: 7, how: WantHow::VetoesCount });
    page.content.pools.iter_mut().for_each(|pool| pool.wanted = true);
    let out = feed(Input::PartnerPageRead(page.clone()));
    let asked = out.iter().find_map(|effect| match effect {
        Effect::PrepareHandOff { op, .. } => Some(*op),
        _ => None,
    });
    let vetoes = BTreeSet::from([Veto::ResyncRunning]);
    let findings = HandOffFindings { inventory: 1, vetoes, of_pools: BTreeMap::new(), predicted_pause: Micros(1) };
    let out = feed(Input::HandOffPrepared { op: asked.expect("it is prepared"), findings });
    assert_eq!(published(&out).expect("an answer").want_answer, WantAnswer::Refused(7));
    page.incarnation = Incarnation(page.incarnation.0 + 2);
    page.content.want = None;
    let out = feed(Input::PartnerPageRead(page));
    assert_eq!(published(&out).expect("news").want_answer, WantAnswer::Nothing);
}

/// What stands in the way is what only this node cannot open; what neither can does not keep the rest away from home.
#[test]
fn node_whose_pool_cannot_be_opened_does_not_assert_mbwait_unless_its_partner_cannot_either() {
    let mut world = World::new(NodeId::BOTH.map(usual_config), 1, Chaos::NONE);
    world.told = Some(Vec::new());
    replay_for(&mut world, Micros::from_millis(5_000)).expect("sound");
    world.kill(NodeId::A);
    let later = world.now.after(Micros::from_millis(5_000));
    world.run_until(later).expect("sound");
    world.start(NodeId::A);
    let in_disk_init = |world: &World| {
        let machine = world.nodes[0].machine.as_ref();
        machine.is_some_and(|machine| matches!(machine.state(), State::DiskInit(init) if init.join.is_none()))
    };
    let limit = world.now.after(Micros::from_millis(5_000));
    world.run_until_true(limit, "A initialises its disks", in_disk_init).expect("it comes to that");
    let machine = world.nodes[0].machine.clone().expect("running");
    let State::DiskInit(init) = machine.state() else { panic!("{:?}", machine.state()) };
    let op = init.init.expect("under way");
    let (inventory, found, of) = (17, 2, 2);
    let answer = Input::PoolsUnopenable { op, inventory, found, of, pools: BTreeSet::from([PoolId(1)]) };
    let mut alone = machine.clone();
    let mut out = Effects::new();
    alone.step(world.now, answer.clone(), &mut out);
    assert_eq!(alone.state_word(), StateWord::GiveWait);
    assert!(out.contains(&Effect::RaiseAlarm(Alarm::PoolUnusable(PoolId(1)))), "{out:?}");
    let mut page = machine.partner_page().expect("read").clone();
    page.sequence += 2;
    page.live.heartbeat += 1;
    page.content.pools.iter_mut().filter(|pool| pool.id == PoolId(1)).for_each(|pool| pool.state = PoolState::Refused);
    let mut neither = machine;
    let mut out = Effects::new();
    neither.step(world.now, Input::PartnerPageRead(Box::new(page)), &mut out);
    neither.step(world.now, answer, &mut out);
    assert_eq!(neither.state_word(), StateWord::MailboxWait);
}

/// Replies a node gave, by request.
fn replies(out: &Effects) -> Vec<(u64, &Reply)> {
    let answers = out.iter().filter_map(|effect| match effect {
        Effect::AnswerOperator { request, reply } => Some((request.0, reply)),
        _ => None,
    });
    answers.collect()
}

fn reported(machine: &mut Machine, at: Micros, request: u64) -> Effects {
    let mut out = Effects::new();
    let fact = Input::OperatorAsked { request: RequestId(request), what: Request::PartnerLost };
    machine.step(at, fact, &mut out);
    out
}

#[test]
fn report_of_a_partner_nothing_is_known_of_is_refused() {
    let mut machine = machine();
    step(&mut machine, 0, Input::Started);
    let out = reported(&mut machine, Micros::from_millis(10), 1);
    assert_eq!(replies(&out), [(1, &Reply::NotNow { state: StateWord::Booting })]);
    assert!(!out.iter().any(|effect| matches!(effect, Effect::Survey { .. })), "{out:?}");
}

/// Each report is answered once, also where the lock disks show nothing.
#[test]
fn report_that_nothing_can_be_found_out_about_is_given_up() {
    let mut world = World::new(NodeId::BOTH.map(usual_config), 1, Chaos::NONE);
    NodeId::BOTH.into_iter().for_each(|node| world.start(node));
    let home = |world: &World| NodeId::BOTH.iter().all(|node| world.word(*node) == Some(StateWord::Up));
    world.run_until_true(limit(&world), "home", home).expect("home");
    let mut at = world.now;
    let machine = world.nodes[0].machine.as_mut().expect("running");
    let first = reported(machine, at, 1);
    let Some(Effect::Survey { op }) = first.iter().find(|effect| matches!(effect, Effect::Survey { .. })) else {
        panic!("the lock disks are looked at: {first:?}")
    };
    let again = reported(machine, at, 2);
    assert_eq!(replies(&again), [(1, &Reply::GivenUp)], "the newer report stands for both");
    let mut all = Effects::new();
    for _ in 0..20 {
        at = at.after(Micros::from_millis(50));
        let survey = Box::new(Survey { disks: vec![None; 3] });
        machine.step(at, Input::Surveyed { op: Some(*op), survey }, &mut all);
        machine.step(at, Input::PartnerPageUnreadable(Unreadable::TimedOut), &mut all);
    }
    assert_eq!(replies(&all), [(2, &Reply::GivenUp)]);
    assert!(!all.iter().any(|effect| matches!(effect, Effect::ContestLockDisks { .. })), "blind as it is: {all:?}");
}

/// Bytes of a dead process may still be on their way to a disk that cannot be fenced.
#[test]
fn pool_of_a_partner_that_is_announced_dead_is_not_served_with_a_leg_that_is_not_fenced() {
    for ended in [World::die as fn(&mut World, NodeId), |world, node| world.ask(node, 1, Request::Halt)] {
        let mut world = World::new(NodeId::BOTH.map(usual_config), 1, Chaos::NONE);
        NodeId::BOTH.into_iter().for_each(|node| world.start(node));
        let home = |world: &World| NodeId::BOTH.iter().all(|node| world.word(*node) == Some(StateWord::Up));
        world.run_until_true(limit(&world), "home", home).expect("home");
        world.pool_disks.get_mut(&PoolId(1)).expect("a pool")[1].reachable[NodeId::B.index()] = false;
        ended(&mut world, NodeId::A);
        let refused = |world: &World| {
            let machine = world.nodes[1].machine.as_ref();
            machine.is_some_and(|machine| machine.alarms().contains(&Alarm::PoolRefused(PoolId(1))))
        };
        world.run_until_true(limit(&world), "refused", refused).expect("refused");
        assert!(!world.answers(NodeId::B, PoolId(1)));
    }
}

/// Whether a node contests the lock disks after its partner's page said so and stood still, or which alarm it raises instead.
fn after_the_end_of_the_partner(state: StateWord, policy: Policy) -> (bool, Vec<Alarm>) {
    let configs = NodeId::BOTH.map(|node| {
        let mut config = usual_config(node);
        config.policy = policy;
        config
    });
    let mut world = World::new(configs, 1, Chaos::NONE);
    world.told = Some(Vec::new());
    replay_for(&mut world, Micros::from_millis(5_000)).expect("sound");
    let mut machine = world.nodes[1].machine.clone().expect("running");
    let told = world.told.take().expect("asked for").into_iter().rev().filter(|told| told.node == NodeId::B);
    let (mut page, mut survey) = (None, None);
    for told in told {
        match told.input {
            Input::PartnerPageRead(read) => page = page.or(Some(read)),
            Input::Surveyed { op: None, survey: read } => survey = survey.or(Some(read)),
            _ => {}
        }
    }
    let (mut page, survey) = (page.expect("a page was read"), survey.expect("the lock disks were read"));
    page.content.state = state;
    let mut out = Effects::new();
    machine.step(world.now, Input::PartnerPageRead(page), &mut out);
    for millis in (10..1_000).step_by(10) {
        let now = world.now.after(Micros::from_millis(millis));
        machine.step(now, Input::Surveyed { op: None, survey: survey.clone() }, &mut out);
    }
    let contests = out.iter().any(|effect| matches!(effect, Effect::ContestLockDisks { .. }));
    let alarms = out.iter().filter_map(|effect| match effect {
        Effect::RaiseAlarm(alarm) => Some(*alarm),
        _ => None,
    });
    (contests, alarms.collect())
}

#[test]
fn partner_that_has_ended_is_left_alone_only_where_the_configuration_says_so_of_such_an_end() {
    let usual: Policy = AutomaticGiveback::OnRequest.into();
    for (state, policy, withheld) in [
        (StateWord::Panicked, usual, None),
        (StateWord::Halted, usual, None),
        (StateWord::Panicked, Policy { on_panic: OnEnd::Leave, ..usual }, Some(Withheld::Panicked)),
        (StateWord::Halted, Policy { on_halt: OnEnd::Leave, ..usual }, Some(Withheld::Halted)),
        (StateWord::Panicked, Policy { on_halt: OnEnd::Leave, ..usual }, None),
        (StateWord::Halted, Policy { on_panic: OnEnd::Leave, ..usual }, None),
        (StateWord::Up, Policy { on_panic: OnEnd::Leave, on_halt: OnEnd::Leave, ..usual }, None),
    ] {
        let (contests, alarms) = after_the_end_of_the_partner(state, policy);
        assert_eq!(contests, withheld.is_none(), "{state} {policy:?}");
        let alarm = withheld.map_or(Alarm::PartnerDown, Alarm::TakeoverWithheld);
        assert_eq!(alarms, [alarm], "{state} {policy:?}");
    }
}

/// A release that does not know dry runs is not asked, and says so.
#[test]
fn partner_of_an_older_release_is_not_asked_for_a_forecast() {
    let mut world = World::new(NodeId::BOTH.map(usual_config), 1, Chaos::NONE);
    world.told = Some(Vec::new());
    replay_for(&mut world, Micros::from_millis(5_000)).expect("sound");
    let mut machine = world.nodes[1].machine.clone().expect("running");
    let told = world.told.take().expect("asked for").into_iter().rev().filter(|told| told.node == NodeId::B);
    let mut pages = told.filter_map(|told| match told.input {
        Input::PartnerPageRead(page) => Some(page),
        _ => None,
    });
    let mut page = pages.next().expect("a page was read");
    page.layout_version = DRY_RUN_LAYOUT - 1;
    page.live.heartbeat += 1;
    let mut out = Effects::new();
    machine.step(world.now, Input::PartnerPageRead(page), &mut out);
    out.clear();
    let what = Request::Takeover { kind: TakeoverKind::Planned, vetoes: SoftVetoes::Count, earnest: Earnest::DryRun };
    machine.step(world.now, Input::OperatorAsked { request: RequestId(1), what }, &mut out);
    let reply = Reply::NoForecast(NoForecast::PartnerOlder);
    assert!(out.contains(&Effect::AnswerOperator { request: RequestId(1), reply }), "{out:?}");
    assert!(!out.iter().any(|effect| matches!(effect, Effect::InitialiseDisks { .. })), "{out:?}");
}

/// Records of unknown outcome after contests that crossed can leave each node with the other's pool.
#[test]
fn pools_that_the_records_give_crosswise_come_home() {
    for first in NodeId::BOTH {
        let mut world = World::new(NodeId::BOTH.map(usual_config), 1, Chaos::NONE);
        let away = world.homes().map(|(pool, home)| (pool, home.partner(), MetadataVersion(1), vec![LegSet::first(2)]));
        let crossed = Record::initial(PAIR, away.collect::<Vec<_>>());
        world.lock_disks.iter_mut().for_each(|disk| disk.store(NodeId::A, &crossed));
        world.start(first);
        // Long enough to see the other one, and too short to take over from it.
        world.run_until(world.now.after(Micros::from_millis(100))).expect("sound");
        world.start(first.partner());
        let at_home = |world: &World| {
            let mut homes = world.homes();
            homes.all(|(pool, home)| world.word(home) == Some(StateWord::Up) && world.answers(home, pool))
        };
        world.run_until_true(limit(&world), "home", at_home).expect("home");
    }
}
