//! The state page: what a node shows to its partner, read by RDMA.
//!
//! 4 KiB in registered memory, little-endian, fixed offsets, one writer: the node whose memory it is in. A read of more than a
//! cache line is not atomic, so a page is whole only if its sequence word is even and its CRC is right; anything else is read
//! again and never acted on. Not here: how it is read and when; what follows from it ([`crate::machine`]).
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | magic `USTDPAGE` |
//! | 8 | 2 | layout version of the writer ([`LAYOUT_VERSION`]) |
//! | 10 | 2 | oldest layout version whose readers understand this page |
//! | 12 | 2 | pair |
//! | 14 | 1 | node: 1 or 2 |
//! | 15 | 1 | zero |
//! | 16 | 8 | incarnation |
//! | 24 | 8 | sequence word: odd while the page is being written, else even, grows with every publication |
//! | 32 | 32 | zero |
//! | 64 | 4 | **state word** ([`StateWord`]): the one predetermined location |
//! | 68 | 4 | stage ([`Stage`]) |
//! | 72 | 8 | progress counter: grows with every piece of work done in this stage |
//! | 80 | 8 | heartbeat counter: grows as long as the node's I/O path works |
//! | 88 | 4 | service health ([`Health`]) |
//! | 92 | 4 | highest generation this node knows |
//! | 96 | 8 | acknowledgement: incarnation of the partner last read, 0 for none |
//! | 104 | 4 | acknowledgement: its state word |
//! | 108 | 4 | portals listening: bit 0 node A's identity, bit 1 node B's |
//! | 112 | 8 | RELEASED is for this incarnation of the partner, 0 for none |
//! | 120 | 8 | disk inventory digest, 0 for none |
//! | 128 | 4 | vetoes of the last refused hand-off, a bit each ([`crate::effect::Veto::bit`]) |
//! | 132 | 4 | generation of the commit announced, 0 for none |
//! | 136 | 8 | incarnation of the partner the commit was announced to |
//! | 144 | 8 | number of the request for pools (planned takeover), 0 for none; the pools are flagged in the table |
//! | 152 | 8 | last completed client command, microseconds since 1970, for the timeline only |
//! | 160 | 4 | how many entries the pool table has, at most 60 |
//! | 164 | 4 | flags of the request: bit 0, soft vetoes are overridden |
//! | 168 | 8 | number of the partner's request that was refused last, 0 for none; the vetoes say why |
//! | 176 | 8 | number of the request that is only to be judged (dry run), 0 for none; then there is none at 144 |
//! | 184 | 8 | number of the partner's request that was judged last, 0 for none |
//! | 192 | 4 | what speaks against that one, a veto each bit |
//! | 196 | 4 | bit 0: commands are forwarded, so that pools of one home may be at both nodes |
//! | 200 | 8 | the pause it would cost, microseconds |
//! | 208 | 48 | zero |
//! | 256 | 60 x 32 | pool table, see below |
//! | 2176 | 1916 | zero |
//! | 4092 | 4 | CRC-32C of bytes 0 to 4091, with the even sequence word |
//!
//! Entry of the pool table: 0 id (4) · 4 owner (1) · 5 state ([`PoolState`], 1) · 6 flags, bit 0: wanted (2) · 8 generation (4) ·
//! 12 zero (4) · 16 metadata version (8) · 24 zero (8).
//!
//! Layout 2 added the words from 176 to 207. A reader of layout 1 sees zeros there, and no request at 144 in a dry run: it cannot take one for
//! a real one. Layout 3 added the word at 196.

use std::fmt;

use crc_fast::CrcAlgorithm;
use thiserror::Error;

use crate::config::POOLS_MAX;
use crate::input::{Health, SoftVetoes};
use crate::words::{Generation, Incarnation, MetadataVersion, Micros, NodeId, PairId, PoolId};

