//! From a TOML document to a checked [`Config`]: what each key means and which values contradict each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::clients::{self, Secrets, Whose};
use super::mistake::{ConfigError, Mistake};
use super::read::{At, Mistakes, Table, nearest};
use super::{
    Config, DiskSource, DiskUrl, NodeName, NodeSettings, PairIdentity, PoolLayout, Provider, Timing, policy, portals,
    shelves, volumes,
};

/// Longest path of the admin socket: `sun_path` of unix(7) holds 108 bytes with the closing zero, and the socket is made
/// with `.new` behind its name.
const SOCKET_PATH_BYTES: usize = 103;

/// Most pools of a pair: what the pool table of a state page holds.
const POOLS: usize = 60;

/// Sizes an event log may have. Below, its segments could not hold a snapshot of the largest pair; above, nobody could read it.
const EVENT_LOG_MIB: RangeInclusive<u64> = 4..=1024;

/// Unit of the numbers in `[timing]`.
pub(super) const MS: &str = "a whole number of milliseconds";

/// Longest iSCSI name, RFC 7143 §4.2.7.1.
const ISCSI_NAME_BYTES: usize = 223;

pub(super) fn build(file: &Path, text: &str) -> Result<Config, ConfigError> {
    let mistaken = |mistakes: Vec<Mistake>| {
        let text = clients::without_secrets(text);
        ConfigError::Mistaken { file: file.to_owned(), text, mistakes }
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(mistaken(errors.iter().map(|error| syntax(error, text.len())).collect()));
    }
    let mistakes = Mistakes::default();
    let config = read_all(file, &Table::root(&document, &mistakes), &mistakes);
    let found = mistakes.into_sorted();
    match config {
        Some(config) if found.is_empty() => Ok(config),
        Some(_) | None => Err(mistaken(found)),
    }
}

pub(super) fn syntax(error: &toml::de::Error, len: usize) -> Mistake {
    let span = error.span().unwrap_or(len..len);
    Mistake {
        message: "this is not TOML".to_owned(),
        label: error.message().to_owned(),
        advice: None,
        span: span.start.min(len)..span.end.min(len),
    }
}

fn read_all(file: &Path, root: &Table<'_>, mistakes: &Mistakes) -> Option<Config> {
    let pair = pair(&root.table("pair", "[pair]"), mistakes);
    let provider = provider(&root.optional_table("interconnect", "[interconnect]"), mistakes);
    let timing = timing(&root.optional_table("timing", "[timing]"), mistakes);
    let (giveback, giveback_delay) = policy::giveback(&root.optional_table("giveback", "[giveback]"), mistakes);
    let takeover = policy::takeover(&root.optional_table("takeover", "[takeover]"), mistakes);
    let event_log_bytes = event_log(&root.optional_table("event_log", "[event_log]"));
    let limits = clients::limits(&root.optional_table("limits", "[limits]"));
    let access = root.optional_table("access", "[access]");
    let algorithms = clients::algorithms(&access, mistakes);
    let unlisted = volumes::others(&access, mistakes);
    access.finish();
    let pair_name = pair.as_ref().map_or("", |pair| &pair.name);
    let mut secrets = Secrets::new(mistakes);
    let initiator_tables = root.tables("initiator", "[[initiator]]");
    let initiators = clients::initiators(&initiator_tables, Whose::Pair(pair_name), &mut secrets, mistakes);
    let audiences = volumes::audiences(&root.tables("volume", "[[volume]]"), unlisted, &initiators, mistakes);
    let folder = file.parent().unwrap_or(Path::new("."));
    let nodes = nodes(&root.table("node", "[node]"), folder, mistakes);
    let lock_disks = disks(&root.tables("lock_disk", "[[lock_disk]]"), mistakes);
    let disks = disks(&root.tables("disk", "[[disk]]"), mistakes);
    let urls = lock_disks.iter().chain(&disks).filter_map(|disk| disk.urls.as_ref()).flatten();
    let used: Vec<&str> = urls.map(|url| url.target.as_str()).collect();
    let shelf_tables = root.tables("shelf", "[[shelf]]");
    let proofs = shelves::proofs(&shelf_tables, pair_name, &used, &algorithms, &mut secrets, mistakes);
    let pool_tables = root.tables("pool", "[[pool]]");
    let pools = pools(&pool_tables, &disks, mistakes);
    root.finish();
    check_lock_disks(root, &lock_disks, mistakes);
    check_distinct_disks(&lock_disks, &disks, mistakes);
    if !root.has("pool") {
        mistakes.note(root.span(), "there is no pool", "at least one [[pool]] is expected in the file");
    }
    if pools.len() > POOLS {
        let label = format!("this has {}", pools.len());
        mistakes.note(root.span(), format!("a pair has at most {POOLS} pools"), label);
    }
    let nodes = nodes?;
    Some(Config {
        file: file.to_owned(),
        pair: pair?,
        provider: provider?,
        timing,
        giveback,
        giveback_delay,
        takeover,
        event_log_bytes,
        limits,
        access: Arc::new(clients::access(initiators, algorithms, &nodes)),
        audiences,
        proofs,
        nodes,
        lock_disks: lock_disks.into_iter().map(ReadDisk::finish).collect::<Option<_>>()?,
        disks: disks.into_iter().map(ReadDisk::finish).collect::<Option<_>>()?,
        pools,
    })
}

