//! `understudy-sim`: runs seeds, prints those that go wrong, makes them smaller.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use understudy_sim::plan::Plan;
use understudy_sim::run::{Outcome, run};
use understudy_sim::shrink::shrink;

const USAGE: &str = "understudy-sim [--seed N] [--runs M] [--json FILE] [--plan FILE] [--verbose 1] [--shrink 0]";

struct Wish {
    seed: u64,
    runs: u64,
    json: Option<String>,
    plan: Option<String>,
    verbose: bool,
    shrink: bool,
}

fn main() -> ExitCode {
    let wish = match parse(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(wish) => wish,
        Err(text) => {
            eprintln!("error: {text}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    match work(&wish) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Result<Wish, String> {
    let mut wish = Wish { seed: 1, runs: 1, json: None, plan: None, verbose: false, shrink: true };
    for pair in words.chunks(2) {
        let [name, value] = pair else { return Err(format!("{}: expected a value", pair[0])) };
        let number = || value.parse::<u64>().map_err(|_| format!("{name} {value}: expected a number"));
        match name.as_str() {
            "--seed" => wish.seed = number()?,
            "--runs" => wish.runs = number()?,
            "--json" => wish.json = Some(value.clone()),
            "--plan" => wish.plan = Some(value.clone()),
            "--verbose" => wish.verbose = number()? > 0,
            "--shrink" => wish.shrink = number()? > 0,
            _unknown => return Err(format!("{name}: unknown")),
        }
    }
    Ok(wish)
}

fn plans(wish: &Wish) -> anyhow::Result<Vec<Plan>> {
    let mut plans = match &wish.plan {
        Some(file) => vec![serde_json::from_str(&std::fs::read_to_string(file)?)?],
        None => (wish.seed..wish.seed.saturating_add(wish.runs)).map(Plan::from_seed).collect::<Vec<_>>(),
    };
    plans.iter_mut().for_each(|plan| plan.verbose = wish.verbose);
    Ok(plans)
}

fn work(wish: &Wish) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut outcomes = Vec::new();
    for plan in plans(wish)? {
        let outcome = run(&plan);
        tell(&outcome);
        if outcome.failure.is_some() && wish.shrink && !wish.verbose {
            let (smaller, again) = shrink(&plan, outcome.clone());
            println!(
                "  smaller: {} of {} faults, {}",
                smaller.faults.len(),
                plan.faults.len(),
                again.failure.unwrap_or_default()
            );
            println!("  plan: {}", serde_json::to_string(&smaller)?);
        }
        outcomes.push(outcome);
    }
    sum_up(&outcomes, began.elapsed());
    if let Some(file) = &wish.json {
        let sums = serde_json::json!({ "real_seconds": began.elapsed().as_secs_f64(), "runs": outcomes });
        std::fs::write(file, serde_json::to_vec_pretty(&sums)?)?;
    }
    Ok(outcomes.iter().all(|outcome| outcome.failure.is_none()))
}

fn tell(outcome: &Outcome) {
    let Some(failure) = &outcome.failure else {
        let (simulated, home) = (outcome.simulated.as_secs_f64(), outcome.home_after.unwrap_or_default().as_secs_f64());
        println!("seed {}: holds; {simulated:.0} s, {} faults, home after {home:.1} s", outcome.seed, outcome.faults);
        return;
    };
    for line in &outcome.last_lines {
        println!("  {line}");
    }
    println!("seed {}: {failure}", outcome.seed);
}

fn sum_up(outcomes: &[Outcome], real: Duration) {
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    let simulated: Duration = outcomes.iter().map(|outcome| outcome.simulated).sum();
    let failed: Vec<u64> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(|o| o.seed).collect();
    println!(
        "{} runs, {} failed {failed:?}: {:.0} s simulated in {:.0} s, {:.5} simulated years an hour",
        outcomes.len(),
        failed.len(),
        simulated.as_secs_f64(),
        real.as_secs_f64(),
        simulated.as_secs_f64() / real.as_secs_f64() * 3600.0 / (365.25 * 86_400.0),
    );
    let slowest = outcomes.iter().filter_map(|outcome| outcome.home_after).max().unwrap_or_default();
    println!(
        "{} faults, {} starts of nodes, {} writes acknowledged, {} of unknown outcome, {} blocks read, {} moments judged, home after {:.1} s at most",
        sum(|o| o.faults as u64),
        sum(|o| o.starts),
        sum(|o| o.acknowledged),
        sum(|o| o.unknown),
        sum(|o| o.reads),
        sum(|o| o.moments),
        slowest.as_secs_f64(),
    );
}
