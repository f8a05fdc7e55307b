//! The least that an exchange over TCP costs here: two processes that send each other so many bytes and do nothing else, for
//! `cargo xtask bench target` to compare depth 1 with.
//!
//! `bare_exchange serve` prints its address and serves one client after the other until its input closes. `bare_exchange
//! measure ADDRESS REQUEST ANSWER SECONDS` sends requests of so many bytes, waits for answers of so many, and prints the rate
//! and the median time as JSON. Both block in the kernel when they wait, like anything that does not spin.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve"] => serve(),
        ["measure", address, request, answer, seconds] => {
            let length = Duration::try_from_secs_f64(seconds.parse().context("SECONDS")?)?;
            measure(address.parse()?, request.parse()?, answer.parse()?, length)
        }
        _ => bail!("usage: bare_exchange serve | bare_exchange measure ADDRESS REQUEST ANSWER SECONDS"),
    }
}

fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A client that goes away in the middle is the end of its exchange.
            let _over = answer_all(client);
        }
    });
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// The client says first how long requests and answers are.
fn answer_all(mut client: TcpStream) -> Result<()> {
    client.set_nodelay(true)?;
    let mut lengths = [0; 8];
    client.read_exact(&mut lengths)?;
    let length = |at: usize| u32::from_be_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]);
    let (mut request, answer) = (vec![0; length(0) as usize], vec![0; length(4) as usize]);
    // BOUND: ends when the client closes.
    loop {
        client.read_exact(&mut request)?;
        client.write_all(&answer)?;
    }
}

fn measure(address: SocketAddr, request: u32, answer: u32, length: Duration) -> Result<()> {
    let mut server = TcpStream::connect(address)?;
    server.set_nodelay(true)?;
    server.write_all(&[request.to_be_bytes(), answer.to_be_bytes()].concat())?;
    let (request, mut answer) = (vec![0; request as usize], vec![0; answer as usize]);
    let mut nanos = Histogram::<u64>::new(3)?;
    let begins = Instant::now();
    while begins.elapsed() < length {
        let issued = Instant::now();
        server.write_all(&request)?;
        server.read_exact(&mut answer)?;
        nanos.saturating_record(u64::try_from(issued.elapsed().as_nanos())?);
    }
    let rate = nanos.len() as f64 / begins.elapsed().as_secs_f64();
    let median = nanos.value_at_quantile(0.5) as f64 / 1e3;
    println!("{}", serde_json::json!({ "iops": rate, "latency_micros": { "p50": median } }));
    Ok(())
}
