//! Free loopback ports for a pair.
//!
//! Not simply "bind port 0": that gives ports of the range the kernel also takes for outgoing connections. While a node is
//! dead its partner keeps connecting to its port; from that range such a connection would sooner or later be given
//! the very port it connects to as its own, and talk to itself (TCP's simultaneous open). So: ports below that range,
//! chosen at random and proved free by binding, all held until the last one is found.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, bail};

/// Tries before giving up: with half the range taken, 200 tries fail together less often than a disk does.
const TRIES: usize = 200;

/// `count` different free TCP ports of 127.0.0.1.
///
/// # Errors
/// None found.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let range = 10_000..outgoing_begin();
    let mut held: Vec<TcpListener> = Vec::new();
    for _ in 0..TRIES {
        if held.len() == count {
            break;
        }
        let mut random = [0; 2];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
        let port = range.start + u16::from_le_bytes(random) % (range.end - range.start);
        held.extend(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    }
    if held.len() < count {
        bail!("cannot find {count} free ports between {} and {}", range.start, range.end);
    }
    held.iter().map(|listener| listener.local_addr().context("a bound socket has an address")).collect()
}

/// The first port the kernel takes for outgoing connections (ip(7)).
fn outgoing_begin() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let begin = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(32_768);
    // On a machine set up to use nearly all ports there is nothing below to choose from.
    if begin < 11_000 { 32_768 } else { begin }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_can_be_bound() {
        let ports = free_ports(5).expect("free ports");
        let mut distinct = ports.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 5);
        for address in ports {
            TcpListener::bind(address).expect("still free");
        }
    }
}
