//! Mode pages in force and saved (SPC-4 r37 §6.11, §6.14, §7.5).
//!
//! The tables are in `understudy-scsi`; here is which bits were changed, and the few questions the unit asks of them.

use understudy_scsi::cdb::PageControl;
use understudy_scsi::mode::{self, KEPT, PAGES, SelectedPage, page};
use understudy_scsi::sense::{Sense, SenseFormat};

/// The bytes of every page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModePages {
    current: Vec<Vec<u8>>,
    saved: Vec<Vec<u8>>,
}

impl Default for ModePages {
    fn default() -> Self {
        let defaults: Vec<Vec<u8>> = PAGES.iter().map(|layout| layout.default.to_vec()).collect();
        Self { current: defaults.clone(), saved: defaults }
    }
}

/// Whether a selection is to be saved too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Current,
    CurrentAndSaved,
}

impl ModePages {
    /// The pages as kept: changes to bits that may not change are refused.
    pub(crate) fn restore(kept: Vec<Vec<u8>>) -> Option<Self> {
        if kept.len() != KEPT.len() {
            return None;
        }
        let mut saved = Self::default().saved;
        for (index, bytes) in KEPT.into_iter().zip(kept) {
            if first_fixed_bit(&PAGES[index], &bytes).is_some() {
                return None;
            }
            saved[index] = bytes;
        }
        Some(Self { current: saved.clone(), saved })
    }

    /// What is to be kept of the saved values.
    pub(crate) fn kept(&self) -> [&[u8]; KEPT.len()] {
        KEPT.map(|index| self.saved[index].as_slice())
    }

    /// After a reset: saved values again.
    pub(crate) fn reset(&mut self) {
        self.current.clone_from(&self.saved);
    }

    /// The pages one MODE SENSE asks for, or which CDB byte names a page there is not.
    pub(crate) fn sense(&self, control: PageControl, code: u8, subpage: u8) -> Result<Vec<(usize, Vec<u8>)>, Sense> {
        let asked: Vec<usize> = PAGES
            .iter()
            .enumerate()
            .filter(|(_, layout)| {
                let by_page = code == page::ALL_PAGES || layout.page == code;
                let by_subpage = subpage == page::ALL_SUBPAGES || layout.subpage == subpage;
                by_page && by_subpage
            })
            .map(|(index, _)| index)
            .collect();
        if code == page::ALL_PAGES && subpage != 0 && subpage != page::ALL_SUBPAGES {
            return Err(Sense::cdb_field(3, None));
        }
        if asked.is_empty() {
            let byte = if PAGES.iter().any(|layout| layout.page == code) { 3 } else { 2 };
            return Err(Sense::cdb_field(byte, if byte == 2 { Some(5) } else { None }));
        }
        Ok(asked.into_iter().map(|index| (index, self.values(control, index))).collect())
    }

    fn values(&self, control: PageControl, index: usize) -> Vec<u8> {
        match control {
            PageControl::Current => self.current[index].clone(),
            PageControl::Saved => self.saved[index].clone(),
            PageControl::Default => PAGES[index].default.to_vec(),
            PageControl::Changeable => PAGES[index].changeable.to_vec(),
        }
    }

    /// The pages after a MODE SELECT, or where it changes what cannot change (SPC-4 r37 §6.11: then nothing changes).
    pub(crate) fn select(&self, pages: &[SelectedPage<'_>], reach: Reach) -> Result<Self, Sense> {
        let mut next = self.clone();
        for selected in pages {
            if let Some((byte, bit)) = first_fixed_bit(&PAGES[selected.layout], selected.body) {
                return Err(Sense::parameter_field((selected.at + byte) as u16, Some(bit)));
            }
            next.current[selected.layout] = selected.body.to_vec();
            if reach == Reach::CurrentAndSaved {
                next.saved[selected.layout] = selected.body.to_vec();
            }
        }
        Ok(next)
    }

    pub(crate) fn sense_format(&self) -> SenseFormat {
        if self.current[mode::CONTROL][0] & mode::DESCRIPTOR_SENSE == 0 {
            SenseFormat::Fixed
        } else {
            SenseFormat::Descriptor
        }
    }

    pub(crate) fn software_write_protected(&self) -> bool {
        self.current[mode::CONTROL][2] & mode::SOFTWARE_WRITE_PROTECT != 0
    }

    pub(crate) fn reports_task_aborted(&self) -> bool {
        self.current[mode::CONTROL][3] & mode::TASK_ABORTED_STATUS != 0
    }

    pub(crate) fn write_cache_enabled(&self) -> bool {
        self.current[mode::CACHING][0] & mode::WRITE_CACHE_ENABLED != 0
    }
}

fn first_fixed_bit(layout: &mode::PageLayout, bytes: &[u8]) -> Option<(usize, u8)> {
    if bytes.len() != layout.default.len() {
        return Some((0, 7));
    }
    (0..bytes.len()).find_map(|at| {
        let wrong = (bytes[at] ^ layout.default[at]) & !layout.changeable[at];
        (wrong != 0).then(|| (at, 7 - wrong.leading_zeros() as u8))
    })
}