/// Length of the page.
pub const PAGE_BYTES: usize = 4096;
/// Offset of the state word, a little-endian `u32`.
pub const STATE_OFFSET: usize = 64;
/// Offset of the sequence word, a little-endian `u64`. The publisher stores it odd before and even after the rest.
pub const SEQUENCE_OFFSET: usize = 24;
/// Layout this release writes.
pub const LAYOUT_VERSION: u16 = 3;
/// Since this layout a request can be one that is only to be judged.
pub const DRY_RUN_LAYOUT: u16 = 2;
/// Oldest layout this release reads.
pub const OLDEST_READABLE: u16 = 1;

const MAGIC: [u8; 8] = *b"USTDPAGE";
const CRC_OFFSET: usize = PAGE_BYTES - 4;
const TABLE_OFFSET: usize = 256;
const ENTRY_BYTES: usize = 32;
const FLAG_WANTED: u16 = 1;

/// The state a node shows. Numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum StateWord {
    /// On its way up, nothing found out yet.
    Booting = 1,
    /// The records give own pools to the partner: waits for their release.
    GiveWait = 2,
    /// Initialises its disks while the partner still serves.
    DiskInit = 3,
    /// Ready to take its pools: waits for the giveback.
    MailboxWait = 4,
    /// The giveback is committed: finishes and fences.
    Resuming = 5,
    /// Serves its own pools.
    Up = 6,
    /// Serves the partner's pools too, behind exclusive reservations.
    Takeover = 7,
    /// Serves the partner's pools too, their disks readable for the partner's incarnation named in the page.
    Released = 8,
    /// Hands pools over.
    Giveback = 9,
    /// Stopped in an orderly way.
    Halted = 10,
    /// Its process has ended, and not in an orderly way. Said by its supervisor, of a process that was killed only where that leads to a
    /// takeover ([`crate::last_word`]).
    Panicked = 11,
}

impl StateWord {
    /// Every state.
    pub const ALL: [Self; 11] = [
        Self::Booting,
        Self::GiveWait,
        Self::DiskInit,
        Self::MailboxWait,
        Self::Resuming,
        Self::Up,
        Self::Takeover,
        Self::Released,
        Self::Giveback,
        Self::Halted,
        Self::Panicked,
    ];

    /// The state of a word, or `None` if it is none.
    #[must_use]
    pub fn from_word(word: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u32 == word)
    }

    /// The name used everywhere.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Booting => "BOOTING",
            Self::GiveWait => "GIVEWAIT",
            Self::DiskInit => "DISKINIT",
            Self::MailboxWait => "MBWAIT",
            Self::Resuming => "RESUMING",
            Self::Up => "UP",
            Self::Takeover => "TAKEOVER",
            Self::Released => "RELEASED",
            Self::Giveback => "GIVEBACK",
            Self::Halted => "HALTED",
            Self::Panicked => "PANICKED",
        }
    }
}

impl fmt::Display for StateWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a node is doing within its state, for the operator's eyes; nothing is decided by it but how often its page is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum Stage {
    /// Nothing in particular.
    Idle = 0,
    /// Reads the lock disks.
    Surveying = 1,
    /// Waits for a sign of the partner.
    WaitingForPartner = 2,
    /// Contests the lock disks.
    Contesting = 3,
    /// Registers on the lock disks.
    Joining = 4,
    /// Writes a record.
    Recording = 5,
    /// Fences disks.
    Fencing = 6,
    /// Opens pools.
    Opening = 7,
    /// Looks once more whether its claim stands.
    Verifying = 8,
    /// Waits for the release.
    WaitingForRelease = 9,
    /// Checks the release on the disks.
    CheckingRelease = 10,
    /// Initialises disks.
    InitialisingDisks = 11,
    /// Waits for the giveback.
    WaitingForGiveback = 12,
    /// Prepares a hand-off while serving.
    Preparing = 13,
    /// Holds and drains.
    Holding = 14,
    /// Writes COMMIT.
    Committing = 15,
    /// Finds out whether COMMIT stands.
    Settling = 16,
    /// Waits until the receiver serves.
    WaitingForReceiver = 17,
    /// Releases reservations.
    Releasing = 18,
    /// A hand-off was vetoed.
    Vetoed = 19,
    /// Waits for the partner to hand pools over.
    Wanting = 20,
    /// Receives pools.
    Receiving = 21,
    /// Stops in an orderly way.
    Halting = 22,
    /// Lets the time pass that the giveback is to be delayed by.
    Delaying = 23,
    /// A stage of a newer release.
    Unknown = 0xffff_ffff,
}