fn pair(table: &Table<'_>, mistakes: &Mistakes) -> Option<PairIdentity> {
    let name = named(table, mistakes);
    let id = table.optional_text("id", "4 hexadecimal digits, as in \"5a3c\"");
    let preferred = match table.optional_text("preferred", "\"a\" or \"b\"") {
        None => Some(NodeName::A),
        Some(text) => node_name(&text, "preferred", mistakes),
    };
    table.finish();
    let name = name?.value;
    let id = match id {
        None => fold_name(&name),
        Some(text) => pair_id(&text, mistakes)?,
    };
    Some(PairIdentity { name, id, preferred: preferred? })
}

fn pair_id(text: &At<&str>, mistakes: &Mistakes) -> Option<u16> {
    match u16::from_str_radix(text.value.trim_start_matches("0x"), 16) {
        Ok(id) if id != 0 => Some(id),
        Ok(_) | Err(_) => {
            let message = "`id` in [pair] must be 4 hexadecimal digits and not 0000";
            mistakes.note(&text.span, message, "as in \"5a3c\"; leave it out to have it derived from the name");
            None
        }
    }
}

/// A number derived from a name: FNV-1a of 32 bits, its halves folded together; never 0.
///
/// It stands in records on disks, so it must not change between releases.
#[must_use]
pub fn fold_name(name: &str) -> u16 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash ^ (hash >> 16)) as u16).max(1)
}

pub(super) fn node_name(text: &At<&str>, key: &str, mistakes: &Mistakes) -> Option<NodeName> {
    let name = text.value.parse().ok();
    if name.is_none() {
        mistakes.note(&text.span, format!("`{key}` names no node"), "expected \"a\" or \"b\"");
    }
    name
}

/// The `name` of a table: 1 to 32 of a-z, 0-9, `-`, `_`, `.`.
pub(super) fn named(table: &Table<'_>, mistakes: &Mistakes) -> Option<At<String>> {
    let name = table.text("name", "a name")?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.value.is_empty() || name.value.len() > 32 || !name.value.bytes().all(fits) {
        let label = "expected 1 to 32 characters of a-z, 0-9, `-`, `_`, `.`";
        mistakes.note(&name.span, "this name can not be used", label);
        return None;
    }
    Some(At { value: name.value.to_owned(), span: name.span })
}

