//! What a pair does, step by step: the first column of the table of drills.
//!
//! A step is named by the place in a node's run where it can be seen (see [`understudy::driver::drill`]). The drill lets the node stop
//! there for as long as it takes to hurt somebody: so every fault meets the pair in that very step, and not somewhere near it.

use std::fmt;

use understudy::config::NodeName;

/// What the pair is doing when a fault meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Story {
    /// A node was killed; its partner takes over.
    Takeover,
    /// An operator asks a node to take over from its partner, which is well.
    PlannedTakeover,
    /// A node that was killed boots again; everything up to its being UP, the giveback included.
    BringUp,
    /// An operator asks for a giveback after a planned takeover.
    Giveback,
}

impl Story {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Takeover, Self::PlannedTakeover, Self::BringUp, Self::Giveback];

    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Takeover => "takeover",
            Self::PlannedTakeover => "planned-takeover",
            Self::BringUp => "bring-up",
            Self::Giveback => "giveback",
        }
    }
}

/// A node's part in a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The node whose pools go away and come home.
    Home,
    /// Its partner.
    Survivor,
}

impl Role {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Home, Self::Survivor];

    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Survivor => "survivor",
        }
    }

    /// Which node it is where `home` plays [`Role::Home`].
    #[must_use]
    pub fn played(self, home: NodeName) -> NodeName {
        match self {
            Self::Home => home,
            Self::Survivor => home.partner(),
        }
    }
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// What the pair is doing.
    pub story: Story,
    /// Who is seen in this step.
    pub role: Role,
    /// Where.
    pub place: &'static str,
    /// Where the home node stops until the survivor has got here; it leaves that state at once otherwise.
    pub home_waits_at: Option<&'static str>,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.story.name(), self.role.name(), self.place)
    }
}

/// Places with, for some, where the home node waits.
type Places = [(&'static str, Option<&'static str>)];

/// The survivor of a takeover nobody planned; its partner is dead.
const TAKEOVER: &Places = &[
    ("partner-lost", None),
    ("contest", None),
    ("contest-won", None),
    ("recorded", None),
    ("fenced", None),
    ("verified", None),
    ("serving", None),
    ("page-takeover", None),
];

const PLANNED_TAKEOVER_HOME: &Places = &[
    ("want-read", None),
    ("page-giveback", None),
    ("holding", None),
    ("held", None),
    ("commit-sent", None),
    ("committed", None),
    ("announced", None),
    ("ceased", None),
    ("page-mbwait", None),
];

const PLANNED_TAKEOVER_SURVIVOR: &Places = &[
    ("announcement-read", None),
    ("commit-read", None),
    ("fenced", None),
    ("verified", None),
    ("serving", None),
    ("page-released", None),
];

const BRING_UP_HOME: &Places = &[
    ("page-booting", None),
    ("page-givewait", None),
    ("released-read", None),
    ("release-checked", None),
    ("page-diskinit", None),
    ("disks-initialised", None),
    ("page-mbwait", None),
    ("giveback-read", None),
    ("announcement-read", None),
    ("commit-read", None),
    ("page-resuming", None),
    ("fenced", None),
    ("verified", None),
    ("serving", None),
    ("page-up", None),
];

const BRING_UP_SURVIVOR: &Places = &[
    ("booting-read", Some("page-booting")),
    ("givewait-read", None),
    ("reservations-released", None),
    ("page-released", None),
    ("diskinit-read", Some("page-diskinit")),
    ("mbwait-read", None),
    ("page-giveback", None),
    ("holding", None),
    ("held", None),
    ("commit-sent", None),
    ("committed", None),
    ("announced", None),
    ("resuming-read", Some("page-resuming")),
    ("ceased", None),
    ("page-up", None),
];

const GIVEBACK_HOME: &Places = &[
    ("announcement-read", None),
    ("commit-read", None),
    ("page-resuming", None),
    ("fenced", None),
    ("verified", None),
    ("serving", None),
    ("page-up", None),
];

const GIVEBACK_SURVIVOR: &Places = &[
    ("page-giveback", None),
    ("holding", None),
    ("held", None),
    ("commit-sent", None),
    ("committed", None),
    ("announced", None),
    ("ceased", None),
];

/// Every step of every story, in order.
#[must_use]
pub fn steps() -> Vec<Step> {
    let all: [(Story, Role, &Places); 7] = [
        (Story::Takeover, Role::Survivor, TAKEOVER),
        (Story::PlannedTakeover, Role::Home, PLANNED_TAKEOVER_HOME),
        (Story::PlannedTakeover, Role::Survivor, PLANNED_TAKEOVER_SURVIVOR),
        (Story::BringUp, Role::Home, BRING_UP_HOME),
        (Story::BringUp, Role::Survivor, BRING_UP_SURVIVOR),
        (Story::Giveback, Role::Home, GIVEBACK_HOME),
        (Story::Giveback, Role::Survivor, GIVEBACK_SURVIVOR),
    ];
    let of = |(story, role, places): (Story, Role, &Places)| -> Vec<Step> {
        places.iter().map(|(place, home_waits_at)| Step { story, role, place, home_waits_at: *home_waits_at }).collect()
    };
    all.into_iter().flat_map(of).collect()
}
