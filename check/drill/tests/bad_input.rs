//! Bad input to a node's portal, at the level of processes: whoever sends it gets its own connection ended with the right status
//! (or without one), and nobody else notices. What the parsers make of every single lie is tested beside them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use understudy::config::NodeName;
use understudy::harness::volume_name;
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play};

/// Several times what the test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Within this every ended connection must be seen to have ended: longer than any limit the portal has for a login.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Half a login, left open by so many at a time.
const HALF_LOGINS: usize = 64;

/// Random connections, each from its own seed.
const NOISE: u64 = 64;

/// Bytes of a basic header segment (RFC 7143 §11.2.1).
const HEADER: usize = 48;

/// A login request (RFC 7143 §11.12) that goes straight to the full feature phase, with these text keys.
fn login(keys: &[(&str, &str)]) -> Vec<u8> {
    let text: Vec<u8> = keys.iter().flat_map(|(key, value)| format!("{key}={value}\0").into_bytes()).collect();
    let mut pdu = vec![0_u8; HEADER];
    pdu[0] = 0x43;
    pdu[1] = 0x87;
    let length = u32::try_from(text.len()).expect("short");
    pdu[5..8].copy_from_slice(&length.to_be_bytes()[1..]);
    pdu[8..14].copy_from_slice(&[0x80, 0, 0, 1, 0, 1]);
    pdu.extend_from_slice(&text);
    pdu.resize(pdu.len().next_multiple_of(4), 0);
    pdu
}

fn connect(portal: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(portal).context("the portal refused a connection")?;
    stream.set_read_timeout(Some(END_WITHIN))?;
    stream.set_write_timeout(Some(END_WITHIN))?;
    Ok(stream)
}

/// Sends what it can: the other side may end the connection in the middle.
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ended_early = stream.write_all(bytes);
}

/// Everything until the other side ends the connection.
fn rest_of(stream: &mut TcpStream, what: &str) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Ok(answer),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(answer),
        Err(error) => Err(error).with_context(|| format!("{what}: the connection was not ended")),
    }
}

/// The status class and detail of the login response that answers `pdu`, which must end the connection.
fn refusal_of(portal: SocketAddr, pdu: &[u8], what: &str) -> anyhow::Result<[u8; 2]> {
    let mut stream = connect(portal)?;
    send(&mut stream, pdu);
    let answer = rest_of(&mut stream, what)?;
    ensure!(answer.len() >= HEADER && answer[0] == 0x23, "{what}: no login response but {answer:02x?}");
    Ok([answer[36], answer[37]])
}

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let words = 6 + next() % 100;
    (0..words).flat_map(|_| next().to_le_bytes()).collect()
}

fn refusals(portal: SocketAddr, target: &str) -> anyhow::Result<()> {
    let me = ("InitiatorName", "iqn.2026-01.org.example.understudy:bad-input");
    let target = ("TargetName", target);
    let session = ("SessionType", "Normal");
    // RFC 7143 §11.13.5 for every status.
    let unknown_target = [me, ("TargetName", "iqn.2026-01.org.example:nobody"), session];
    let unknown = refusal_of(portal, &login(&unknown_target), "a target nobody has")?;
    ensure!(unknown == [2, 3], "a target nobody has: status {unknown:?}, not 0203");
    let nameless = refusal_of(portal, &login(&[target, session]), "no initiator name")?;
    ensure!(nameless == [2, 7], "no initiator name: status {nameless:?}, not 0207");
    let mut future = login(&[me, target, session]);
    future[2..4].copy_from_slice(&[9, 9]);
    let future = refusal_of(portal, &future, "a version of the future")?;
    ensure!(future == [2, 5], "a version of the future: status {future:?}, not 0205");
    Ok(())
}

/// A login with a key nobody knows is answered `NotUnderstood` (RFC 7143 §6.1) and goes on.
fn unknown_key(portal: SocketAddr, target: &str) -> anyhow::Result<()> {
    let mut stream = connect(portal)?;
    let keys = [
        ("InitiatorName", "iqn.2026-01.org.example.understudy:unknown-key"),
        ("TargetName", target),
        ("SessionType", "Normal"),
        ("X-org.example.Colour", "green"),
    ];
    send(&mut stream, &login(&keys));
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).context("no answer to an unknown key")?;
    ensure!(header[0] == 0x23 && header[36] == 0, "an unknown key ended the login: {header:02x?}");
    let mut text = vec![0; u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize];
    stream.read_exact(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    ensure!(text.contains("X-org.example.Colour=NotUnderstood"), "an unknown key was answered with {text:?}");
    Ok(())
}

fn lies(portal: SocketAddr, target: &str) -> anyhow::Result<()> {
    let keys = [("InitiatorName", "iqn.2026-01.org.example.understudy:liar"), ("TargetName", target)];
    let mut oversize = login(&keys);
    oversize[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    let mut stream = connect(portal)?;
    send(&mut stream, &oversize);
    rest_of(&mut stream, "a data segment of 16 MiB")?;
    let mut stream = connect(portal)?;
    // A READ (10) from somebody who never logged in.
    let mut command = [0_u8; HEADER];
    command[0] = 0x01;
    command[1] = 0xc0;
    command[32] = 0x28;
    send(&mut stream, &command);
    rest_of(&mut stream, "a command before the login")?;
    for seed in 1..=NOISE {
        let mut stream = connect(portal)?;
        send(&mut stream, &noise(seed));
        stream.shutdown(std::net::Shutdown::Write).or_else(|error| match error.kind() {
            // It was ended before.
            ErrorKind::NotConnected => Ok(()),
            _ => Err(error),
        })?;
        rest_of(&mut stream, &format!("noise of seed {seed}"))?;
    }
    Ok(())
}

#[test]
fn garbage_lies_and_half_logins_end_their_own_connections_and_nobody_elses() {
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        stage.start_clients(1)?;
        let before = NodeName::BOTH.map(|node| stage.pair.status(node).map(|status| status.incarnation).ok());
        let losses = stage.connection_losses();
        let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
        let half = login(&[("InitiatorName", "iqn.2026-01.org.example.understudy:half")]);
        let mut left_open = Vec::new();
        for cut in 0..HALF_LOGINS {
            let mut stream = connect(address.portal)?;
            send(&mut stream, &half[..cut % half.len()]);
            left_open.push(stream);
        }
        refusals(address.portal, &address.target)?;
        unknown_key(address.portal, &address.target)?;
        lies(address.portal, &address.target)?;
        stage.wait_until_clients_go_on("beside bad input")?;
        drop(left_open);
        ensure!(stage.connection_losses() == losses, "a client lost its connection");
        let after = NodeName::BOTH.map(|node| stage.pair.status(node).map(|status| status.incarnation).ok());
        ensure!(before == after, "a node started again");
        stage.conclude()
    });
}
