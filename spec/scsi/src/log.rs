//! Log pages (SPC-4 r37 §7.3): what LOG SENSE returns.
//!
//! Only pages whose content is true of a volume behind a network: no medium of its own wears out, has a temperature or counts
//! its errors. Whoever watches a disk's health reads the Informational Exceptions page, and that there is nothing to report.

/// Log page codes.
#[allow(missing_docs, reason = "each constant's name is the standard's name of the page")]
pub mod page {
    pub const SUPPORTED_PAGES: u8 = 0x00;
    pub const INFORMATIONAL_EXCEPTIONS: u8 = 0x2f;
    pub const ALL_SUBPAGES: u8 = 0xff;
}

/// Every page and subpage, ascending.
pub const PAGES: [(u8, u8); 3] =
    [(page::SUPPORTED_PAGES, 0), (page::SUPPORTED_PAGES, page::ALL_SUBPAGES), (page::INFORMATIONAL_EXCEPTIONS, 0)];

/// DS: the page's parameters are not saved.
const NOT_SAVED: u8 = 0x80;
/// SPF: the page has a subpage code.
const SUBPAGE_FORMAT: u8 = 0x40;

fn encode(first: u8, subpage: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first, subpage];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// Supported Log Pages (SPC-4 r37 §7.3.17).
#[must_use]
pub fn encode_supported_pages() -> Vec<u8> {
    let codes: Vec<u8> = PAGES.iter().filter(|(_, subpage)| *subpage == 0).map(|(code, _)| *code).collect();
    encode(page::SUPPORTED_PAGES, 0, &codes)
}

/// Supported Log Pages and Subpages (SPC-4 r37 §7.3.18).
#[must_use]
pub fn encode_supported_subpages() -> Vec<u8> {
    let codes: Vec<u8> = PAGES.iter().flat_map(|(code, subpage)| [*code, *subpage]).collect();
    encode(SUBPAGE_FORMAT | page::SUPPORTED_PAGES, page::ALL_SUBPAGES, &codes)
}

/// Informational Exceptions (SPC-4 r37 §7.3.8): one parameter, 0000h, of the binary list format. No additional sense code; FFh is
/// how a unit says that it does not know its temperature.
#[must_use]
pub fn encode_informational_exceptions() -> Vec<u8> {
    encode(NOT_SAVED | page::INFORMATIONAL_EXCEPTIONS, 0, &[0, 0, 0x03, 4, 0, 0, 0xff, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_pages_name_every_page() {
        assert_eq!(encode_supported_pages(), [0, 0, 0, 2, 0x00, 0x2f]);
        assert_eq!(encode_supported_subpages(), [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x2f, 0]);
    }

    #[test]
    fn the_parameter_of_informational_exceptions_is_as_long_as_it_says() {
        let bytes = encode_informational_exceptions();
        assert_eq!(usize::from(bytes[3]), bytes.len() - 4);
        assert_eq!(usize::from(bytes[7]), bytes.len() - 8);
    }
}