fn provider(table: &Table<'_>, mistakes: &Mistakes) -> Option<Provider> {
    let text = table.optional_text("provider", "\"tcp\", \"verbs\" or \"shm\"");
    table.finish();
    let Some(text) = text else { return Some(Provider::Tcp) };
    let all = [Provider::Tcp, Provider::Verbs, Provider::Shm];
    let found = all.into_iter().find(|provider| provider.as_str() == text.value);
    if found.is_none() {
        mistakes.note(&text.span, "there is no such provider", "expected \"tcp\", \"verbs\" or \"shm\"");
    }
    found
}

/// The defaults are those of the failover core, whose configuration gives the reason of each.
fn timing(table: &Table<'_>, mistakes: &Mistakes) -> Timing {
    let read = |key, default, range: RangeInclusive<u64>| Duration::from_millis(table.number(key, default, MS, range));
    let timing = Timing {
        poll: read("poll_ms", 10, 1..=10_000),
        poll_brisk: read("poll_brisk_ms", 1, 1..=1_000),
        // Twenty times what a read of a page takes on a busy machine, a third of the long wait.
        read_deadline: read("read_deadline_ms", 200, 5..=30_000),
        heartbeat: read("heartbeat_ms", 50, 10..=30_000),
        silent: read("silent_ms", 600, 50..=600_000),
        closed: read("closed_ms", 150, 0..=600_000),
        ended: read("ended_ms", 75, 0..=600_000),
        boot: read("boot_ms", 3_000, 50..=3_600_000),
        retry: read("retry_ms", 100, 10..=60_000),
        handoff: read("handoff_ms", 2_000, 10..=60_000),
        // As long as a slow shelf may need, and within the patience of every client named in the documents.
        disk: read("disk_ms", 2_000, 10..=600_000),
    };
    table.finish();
    if timing.silent <= timing.heartbeat * 2 {
        let advice = "a partner whose heartbeats are merely late would be contested again and again";
        mistakes.advise(table.span(), "`silent_ms` must be more than twice `heartbeat_ms`", "in this table", advice);
    }
    if timing.silent <= timing.read_deadline {
        let message = "`silent_ms` must be more than `read_deadline_ms`";
        mistakes.note(table.span(), message, "in this table");
    }
    timing
}

/// Bytes of a node's event log.
fn event_log(table: &Table<'_>) -> u64 {
    // 32 MiB: what half a day of ordinary life takes (docs/replay.md), and nothing for a system disk.
    let mebibytes = table.number("size_mib", 32, "a whole number of MiB", EVENT_LOG_MIB);
    table.finish();
    mebibytes << 20
}

/// What came of a claim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    Granted,
    /// Reported as a mistake.
    Taken,
}

/// Values of which no two may be equal, with the words for each place.
pub(super) struct Distinct<'m> {
    seen: BTreeMap<String, String>,
    mistakes: &'m Mistakes,
}

impl<'m> Distinct<'m> {
    pub(super) fn new(mistakes: &'m Mistakes) -> Self {
        Self { seen: BTreeMap::new(), mistakes }
    }

    /// Notes a mistake if `value` was claimed before; `owner` says by whom, `what` what the value is.
    pub(super) fn claim(&mut self, value: String, span: &Range<usize>, owner: &str, what: &str) -> Claim {
        if let Some(before) = self.seen.get(&value) {
            let message = format!("{what} {value} is used twice");
            self.mistakes.note(span, message, format!("already used by {before}"));
            return Claim::Taken;
        }
        self.seen.insert(value, owner.to_owned());
        Claim::Granted
    }
}

fn nodes(table: &Table<'_>, folder: &Path, mistakes: &Mistakes) -> Option<[NodeSettings; 2]> {
    let mut addresses = Distinct::new(mistakes);
    let mut names = Distinct::new(mistakes);
    let mut paths = Distinct::new(mistakes);
    let mut read = |key, title, name| {
        node(&table.table(key, title), name, folder, (&mut addresses, &mut names, &mut paths), mistakes)
    };
    let a = read("a", "[node.a]", NodeName::A);
    let b = read("b", "[node.b]", NodeName::B);
    table.finish();
    let nodes = [a?, b?];
    portals::check_managed(&nodes, table.span(), mistakes);
    portals::check_forwarding(&nodes, table.span(), mistakes);
    Some(nodes)
}

