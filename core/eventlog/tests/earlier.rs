//! What programs with earlier vocabularies wrote is still read, and says the same: `earlier-5.txt` was written by one with vocabulary 5.
//!
//! Each line is a name and the postcard form, in hexadecimal digits, of a [`Start`] or of an [`Input`] as they stand in frames.

use understudy_eventlog::start::Start;
use understudy_failover::input::Input;

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

#[test]
fn what_was_written_with_vocabulary_5_is_read_and_would_be_written_the_same() {
    let mut read = 0;
    for line in include_str!("earlier-5.txt").lines() {
        let (name, hex) = line.split_once(' ').expect("a name and digits");
        let bytes = bytes(hex);
        let again = if name.starts_with("start") {
            let start: Start = postcard::from_bytes(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(start.machine().is_ok(), "{name}");
            postcard::to_allocvec(&start)
        } else {
            let input: Input = postcard::from_bytes(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            postcard::to_allocvec(&input)
        };
        assert_eq!(again.expect("plain data"), bytes, "{name}");
        read += 1;
    }
    assert!(read > 10, "{read} lines");
}
