//! One end of an interconnect, for looking at a provider by hand and for `cargo xtask accept verbs`.
//!
//! Not a node: its page holds an incarnation, a counter that grows while the process runs, and one word.
//!
//! `page_peer serve PROVIDER ADDRESS INCARNATION` publishes the words it reads from its standard input, and ends with it.
//! `page_peer read PROVIDER ADDRESS WITHIN_MS` reads that page for ever and prints a line whenever something changed.
//! `page_peer latency PROVIDER ADDRESS READS` reads it so many times, one read after the other.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use understudy_fabric::{
    Identity, LinkEvent, LinkEvents, PAGE_BYTES, PageReader, PageServer, Provider, ReadFailure, ReaderOptions,
    ServerOptions,
};

const PAIR: u64 = 0x7061_6972;
const INCARNATION: usize = 8;
const COUNTER: usize = 16;
const SEQUENCE: usize = 24;
const WORD: usize = 64;
const WORD_BYTES: usize = 16;

/// Pace of the counter, and of the reads.
const PACE: Duration = Duration::from_millis(20);
/// So many reads without a new counter: it stands still. Long enough for a machine that is emulated.
const STANDS_STILL: u32 = 50;
/// For a single read of a series that is measured.
const PATIENT: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", provider, address, incarnation] => serve(provider.parse()?, address.parse()?, incarnation.parse()?),
        ["read", provider, address, within] => {
            read(provider.parse()?, address.parse()?, Duration::from_millis(within.parse()?))
        }
        ["latency", provider, address, reads] => latency(provider.parse()?, address.parse()?, reads.parse()?),
        _ => Err("expected: serve PROVIDER ADDRESS INCARNATION | read PROVIDER ADDRESS WITHIN_MS | latency PROVIDER \
                  ADDRESS READS"
            .into()),
    }
}

fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    // Nobody listens any more: the next line will tell, or the end of the input.
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

fn serve(provider: Provider, address: SocketAddr, incarnation: u64) -> Result<(), Failure> {
    let identity = Identity { pair: PAIR, node: 1 };
    let server = PageServer::start(ServerOptions { provider, address, identity, sequence_offset: SEQUENCE })?;
    let (sender, words) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    say(&format!("serving {}", server.address()));
    let mut word = "BOOTING".to_owned();
    // BOUND: the end of the input.
    for counter in 1.. {
        server.publish(&page(incarnation, counter, &word));
        match words.recv_timeout(PACE) {
            Ok(line) => word = line,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

fn page(incarnation: u64, counter: u64, word: &str) -> Box<[u8; PAGE_BYTES]> {
    let mut page = Box::new([0; PAGE_BYTES]);
    page[INCARNATION..INCARNATION + 8].copy_from_slice(&incarnation.to_le_bytes());
    page[COUNTER..COUNTER + 8].copy_from_slice(&counter.to_le_bytes());
    page[SEQUENCE..SEQUENCE + 8].copy_from_slice(&(counter * 2).to_le_bytes());
    let length = word.len().min(WORD_BYTES);
    page[WORD..WORD + length].copy_from_slice(&word.as_bytes()[..length]);
    page
}

fn long(page: &[u8; PAGE_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"))
}

fn word_of(page: &[u8; PAGE_BYTES]) -> String {
    let bytes: Vec<u8> = page[WORD..WORD + WORD_BYTES].iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reader_of(provider: Provider, partner: SocketAddr) -> Result<(PageReader, LinkEvents), Failure> {
    let identity = Identity { pair: PAIR, node: 2 };
    Ok(PageReader::start(ReaderOptions { provider, partner, identity, partner_node: 1 })?)
}

/// What the last read told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Nothing,
    Page { incarnation: u64, word: String, moving: bool },
    Failed(ReadFailure),
}

impl Seen {
    fn line(&self) -> String {
        match self {
            Self::Nothing => "nothing read".into(),
            Self::Page { incarnation, word, moving } => {
                let counter = if *moving { "advances" } else { "stands still" };
                format!("page word={word} incarnation={incarnation} counter {counter}")
            }
            Self::Failed(failure) => format!("read failed: {failure}"),
        }
    }
}

/// Tells a counter that advances from one that stands still.
#[derive(Default)]
struct Pulse {
    counter: u64,
    still: u32,
}

impl Pulse {
    fn moving(&mut self, counter: u64) -> bool {
        self.still = if counter == self.counter { self.still.saturating_add(1) } else { 0 };
        self.counter = counter;
        self.still < STANDS_STILL
    }
}

fn read(provider: Provider, partner: SocketAddr, within: Duration) -> Result<(), Failure> {
    let (mut reader, mut links) = reader_of(provider, partner)?;
    let start = Instant::now();
    let tell = move |what: &str| say(&format!("{:8.3} {what}", start.elapsed().as_secs_f64()));
    // A thread of its own, so that a link that closes shows although no read is under way.
    std::thread::spawn(move || {
        while let Some(event) = links.next_blocking() {
            match event {
                LinkEvent::Connected { connection } => tell(&format!("link {connection} connected")),
                LinkEvent::Closed { connection } => tell(&format!("link {connection} closed")),
            }
        }
    });
    let (mut last, mut pulse) = (Seen::Nothing, Pulse::default());
    // BOUND: ends with the process.
    loop {
        let seen = match reader.read_blocking(within) {
            // Changed while it was read: the next read tells.
            Ok(page) if long(&page, SEQUENCE) % 2 == 1 => last.clone(),
            Ok(page) => Seen::Page {
                incarnation: long(&page, INCARNATION),
                word: word_of(&page),
                moving: pulse.moving(long(&page, COUNTER)),
            },
            Err(failure) => Seen::Failed(failure),
        };
        if seen != last {
            tell(&seen.line());
            last = seen;
        }
        std::thread::sleep(PACE);
    }
}

fn latency(provider: Provider, partner: SocketAddr, reads: usize) -> Result<(), Failure> {
    let (mut reader, _links) = reader_of(provider, partner)?;
    reader.read_blocking(PATIENT)?;
    let mut times = Vec::with_capacity(reads.max(1));
    for _ in 0..reads.max(1) {
        let start = Instant::now();
        reader.read_blocking(PATIENT)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let micros = |share: usize| times[(times.len() - 1) * share / 100].as_micros();
    say(&format!(
        "latency reads={} median_us={} p99_us={} worst_us={}",
        times.len(),
        micros(50),
        micros(99),
        micros(100)
    ));
    Ok(())
}