impl Stage {
    const ALL: [Self; 24] = [
        Self::Idle,
        Self::Surveying,
        Self::WaitingForPartner,
        Self::Contesting,
        Self::Joining,
        Self::Recording,
        Self::Fencing,
        Self::Opening,
        Self::Verifying,
        Self::WaitingForRelease,
        Self::CheckingRelease,
        Self::InitialisingDisks,
        Self::WaitingForGiveback,
        Self::Preparing,
        Self::Holding,
        Self::Committing,
        Self::Settling,
        Self::WaitingForReceiver,
        Self::Releasing,
        Self::Vetoed,
        Self::Wanting,
        Self::Receiving,
        Self::Halting,
        Self::Delaying,
    ];

    fn from_word(word: u32) -> Self {
        Self::ALL.into_iter().find(|stage| *stage as u32 == word).unwrap_or(Self::Unknown)
    }
}

/// What a node does with a pool, as its page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum PoolState {
    /// Nothing.
    Away = 0,
    /// Loaded, not served.
    Warm = 1,
    /// On its way to be served.
    Opening = 2,
    /// Served.
    Serving = 3,
    /// Held or frozen.
    Held = 4,
    /// Owned, but it cannot be served.
    Refused = 5,
}

impl PoolState {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Away, Self::Warm, Self::Opening, Self::Serving, Self::Held, Self::Refused]
            .into_iter()
            .find(|state| *state as u8 == byte)
    }
}

/// One entry of the pool table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PagePool {
    /// Which pool.
    pub id: PoolId,
    /// Whose it is, as far as this node knows; `None` if it does not.
    pub owner: Option<NodeId>,
    /// What this node does with it.
    pub state: PoolState,
    /// Whether this node asks for it.
    pub wanted: bool,
    /// Its generation, as far as this node knows.
    pub generation: Generation,
    /// Its metadata version, as far as this node knows.
    pub metadata_version: MetadataVersion,
}

/// A commit announced to the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Announcement {
    /// Generation of the COMMIT record.
    pub generation: Generation,
    /// The incarnation that is to act on it.
    pub to: Incarnation,
}

/// A request for pools: planned takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Want {
    /// Its number, not zero, new in this incarnation.
    pub number: u64,
    /// How it is meant.
    pub how: WantHow,
}

/// How a request for pools is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum WantHow {
    /// Soft vetoes count.
    VetoesCount,
    /// Soft vetoes are passed over.
    VetoesOverridden,
    /// Nothing is to be done, only said what would speak against it.
    DryRun,
}

impl From<SoftVetoes> for WantHow {
    fn from(vetoes: SoftVetoes) -> Self {
        match vetoes {
            SoftVetoes::Count => Self::VetoesCount,
            SoftVetoes::Overridden => Self::VetoesOverridden,
        }
    }
}

/// What was last answered to the partner's requests for pools, but for those it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, serde::Serialize, serde::Deserialize)]
pub enum WantAnswer {
    /// Nothing.
    #[default]
    Nothing,
    /// The request of this number is refused; [`PageContent::vetoes`] says why.
    Refused(u64),
    /// It was only to be judged.
    Judged(Judged),
}

/// What would come of a request for pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Judged {
    /// Its number.
    pub number: u64,
    /// What speaks against it, one bit each.
    pub vetoes: u32,
    /// How long its clients would wait.
    pub pause: Micros,
}

/// What a node last saw in its partner's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Acknowledgement {
    /// Which incarnation.
    pub incarnation: Incarnation,
    /// Its state.
    pub state: StateWord,
}

