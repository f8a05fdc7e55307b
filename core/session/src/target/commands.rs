//! The commands under way, by tag.
//!
//! The one idea: most commands are over before the next one comes, so the newest stands by itself and the others are in a map. Which
//! of the two a command is in makes no difference to anybody.

use std::collections::BTreeMap;

use understudy_iscsi::serial::TaskTag;

use super::full::Command;

/// Every command that was delivered and not yet answered or abandoned.
// BOUND: the command window, and the immediate commands beside it.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    newest: Option<(TaskTag, Command)>,
    others: BTreeMap<TaskTag, Command>,
}

impl Commands {
    pub(crate) fn get(&self, tag: TaskTag) -> Option<&Command> {
        match &self.newest {
            Some((newest, command)) if *newest == tag => Some(command),
            Some(_) | None => self.others.get(&tag),
        }
    }

    pub(crate) fn get_mut(&mut self, tag: TaskTag) -> Option<&mut Command> {
        match &mut self.newest {
            Some((newest, command)) if *newest == tag => Some(command),
            Some(_) | None => self.others.get_mut(&tag),
        }
    }

    /// Enters a command whose tag no other has.
    pub(crate) fn insert(&mut self, tag: TaskTag, command: Command) {
        if let Some((older, other)) = self.newest.replace((tag, command)) {
            self.others.insert(older, other);
        }
    }

    pub(crate) fn remove(&mut self, tag: TaskTag) -> Option<Command> {
        match self.newest.take_if(|(newest, _)| *newest == tag) {
            Some((_, command)) => Some(command),
            None => self.others.remove(&tag),
        }
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Command> {
        self.newest.iter().map(|(_, command)| command).chain(self.others.values())
    }
}
