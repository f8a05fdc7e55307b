//! Serves logical units kept in memory, to try initiators and measure the target against: `serve_memory ADDRESS SIZE
//! [LUNS]`, for instance `serve_memory 127.0.0.1:3260 256M`. The target's name is `iqn.2026-01.org.understudy:memory`.
//!
//! It is no product: nothing survives it.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::runtime::Builder;
use tokio::task::LocalSet;
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_portal::{LoginGate, Portal, PortalOptions};

const NAME: &str = "iqn.2026-01.org.understudy:memory";
const BLOCK_BYTES: u32 = 512;
const USAGE: &str = "usage: serve_memory ADDRESS SIZE[K|M|G] [LUNS]";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((address, bytes, luns)) = parse(&arguments) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, serve(address, bytes, luns));
}

fn parse(arguments: &[String]) -> Option<(SocketAddr, u64, u16)> {
    let [address, size, rest @ ..] = arguments else { return None };
    let luns = rest.first().map_or(Some(1), |luns| luns.parse().ok())?;
    Some((address.parse().ok()?, parse_size(size)?, luns))
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G']);
    let unit = match &text[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _unknown => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

async fn serve(address: SocketAddr, bytes: u64, luns: u16) {
    let target = Target::new(NAME);
    for lun in 0..luns {
        let medium = MemoryMedium::new(BLOCK_BYTES, bytes / u64::from(BLOCK_BYTES));
        let mut uuid = [0x42; 16];
        uuid[14..].copy_from_slice(&lun.to_be_bytes());
        let options = UnitOptions::new(UnitIdentity { uuid, product: "MEMORY".to_owned() });
        let unit = UnitOnMedium::new(options, medium, None).expect("a fresh unit opens");
        target.add(lun, unit).expect("each LUN once");
    }
    let portal = match Portal::bind(address, PortalOptions::default()) {
        Ok(portal) => portal,
        Err(error) => {
            eprintln!("{error}: {:?}", std::error::Error::source(&error));
            std::process::exit(1);
        }
    };
    portal.add_target(Rc::clone(&target), LoginGate::opened());
    println!("serving iscsi://{}/{NAME}/0", portal.address());
    tokio::signal::ctrl_c().await.expect("signals can be waited for");
    portal.close().await;
    println!("{:?}", portal.counters());
}