type NodeClaims<'c, 'm> = (&'c mut Distinct<'m>, &'c mut Distinct<'m>, &'c mut Distinct<'m>);

fn node(
    table: &Table<'_>,
    name: NodeName,
    folder: &Path,
    (addresses, names, paths): NodeClaims<'_, '_>,
    mistakes: &Mistakes,
) -> Option<NodeSettings> {
    let owner = format!("[node.{name}]");
    let mut node_address = |text: At<&str>| {
        let found = address(&text, mistakes)?;
        addresses.claim(found.to_string(), &text.span, &owner, "the address");
        Some(found)
    };
    let interconnect =
        table.text("interconnect", "an address and port, as in \"10.0.0.1:7100\"").and_then(&mut node_address);
    let forward =
        table.optional_text("forward", "an address and port, as in \"10.0.0.1:7101\"").and_then(&mut node_address);
    let portals = portals::portals(table, &owner, addresses, mistakes);
    let target = table.text("target", "an iSCSI name, as in \"iqn.2026-01.com.example:a\"");
    let state = table.text("state", "a folder");
    let admin = table.optional_text("admin", "the path of a Unix socket");
    table.finish();

    let target = target.and_then(|text| {
        names.claim(text.value.to_owned(), &text.span, &owner, "the target name");
        iscsi_name(&text, mistakes)
    });
    let state = state?;
    let folder_of_state = folder.join(state.value);
    let folder_claim = paths.claim(folder_of_state.display().to_string(), &state.span, &owner, "the folder");
    let at = admin.as_ref().map_or(&state.span, |text| &text.span);
    let admin = admin.as_ref().map_or_else(|| folder_of_state.join("admin.sock"), |text| folder.join(text.value));
    if folder_claim == Claim::Granted {
        paths.claim(admin.display().to_string(), at, &owner, "the socket");
    }
    check_socket_path(&admin, at, mistakes);
    Some(NodeSettings {
        name,
        interconnect: interconnect?,
        forward,
        portals: portals.addresses,
        managed: portals.managed,
        target: target?,
        state: folder_of_state,
        admin,
    })
}

fn check_socket_path(path: &Path, at: &Range<usize>, mistakes: &Mistakes) {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_BYTES {
        let label = format!("{} is {bytes} bytes long", path.display());
        let advice = format!("the system allows {SOCKET_PATH_BYTES} bytes: give a shorter path as `admin`");
        mistakes.advise(at, "the path of the admin socket is too long", label, &advice);
    }
}

/// An address a node can listen on and a client can name.
pub(super) fn address(text: &At<&str>, mistakes: &Mistakes) -> Option<SocketAddr> {
    let Ok(address) = text.value.parse::<SocketAddr>() else {
        mistakes.note(
            &text.span,
            "this is no address with a port",
            "expected as in \"10.0.0.1:3260\" or \"[fd00::1]:3260\"",
        );
        return None;
    };
    if address.ip().is_unspecified() || address.port() == 0 {
        let advice = "portals move to the partner and the partner must find the interconnect, so both ends are named";
        mistakes.advise(
            &text.span,
            "this address is not a particular one",
            "expected one address and one port",
            advice,
        );
        return None;
    }
    Some(address)
}

pub(super) fn iscsi_name(text: &At<&str>, mistakes: &Mistakes) -> Option<String> {
    if let Err(expected) = check_iscsi_name(text.value) {
        mistakes.note(&text.span, "this is no iSCSI name", expected);
        return None;
    }
    Some(text.value.to_owned())
}

