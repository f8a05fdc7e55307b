//! A pair on shelves that want to know who it is, and that have to say who they are: takeover and giveback with mutual CHAP, and what
//! the operator is told when the two ends do not agree.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use understudy::config::NodeName;
use understudy::harness::{Pair, Plan, ShelfKind};
use understudy_drill::stage::plan;
use understudy_drill::tgt::Tgtd;
use understudy_drill::{Stage, play};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

const SECRET: &str = "b06d7c31e58f92a4";
const SHELF_SECRET: &str = "4e91a7d0c358";

/// What the pair's file says of a shelf.
fn shelf_entry(target: &str, secret: &str, shelf_secret: &str) -> String {
    format!(
        "[[shelf]]\ntarget = \"{target}\"\nown_user = \"office\"\nown_secret = \"{secret}\"\nuser = \"shelf\"\nsecret = \"{shelf_secret}\"\n"
    )
}

const OWN_TARGET: &str = "iqn.2026-01.org.example.understudy:shelf";

/// What the shelf's file says of the pair. The drills' own look at reservations has nothing to prove.
fn pair_entry() -> String {
    let name = |rest| format!("\"iqn.2026-01.org.example.understudy:node-{rest}\"");
    let names = ["a.disks", "b.disks", "a.init"].map(name).join(", ");
    format!(
        "[[initiator]]\nnames = [{names}]\nuser = \"office\"\nsecret = \"{SECRET}\"\nown_user = \"shelf\"\nown_secret = \"{SHELF_SECRET}\"\n\n\
         [[initiator]]\nnames = [\"iqn.2026-01.org.example.understudy:drill\"]\n"
    )
}

fn on_own_shelf(folder: &Path, secret: &str, shelf_secret: &str) -> Plan {
    let usual = plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder);
    let more = format!("{}{}", usual.more, shelf_entry(OWN_TARGET, secret, shelf_secret));
    Plan { more, shelf_access: Some(pair_entry()), ..usual }
}

fn demand_no_secret_in_logs(folder: &Path) -> anyhow::Result<()> {
    for log in ["node-a.log", "node-b.log", "shelf.log"].map(|name| folder.join(name)) {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        ensure!(!text.contains(SECRET) && !text.contains(SHELF_SECRET), "a secret stands in {}", log.display());
    }
    Ok(())
}

#[test]
fn a_pair_and_its_shelf_prove_to_each_other_who_they_are_through_takeover_and_giveback() {
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(on_own_shelf(folder, SECRET, SHELF_SECRET))?;
        stage.start_clients(1)?;
        stage.lose(NodeName::A)?;
        stage.pair.start(NodeName::A)?;
        stage.conclude()?;
        demand_no_secret_in_logs(folder)
    });
}

/// Secrets that differ at the two ends: nothing is written, and what is said tells what to compare.
#[test]
fn a_pair_and_a_shelf_that_do_not_agree_say_so() {
    play(LIMIT, |folder| {
        for (name, secret, shelf_secret, expected) in [
            ("pair", "b06d7c31e58f92a5", SHELF_SECRET, "compare user name, secret and CHAP's algorithms at both ends"),
            ("shelf", SECRET, "4e91a7d0c359", "its secret is not the one known here"),
        ] {
            let folder = folder.join(name);
            std::fs::create_dir(&folder)?;
            let mut pair = Pair::lay_out(on_own_shelf(&folder, secret, shelf_secret))?;
            pair.start_shelf()?;
            let Err(refused) = pair.init() else { anyhow::bail!("{name}: disks were prepared all the same") };
            let text = format!("{refused:#}");
            ensure!(
                text.contains(expected) && !text.contains(secret) && !text.contains(shelf_secret),
                "{name}: {text}"
            );
            demand_no_secret_in_logs(&folder)?;
        }
        Ok(())
    });
}

/// Somebody else's target.
#[test]
fn a_pair_and_tgtd_prove_to_each_other_who_they_are() {
    if !Tgtd::is_present() {
        return;
    }
    const SIZES: [u64; 7] = [16 << 20, 16 << 20, 16 << 20, 128 << 20, 128 << 20, 128 << 20, 128 << 20];
    play(LIMIT, |folder| {
        let tgtd = Tgtd::start(folder, &SIZES)?;
        tgtd.demand_proofs(("office", SECRET), ("shelf", SHELF_SECRET))?;
        let usual = plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder);
        // It takes SHA-256's number for SHA1.
        let entry = shelf_entry(Tgtd::TARGET, SECRET, SHELF_SECRET) + "algorithms = [\"md5\"]\n";
        let more = format!("{}{entry}", usual.more);
        let mut stage = Stage::set_up(Plan { more, shelf: ShelfKind::Given(tgtd.urls(SIZES.len())), ..usual })?;
        stage.start_clients(1)?;
        stage.lose(NodeName::A)?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("at home again")?;
        demand_no_secret_in_logs(folder)
    });
}
