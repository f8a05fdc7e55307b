//! What it costs to claim blocks and to give them up again, beside so many claims on other blocks.
//!
//!     cargo run --release -p understudy-device --example claim_cost
//!
//! Prints nanoseconds for one claim with its release, for several numbers of claims under way. It is a probe to compare two
//! states of the code with on one machine, not a test: nothing depends on what it prints.

use std::hint::black_box;
use std::time::Instant;

use understudy_unit::{ExtentClaims, Sharing};

const ROUNDS: u64 = 2_000_000;
/// Blocks of one claim: 4 KiB.
const BLOCKS: u64 = 8;

/// Scatters numbers over the medium, each at a place of its own.
fn place(number: u64) -> u64 {
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) * BLOCKS
}

fn cost(depth: u64, sharing: Sharing) -> f64 {
    let mut claims = ExtentClaims::default();
    let mut under_way: Vec<_> = (0..depth).map(|number| claims.claim(place(number), BLOCKS, sharing)).collect();
    let started = Instant::now();
    for round in 0..ROUNDS {
        let at = (round % depth) as usize;
        let _ = claims.release(under_way[at]);
        under_way[at] = claims.claim(place(depth + round), BLOCKS, sharing);
        black_box(claims.granted(under_way[at]));
    }
    started.elapsed().as_nanos() as f64 / ROUNDS as f64
}

fn main() {
    println!("claims under way   shared, ns   exclusive, ns");
    for depth in [1, 8, 32, 128, 512, 4096] {
        println!("{depth:>16} {:>12.0} {:>15.0}", cost(depth, Sharing::Shared), cost(depth, Sharing::Exclusive));
    }
}
