//! Reads and writes forwarded to another process of this machine, their data by TCP and by RDMA in turns.
//!
//!     cargo run --release -p understudy-forward --example through_partner
//!
//! Prints, by bytes and commands under way, the median time of a command by either way and TCP's divided by RDMA's, of several rounds in turns.
//! RDMA here is shared memory of this host (provider `shm`); a unit in memory answers.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use understudy_device::memory::MemoryMedium;
use understudy_device::{
    Answer, Carried, Elsewhere, NexusName, Presence, Status, Target, TaskAttribute, UnitIdentity, UnitOnMedium,
    UnitOptions,
};
use understudy_disk::session::{Place, Session};
use understudy_fabric::{Identity, MOVE_BYTES, Provider};
use understudy_forward::landings::{At, Landings};
use understudy_forward::movers::{Partner, reach};
use understudy_forward::{Line, nexus, options, options_with};
use understudy_portal::{LoginGate, Portal, PortalOptions, Way};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::encode;

const TARGET: &str = "iqn.2026-01.example:there";
const BLOCK: usize = 512;
const ROUNDS: usize = 7;
const IN_A_ROUND: usize = 400;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    match std::env::args().nth(1).as_deref() {
        Some("serve") => tasks.block_on(&runtime, serve()),
        _ => tasks.block_on(&runtime, measure()),
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// The partner: says where it is, and ends with its standard input.
async fn serve() {
    let medium = MemoryMedium::new(BLOCK as u32, 64 << 10);
    let identity = UnitIdentity { uuid: *b"0123456789abcdef", product: "EXAMPLE".into() };
    let unit = UnitOnMedium::new(UnitOptions::new(identity), medium, None).expect("a unit");
    let target = Target::new(TARGET);
    target.add(0, unit).expect("a free number");
    target.set_presence(Presence::Whole);
    let own = Identity { pair: 7, node: 2 };
    let (data, _) = reach(Partner { provider: Provider::Shm, address: loopback(), node: 1, own });
    let portal = Portal::bind(loopback(), PortalOptions { data: Some(data), ..PortalOptions::default() });
    let portal = portal.expect("a portal");
    let gate = LoginGate::held();
    gate.open();
    portal.add_target_by(target, gate, 2, Way::Forwarded);
    println!("{}", portal.address());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let _ = ended.await;
}

/// The partner's process, ended with this value.
struct There(Child);

impl Drop for There {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

async fn measure() {
    let program = std::env::current_exe().expect("this program");
    let child = Command::new(program).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut there = There(child.expect("the partner's process"));
    let mut said = String::new();
    let stdout = there.0.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut said).expect("where it is");
    let place = Place { portal: said.trim().to_owned(), target: TARGET.to_owned() };

    let at = At { provider: Provider::Shm, address: loopback(), identity: Identity { pair: 7, node: 1 } };
    let landings = Landings::start(at);
    while landings.name().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let client = |last| NexusName {
        initiator_name: "iqn.2026-01.example:host".into(),
        isid: [0x80, 0, 0, 0, 0, last],
        target_portal_group: 2,
    };
    let by_tcp = Line::over(Session::start(place.clone(), nexus(&client(1)), options()));
    let session = Session::start(place, nexus(&client(2)), options_with(&landings));
    let by_rdma = Line::with(session, Rc::clone(&landings));
    by_tcp.changed(None).await;
    by_rdma.changed(None).await;

    println!("{:>6} {:>8} {:>6} {:>10} {:>10} {:>6}", "", "bytes", "depth", "TCP us", "RDMA us", "ratio");
    for bytes in [65_536, 131_072, 262_144, MOVE_BYTES] {
        for depth in [1, 4] {
            for writes in [false, true] {
                let mut times = [Vec::new(), Vec::new()];
                for _ in 0..ROUNDS {
                    for (line, times) in [&by_tcp, &by_rdma].into_iter().zip(&mut times) {
                        times.push(round(line, bytes, depth, writes).await);
                    }
                }
                let [tcp, rdma] = times.map(median);
                let what = if writes { "write" } else { "read" };
                println!("{what:>6} {bytes:>8} {depth:>6} {tcp:>10.1} {rdma:>10.1} {:>6.2}", tcp / rdma);
            }
        }
    }
}

/// Microseconds a command in one round.
async fn round(line: &Rc<dyn Elsewhere>, bytes: usize, depth: usize, writes: bool) -> f64 {
    let count = IN_A_ROUND / depth / (bytes / 65_536).max(1);
    let began = Instant::now();
    let worker = |number: usize| async move {
        let span = Span { lba: (number * bytes / BLOCK) as u64, blocks: (bytes / BLOCK) as u64 };
        let (cdb, data_out, room) = if writes {
            (encode::write_16(span, Force::CacheAllowed), Bytes::from(vec![7; bytes]), 0)
        } else {
            (encode::read_16(span, Force::CacheAllowed), Bytes::new(), bytes)
        };
        let carried = Carried { lun: 0, attribute: TaskAttribute::Simple, cdb, data_out, data_in_room: room as u32 };
        for _ in 0..count {
            match line.send(&carried).expect("a session").answer.await {
                Answer::Answered { completion, .. } => assert_eq!(completion.status, Status::Good),
                other => panic!("{other:?}"),
            }
        }
    };
    join_all((0..depth).map(worker)).await;
    began.elapsed().as_secs_f64() * 1e6 / (count * depth) as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