/// The words the failover machine writes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PageContent {
    /// State word.
    pub state: StateWord,
    /// Stage.
    pub stage: Stage,
    /// Service health.
    pub health: Health,
    /// Highest generation known.
    pub generation: Generation,
    /// Last seen of the partner.
    pub acknowledgement: Option<Acknowledgement>,
    /// Identities whose portals listen here, by node index.
    pub portals_listening: [bool; 2],
    /// The incarnation RELEASED is for; stays in the words while GIVEBACK runs.
    pub released_to: Option<Incarnation>,
    /// Disk inventory digest.
    pub inventory: Option<u64>,
    /// Vetoes of the last refused hand-off, one bit each.
    pub vetoes: u32,
    /// The commit announced.
    pub announcement: Option<Announcement>,
    /// The request for the pools flagged `wanted`.
    pub want: Option<Want>,
    /// What was last answered to the partner's requests.
    pub want_answer: WantAnswer,
    /// Whether this node forwards commands: [`crate::config::Config::may_split`].
    pub may_split: bool,
    /// Pool table, ascending by id.
    pub pools: Vec<PagePool>,
}

/// The words the driver fills in at each publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct LiveWords {
    /// Progress counter.
    pub progress: u64,
    /// Heartbeat counter.
    pub heartbeat: u64,
    /// Last completed client command, microseconds since 1970.
    pub last_completion: u64,
}

/// A whole page.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Page {
    /// Whose pair.
    pub pair: PairId,
    /// Whose page.
    pub node: NodeId,
    /// Of which run.
    pub incarnation: Incarnation,
    /// Sequence word, even.
    pub sequence: u64,
    /// Layout version of its writer.
    pub layout_version: u16,
    /// The machine's words.
    pub content: PageContent,
    /// The driver's words.
    pub live: LiveWords,
}

/// Why 4 KiB read are no page to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PageError {
    /// Being written, or torn: read again.
    #[error("the state page was being written while it was read")]
    Torn,
    /// Nothing was ever published there.
    #[error("there is no state page (wrong magic)")]
    NoPage,
    /// A release too far away.
    #[error("state page layout {written} (readable from {readable_from}) is not understood by this release")]
    Version {
        /// Layout version of the writer.
        written: u16,
        /// Oldest layout version whose readers understand it.
        readable_from: u16,
    },
    /// Another pair's.
    #[error("state page of pair {0:?}, not of this pair")]
    Pair(PairId),
    /// Not the partner's.
    #[error("state page of node code {0}, not of the partner")]
    Node(u8),
    /// A word has a value no release may write.
    #[error("state page word at offset {offset} has no meaning")]
    Word {
        /// Where.
        offset: usize,
    },
}

struct Words<'a>(&'a mut [u8; PAGE_BYTES]);

impl Words<'_> {
    fn put<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        self.0[offset..offset + N].copy_from_slice(&bytes);
    }
}

fn take<const N: usize>(bytes: &[u8; PAGE_BYTES], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

fn u16_at(bytes: &[u8; PAGE_BYTES], offset: usize) -> u16 {
    u16::from_le_bytes(take(bytes, offset))
}

fn u32_at(bytes: &[u8; PAGE_BYTES], offset: usize) -> u32 {
    u32::from_le_bytes(take(bytes, offset))
}

fn u64_at(bytes: &[u8; PAGE_BYTES], offset: usize) -> u64 {
    u64::from_le_bytes(take(bytes, offset))
}

/// CRC-32C (Castagnoli, as in RFC 3720 appendix B.4).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn node_code(node: Option<NodeId>) -> u8 {
    node.map_or(0, NodeId::code)
}

fn incarnation_word(bytes: &[u8; PAGE_BYTES], offset: usize) -> Option<Incarnation> {
    Some(Incarnation(u64_at(bytes, offset))).filter(|incarnation| *incarnation != Incarnation::NONE)
}