/// RFC 7143 §4.2.7: one of three forms, no white space, no upper case, 223 bytes.
fn check_iscsi_name(name: &str) -> Result<(), String> {
    let form = ["iqn.", "eui.", "naa."].iter().any(|form| name.starts_with(form) && name.len() > form.len());
    let fits = |c: char| c.is_alphanumeric() && !c.is_uppercase() || "-.:".contains(c);
    if !form {
        return Err("expected to begin with `iqn.`, `eui.` or `naa.`".to_owned());
    }
    if name.len() > ISCSI_NAME_BYTES {
        return Err(format!("expected at most {ISCSI_NAME_BYTES} bytes, this has {}", name.len()));
    }
    match name.chars().find(|c| !fits(*c)) {
        Some(odd) => Err(format!("`{odd}` can not stand in an iSCSI name")),
        None => Ok(()),
    }
}

/// Takes `iscsi://address[:port]/target/lun` apart.
pub(super) fn disk_url(text: &str) -> Result<DiskUrl, String> {
    const EXPECTED: &str = "expected as in iscsi://10.0.0.9:3260/iqn.2026-01.com.example:shelf/1";
    let Some(rest) = text.strip_prefix("iscsi://") else {
        return Err(EXPECTED.to_owned());
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let [portal, target, lun] = parts[..] else { return Err(EXPECTED.to_owned()) };
    let portal = portal
        .parse::<SocketAddr>()
        .or_else(|_| portal.trim_matches(['[', ']']).parse().map(|ip| SocketAddr::new(ip, 3260)))
        .map_err(|_| format!("`{portal}` is no IP address with a port; {EXPECTED}"))?;
    check_iscsi_name(target).map_err(|expected| format!("`{target}` is no iSCSI name: {expected}"))?;
    let lun = lun.parse().ok().filter(|lun| *lun < 16384);
    // 16383 is the largest number the flat format of SAM-5 r21 §4.7.7.3 holds.
    let lun = lun.ok_or_else(|| "the last part is the logical unit number, 0 to 16383".to_owned())?;
    Ok(DiskUrl { portal, target: target.to_owned(), lun })
}

/// A disk whose name could be read; the rest of it perhaps not, which is reported already.
struct ReadDisk {
    name: At<String>,
    urls: Option<[DiskUrl; 2]>,
}

impl ReadDisk {
    fn finish(self) -> Option<DiskSource> {
        Some(DiskSource { name: self.name.value, urls: self.urls? })
    }
}

fn disks(tables: &[Table<'_>], mistakes: &Mistakes) -> Vec<ReadDisk> {
    let read = |table: &Table<'_>| {
        let name = named(table, mistakes);
        let urls = table.text_for_each_node("url", "where it is reached, iscsi://ADDRESS:PORT/TARGET/LUN");
        table.finish();
        Some(ReadDisk { name: name?, urls: urls.and_then(|urls| both_urls(&urls, mistakes)) })
    };
    tables.iter().filter_map(read).collect()
}

fn both_urls([a, b]: &[At<&str>; 2], mistakes: &Mistakes) -> Option<[DiskUrl; 2]> {
    let first = url(a, mistakes);
    let second = if a.span == b.span { first.clone() } else { url(b, mistakes) };
    Some([first?, second?])
}

fn url(text: &At<&str>, mistakes: &Mistakes) -> Option<DiskUrl> {
    if text.value.starts_with("file:") || text.value.starts_with(['/', '.']) {
        let advice = "both nodes must reach a pair's disk and reserve it; serve the file with `understudy shelf` and name its iscsi:// address";
        mistakes.advise(&text.span, "a plain file can not be a disk of a pair", "it has no reservations", advice);
        return None;
    }
    disk_url(text.value)
        .map_err(|expected| mistakes.note(&text.span, "this is not where a disk is reached", expected))
        .ok()
}

fn check_lock_disks(root: &Table<'_>, lock_disks: &[ReadDisk], mistakes: &Mistakes) {
    let at = lock_disks.last().map_or(root.span(), |disk| &disk.name.span);
    match lock_disks.len() {
        1 | 3 => {}
        0 => mistakes.note(at, "there is no lock disk", "one or three [[lock_disk]] are expected in the file"),
        count => {
            let label = format!("this makes {count}, expected 1 or 3");
            let advice = "an even number can be split in halves, and more than three only make a takeover slower";
            mistakes.advise(at, "a pair has one or three lock disks", label, advice);
        }
    }
}

fn check_distinct_disks(lock_disks: &[ReadDisk], disks: &[ReadDisk], mistakes: &Mistakes) {
    let mut names = Distinct::new(mistakes);
    let mut urls = [Distinct::new(mistakes), Distinct::new(mistakes)];
    let kinds = [("lock disk", lock_disks), ("disk", disks)];
    for (kind, disk) in kinds.iter().flat_map(|(kind, disks)| disks.iter().map(move |disk| (kind, disk))) {
        let owner = format!("{kind} `{}`", disk.name.value);
        names.claim(format!("`{}`", disk.name.value), &disk.name.span, &format!("a {kind}"), "the name");
        let Some([a, b]) = &disk.urls else { continue };
        let first = urls[0].claim(a.to_string(), &disk.name.span, &owner, "the logical unit");
        if first == Claim::Granted || a != b {
            urls[1].claim(b.to_string(), &disk.name.span, &owner, "the logical unit");
        }
    }
}

fn pools(tables: &[Table<'_>], disks: &[ReadDisk], mistakes: &Mistakes) -> Vec<PoolLayout> {
    let mut names = Distinct::new(mistakes);
    let mut ids = Distinct::new(mistakes);
    let mut used = Distinct::new(mistakes);
    let read = |table: &Table<'_>| {
        let name = named(table, mistakes);
        let home = table.text("home", "\"a\" or \"b\"").and_then(|text| node_name(&text, "home", mistakes));
        let mirrors = table.text_lists("mirrors", "a list of mirrors, each a list of disks, as in [[\"d0\", \"d1\"]]");
        table.finish();
        let name = name?;
        names.claim(format!("`{}`", name.value), &name.span, "a pool", "the name");
        let id = fold_name(&name.value);
        ids.claim(
            format!("{id:04x}"),
            &name.span,
            &format!("pool `{}`", name.value),
            "the number derived from the name,",
        );
        let owner = format!("pool `{}`", name.value);
        let legs = mirrors.iter().filter_map(|mirror| legs(mirror, &owner, disks, &mut used, mistakes)).collect();
        if mirrors.is_empty() {
            mistakes.note(&name.span, "this pool has no disks", "expected at least one mirror in `mirrors`");
        }
        Some(PoolLayout { id, name: name.value, home: home?, mirrors: legs })
    };
    tables.iter().filter_map(read).collect()
}

/// The disks of one mirror, by their places.
fn legs(
    mirror: &At<Vec<At<&str>>>,
    owner: &str,
    disks: &[ReadDisk],
    used: &mut Distinct<'_>,
    mistakes: &Mistakes,
) -> Option<Vec<usize>> {
    if !(1..=2).contains(&mirror.value.len()) {
        let label = format!("this has {}", mirror.value.len());
        mistakes.note(&mirror.span, "a mirror has two legs (or one: no redundancy)", label);
        return None;
    }
    let mut place = |leg: &At<&str>| {
        let Some(place) = disks.iter().position(|disk| disk.name.value == leg.value) else {
            unknown_disk(leg, disks, mistakes);
            return None;
        };
        used.claim(format!("`{}`", leg.value), &leg.span, owner, "the disk");
        Some(place)
    };
    mirror.value.iter().map(&mut place).collect()
}

fn unknown_disk(leg: &At<&str>, disks: &[ReadDisk], mistakes: &Mistakes) {
    let known: Vec<&str> = disks.iter().map(|disk| disk.name.value.as_str()).collect();
    let label = match nearest(leg.value, &known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "no [[disk]] has this name".to_owned(),
    };
    mistakes.advise(
        &leg.span,
        format!("there is no disk `{}`", leg.value),
        label,
        "lock disks can not be part of a pool",
    );
}