impl Page {
    /// The bytes to publish.
    ///
    /// # Panics
    /// On an odd sequence number or more than [`POOLS_MAX`] pools: both are this node's own making.
    #[must_use]
    pub fn encode(&self) -> Box<[u8; PAGE_BYTES]> {
        assert!(self.sequence.is_multiple_of(2), "a published page has an even sequence number");
        assert!(self.content.pools.len() <= POOLS_MAX, "the pool table has 60 entries");
        let mut bytes = Box::new([0; PAGE_BYTES]);
        let mut words = Words(&mut bytes);
        words.put(0, MAGIC);
        words.put(8, self.layout_version.to_le_bytes());
        words.put(10, OLDEST_READABLE.to_le_bytes());
        words.put(12, self.pair.0.to_le_bytes());
        words.put(14, [self.node.code()]);
        words.put(16, self.incarnation.0.to_le_bytes());
        words.put(SEQUENCE_OFFSET, self.sequence.to_le_bytes());
        words.put(72, self.live.progress.to_le_bytes());
        words.put(80, self.live.heartbeat.to_le_bytes());
        words.put(152, self.live.last_completion.to_le_bytes());
        self.content.put(&mut words);
        let crc = crc32c(&bytes[..CRC_OFFSET]);
        Words(&mut bytes).put(CRC_OFFSET, crc.to_le_bytes());
        bytes
    }

    /// The page in bytes read from the partner, if they are one to act on.
    ///
    /// # Errors
    /// [`PageError::Torn`] asks for another read; every other error stands until the partner publishes something else.
    pub fn decode(bytes: &[u8; PAGE_BYTES], pair: PairId, partner: NodeId) -> Result<Self, PageError> {
        let sequence = u64_at(bytes, SEQUENCE_OFFSET);
        if take(bytes, 0) == [0u8; 8] && sequence == 0 {
            return Err(PageError::NoPage);
        }
        if !sequence.is_multiple_of(2) || crc32c(&bytes[..CRC_OFFSET]) != u32_at(bytes, CRC_OFFSET) {
            return Err(PageError::Torn);
        }
        if take(bytes, 0) != MAGIC {
            return Err(PageError::NoPage);
        }
        let (written, readable_from) = (u16_at(bytes, 8), u16_at(bytes, 10));
        if written < OLDEST_READABLE || readable_from > LAYOUT_VERSION {
            return Err(PageError::Version { written, readable_from });
        }
        let found_pair = PairId(u16_at(bytes, 12));
        if found_pair != pair {
            return Err(PageError::Pair(found_pair));
        }
        if bytes[14] != partner.code() {
            return Err(PageError::Node(bytes[14]));
        }
        Ok(Self {
            pair,
            node: partner,
            incarnation: incarnation_word(bytes, 16).ok_or(PageError::Word { offset: 16 })?,
            sequence,
            layout_version: written,
            content: PageContent::take(bytes)?,
            live: LiveWords {
                progress: u64_at(bytes, 72),
                heartbeat: u64_at(bytes, 80),
                last_completion: u64_at(bytes, 152),
            },
        })
    }
}

impl PageContent {
    /// The entry of a pool.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<&PagePool> {
        self.pools.iter().find(|pool| pool.id == id)
    }

    fn put(&self, words: &mut Words<'_>) {
        let listening = self.portals_listening;
        words.put(STATE_OFFSET, (self.state as u32).to_le_bytes());
        words.put(68, (self.stage as u32).to_le_bytes());
        words.put(88, (self.health as u32).to_le_bytes());
        words.put(92, self.generation.0.to_le_bytes());
        if let Some(seen) = self.acknowledgement {
            words.put(96, seen.incarnation.0.to_le_bytes());
            words.put(104, (seen.state as u32).to_le_bytes());
        }
        words.put(108, (u32::from(listening[0]) | u32::from(listening[1]) << 1).to_le_bytes());
        words.put(112, self.released_to.unwrap_or(Incarnation::NONE).0.to_le_bytes());
        words.put(120, self.inventory.unwrap_or(0).to_le_bytes());
        words.put(128, self.vetoes.to_le_bytes());
        if let Some(announced) = self.announcement {
            words.put(132, announced.generation.0.to_le_bytes());
            words.put(136, announced.to.0.to_le_bytes());
        }
        if let Some(want) = self.want {
            let at = if want.how == WantHow::DryRun { 176 } else { 144 };
            words.put(at, want.number.to_le_bytes());
            words.put(164, u32::from(want.how == WantHow::VetoesOverridden).to_le_bytes());
        }
        match self.want_answer {
            WantAnswer::Nothing => {}
            WantAnswer::Refused(number) => words.put(168, number.to_le_bytes()),
            WantAnswer::Judged(judged) => {
                words.put(184, judged.number.to_le_bytes());
                words.put(192, judged.vetoes.to_le_bytes());
                words.put(200, judged.pause.0.to_le_bytes());
            }
        }
        words.put(196, u32::from(self.may_split).to_le_bytes());
        words.put(160, (self.pools.len() as u32).to_le_bytes());
        for (index, pool) in self.pools.iter().enumerate() {
            pool.put(words, TABLE_OFFSET + index * ENTRY_BYTES);
        }
    }

    fn take(bytes: &[u8; PAGE_BYTES]) -> Result<Self, PageError> {
        let word = |offset| PageError::Word { offset };
        let state_at = |offset| StateWord::from_word(u32_at(bytes, offset)).ok_or(word(offset));
        let entries = u32_at(bytes, 160) as usize;
        if entries > POOLS_MAX {
            return Err(word(160));
        }
        let listening = u32_at(bytes, 108);
        let acknowledgement = match incarnation_word(bytes, 96) {
            None => None,
            Some(incarnation) => Some(Acknowledgement { incarnation, state: state_at(104)? }),
        };
        Ok(Self {
            state: state_at(STATE_OFFSET)?,
            stage: Stage::from_word(u32_at(bytes, 68)),
            health: Health::from_word(u32_at(bytes, 88)).ok_or(word(88))?,
            generation: generation_at(bytes, 92)?,
            acknowledgement,
            portals_listening: [listening & 1 != 0, listening & 2 != 0],
            released_to: incarnation_word(bytes, 112),
            inventory: Some(u64_at(bytes, 120)).filter(|digest| *digest != 0),
            vetoes: u32_at(bytes, 128),
            announcement: incarnation_word(bytes, 136)
                .map(|to| generation_at(bytes, 132).map(|generation| Announcement { generation, to }))
                .transpose()?,
            want: want_in(bytes),
            want_answer: want_answer_in(bytes),
            may_split: u32_at(bytes, 196) & 1 != 0,
            pools: (0..entries)
                .map(|index| PagePool::take(bytes, TABLE_OFFSET + index * ENTRY_BYTES))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn want_in(bytes: &[u8; PAGE_BYTES]) -> Option<Want> {
    let how = if u32_at(bytes, 164) & 1 == 0 { WantHow::VetoesCount } else { WantHow::VetoesOverridden };
    let told = [(144, how), (176, WantHow::DryRun)].map(|(offset, how)| Want { number: u64_at(bytes, offset), how });
    told.into_iter().find(|want| want.number != 0)
}

fn want_answer_in(bytes: &[u8; PAGE_BYTES]) -> WantAnswer {
    match (u64_at(bytes, 168), u64_at(bytes, 184)) {
        (0, 0) => WantAnswer::Nothing,
        (0, number) => {
            let pause = Micros(u64_at(bytes, 200));
            WantAnswer::Judged(Judged { number, vetoes: u32_at(bytes, 192), pause })
        }
        (refused, _) => WantAnswer::Refused(refused),
    }
}

fn generation_at(bytes: &[u8; PAGE_BYTES], offset: usize) -> Result<Generation, PageError> {
    let generation = Generation(u32_at(bytes, offset));
    if generation <= Generation::LAST { Ok(generation) } else { Err(PageError::Word { offset }) }
}

impl Health {
    fn from_word(word: u32) -> Option<Self> {
        [Self::Good, Self::Degraded, Self::Unfit].into_iter().find(|health| *health as u32 == word)
    }
}

impl PagePool {
    fn put(&self, words: &mut Words<'_>, at: usize) {
        words.put(at, self.id.0.to_le_bytes());
        words.put(at + 4, [node_code(self.owner), self.state as u8]);
        words.put(at + 6, (if self.wanted { FLAG_WANTED } else { 0 }).to_le_bytes());
        words.put(at + 8, self.generation.0.to_le_bytes());
        words.put(at + 16, self.metadata_version.0.to_le_bytes());
    }

    fn take(bytes: &[u8; PAGE_BYTES], at: usize) -> Result<Self, PageError> {
        let owner = match bytes[at + 4] {
            0 => None,
            code => Some(NodeId::from_code(code).ok_or(PageError::Word { offset: at + 4 })?),
        };
        Ok(Self {
            id: PoolId(u32_at(bytes, at)),
            owner,
            state: PoolState::from_byte(bytes[at + 5]).ok_or(PageError::Word { offset: at + 5 })?,
            wanted: u16_at(bytes, at + 6) & FLAG_WANTED != 0,
            generation: generation_at(bytes, at + 8)?,
            metadata_version: MetadataVersion(u64_at(bytes, at + 16)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: PairId = PairId(0x1234);

    fn pool(id: u32) -> PagePool {
        PagePool {
            id: PoolId(id),
            owner: Some(NodeId::B),
            state: PoolState::Serving,
            wanted: id.is_multiple_of(2),
            generation: Generation(0x00ab_cdef),
            metadata_version: MetadataVersion(u64::from(id) << 33),
        }
    }

    fn page() -> Page {
        Page {
            pair: PAIR,
            node: NodeId::A,
            incarnation: Incarnation(0x0102_0304_0506_0708),
            sequence: 42,
            layout_version: LAYOUT_VERSION,
            content: PageContent {
                state: StateWord::GiveWait,
                stage: Stage::WaitingForRelease,
                health: Health::Degraded,
                generation: Generation(17),
                acknowledgement: Some(Acknowledgement { incarnation: Incarnation(9), state: StateWord::Released }),
                portals_listening: [false, true],
                released_to: Some(Incarnation(77)),
                inventory: Some(0xdead_beef),
                vetoes: 0b1001,
                announcement: Some(Announcement { generation: Generation(18), to: Incarnation(78) }),
                want: Some(Want { number: 5, how: WantHow::VetoesOverridden }),
                want_answer: WantAnswer::Refused(4),
                may_split: true,
                pools: (1..=60).map(pool).collect(),
            },
            live: LiveWords { progress: 1, heartbeat: 2, last_completion: 3 },
        }
    }

    fn with_crc(mut bytes: Box<[u8; PAGE_BYTES]>) -> Box<[u8; PAGE_BYTES]> {
        let crc = crc32c(&bytes[..CRC_OFFSET]);
        bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn full_page_comes_back_as_it_was() {
        let page = page();
        assert_eq!(Page::decode(&page.encode(), PAIR, NodeId::A), Ok(page));
    }

    #[test]
    fn request_that_is_only_to_be_judged_is_none_to_a_reader_of_layout_1() {
        let mut page = page();
        page.content.want = Some(Want { number: 6, how: WantHow::DryRun });
        page.content.want_answer = WantAnswer::Judged(Judged { number: 7, vetoes: 0b101, pause: Micros(2_300) });
        let bytes = page.encode();
        assert_eq!(bytes[144..152], [0; 8], "a real one would be carried out");
        assert_eq!(bytes[168..176], [0; 8], "nothing was refused");
        assert_eq!(Page::decode(&bytes, PAIR, NodeId::A), Ok(page));
    }

    #[test]
    fn state_word_is_at_its_one_predetermined_location() {
        for state in StateWord::ALL {
            let mut page = page();
            page.content.state = state;
            assert_eq!(page.encode()[64..68], (state as u32).to_le_bytes());
            assert_eq!(StateWord::from_word(state as u32), Some(state));
        }
        assert_eq!(StateWord::from_word(0), None);
    }

    #[test]
    fn every_flipped_bit_makes_the_page_torn() {
        let good = page().encode();
        for at in 0..PAGE_BYTES {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            assert_eq!(Page::decode(&bytes, PAIR, NodeId::A), Err(PageError::Torn), "byte {at}");
        }
    }

    #[test]
    fn halves_of_two_publications_are_torn_wherever_the_cut_is() {
        let (one, mut two) = (page().encode(), page());
        two.sequence += 2;
        two.content.state = StateWord::DiskInit;
        two.live.heartbeat += 1;
        let two = two.encode();
        // Below 32 bytes nothing of the first publication is left behind that differs, except the sequence word itself.
        for cut in (32..CRC_OFFSET).step_by(8) {
            let mut mixed = two.clone();
            mixed[cut..].copy_from_slice(&one[cut..]);
            assert_eq!(Page::decode(&mixed, PAIR, NodeId::A), Err(PageError::Torn), "cut at {cut}");
        }
    }

    #[test]
    fn page_under_change_is_torn() {
        let mut bytes = page().encode();
        bytes[SEQUENCE_OFFSET] |= 1;
        assert_eq!(Page::decode(&with_crc(bytes), PAIR, NodeId::A), Err(PageError::Torn));
    }

    #[test]
    fn blank_memory_and_foreign_memory_are_no_page() {
        assert_eq!(Page::decode(&[0; PAGE_BYTES], PAIR, NodeId::A), Err(PageError::NoPage));
        let mut bytes = page().encode();
        bytes[0] = b'X';
        assert_eq!(Page::decode(&with_crc(bytes), PAIR, NodeId::A), Err(PageError::NoPage));
    }

    #[test]
    fn page_of_another_pair_or_node_is_rejected() {
        let bytes = page().encode();
        assert_eq!(Page::decode(&bytes, PairId(1), NodeId::A), Err(PageError::Pair(PAIR)));
        assert_eq!(Page::decode(&bytes, PAIR, NodeId::B), Err(PageError::Node(1)));
    }

    #[test]
    fn newer_release_is_read_while_it_says_that_it_can_be() {
        let mut bytes = page().encode();
        bytes[8..10].copy_from_slice(&(LAYOUT_VERSION + 1).to_le_bytes());
        let newer = with_crc(bytes.clone());
        assert_eq!(Page::decode(&newer, PAIR, NodeId::A).map(|page| page.layout_version), Ok(LAYOUT_VERSION + 1));
        bytes[10..12].copy_from_slice(&(LAYOUT_VERSION + 1).to_le_bytes());
        let too_new = PageError::Version { written: LAYOUT_VERSION + 1, readable_from: LAYOUT_VERSION + 1 };
        assert_eq!(Page::decode(&with_crc(bytes), PAIR, NodeId::A), Err(too_new));
    }

    #[test]
    fn words_without_a_meaning_are_refused_where_they_stand() {
        for (offset, word) in [(64, 12u32), (64, 0), (88, 3), (92, 0x0100_0000), (104, 99), (132, u32::MAX), (160, 61)]
        {
            let mut bytes = page().encode();
            bytes[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
            assert_eq!(Page::decode(&with_crc(bytes), PAIR, NodeId::A), Err(PageError::Word { offset }));
        }
        for (offset, byte) in [(256 + 4, 3u8), (256 + 5, 6)] {
            let mut bytes = page().encode();
            bytes[offset] = byte;
            assert_eq!(Page::decode(&with_crc(bytes), PAIR, NodeId::A), Err(PageError::Word { offset }));
        }
    }

    #[test]
    fn incarnation_zero_is_nobodys_page() {
        let mut bytes = page().encode();
        bytes[16..24].fill(0);
        assert_eq!(Page::decode(&with_crc(bytes), PAIR, NodeId::A), Err(PageError::Word { offset: 16 }));
    }

    #[test]
    fn stage_of_a_newer_release_is_shown_as_unknown() {
        let mut bytes = page().encode();
        bytes[68..72].copy_from_slice(&1_000u32.to_le_bytes());
        let stage = Page::decode(&with_crc(bytes), PAIR, NodeId::A).map(|page| page.content.stage);
        assert_eq!(stage, Ok(Stage::Unknown));
    }
}
