//! Binary values in text: hexadecimal and base64 constants (RFC 7143 §6.1).
//!
//! Not here: numbers ([`crate::text::parse_number`]). The one idea: the length that counts is that of the bytes, not of
//! the characters, and it is bounded before anything is allocated.

/// The bytes of `0x…` or `0b…`; `None` if it is neither, is not well formed or has more than `limit` bytes.
///
/// Digits may be of either case. Base64 (RFC 4648 §4) is taken with its padding, and without bits that stand for nothing,
/// so that no two texts mean the same bytes by mistake.
#[must_use]
pub fn parse_binary(value: &str, limit: usize) -> Option<Vec<u8>> {
    let (form, digits) = value.split_at_checked(2)?;
    match form {
        "0x" | "0X" => hexadecimal(digits.as_bytes(), limit),
        "0b" | "0B" => base64(digits.as_bytes(), limit),
        _decimal => None,
    }
}

/// Bytes as a hexadecimal constant.
#[must_use]
pub fn encode_binary(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 0x0f)]);
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]);
    "0x".chars().chain(digits).collect()
}

/// An odd number of digits is refused: nobody could say at which end the missing one was.
fn hexadecimal(digits: &[u8], limit: usize) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.is_empty() || !rest.is_empty() || pairs.len() > limit {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    pairs.iter().map(|[high, low]| Some((nibble(*high)? << 4) | nibble(*low)?)).collect()
}

fn base64(digits: &[u8], limit: usize) -> Option<Vec<u8>> {
    let (quads, rest) = digits.as_chunks::<4>();
    let (last, whole) = quads.split_last()?;
    if !rest.is_empty() || whole.len().saturating_mul(3) > limit {
        return None;
    }
    let mut bytes = Vec::with_capacity(quads.len() * 3);
    for quad in whole {
        bytes.extend_from_slice(&sextets(quad)?);
    }
    bytes.extend_from_slice(&last_sextets(last)?);
    (bytes.len() <= limit).then_some(bytes)
}

/// Three bytes of four digits.
fn sextets(quad: &[u8; 4]) -> Option<[u8; 3]> {
    let mut joined = 0_u32;
    for digit in quad {
        joined = (joined << 6) | u32::from(sextet(*digit)?);
    }
    let [_, first, second, third] = joined.to_be_bytes();
    Some([first, second, third])
}

/// One to three bytes of the last four digits, of which up to two may be padding.
fn last_sextets(quad: &[u8; 4]) -> Option<Vec<u8>> {
    let padding = quad.iter().rev().take_while(|digit| **digit == b'=').count();
    let digits = quad.map(|digit| if digit == b'=' { b'A' } else { digit });
    if padding > 2 || quad[..4 - padding].contains(&b'=') {
        return None;
    }
    let bytes = sextets(&digits)?;
    let (used, unused) = bytes.split_at(3 - padding);
    unused.iter().all(|byte| *byte == 0).then(|| used.to_vec())
}

fn sextet(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_of_either_case_are_read_and_written_back() {
        assert_eq!(parse_binary("0x00ff10Ab", 4), Some(vec![0x00, 0xff, 0x10, 0xab]));
        assert_eq!(parse_binary("0XA0", 4), Some(vec![0xa0]));
        assert_eq!(encode_binary(&[0x00, 0xff, 0x10, 0xab]), "0x00ff10ab");
    }

    /// RFC 4648 §10.
    #[test]
    fn base64_is_read_as_in_the_vectors_of_its_standard() {
        for (text, bytes) in [
            ("0bZg==", "f"),
            ("0bZm8=", "fo"),
            ("0bZm9v", "foo"),
            ("0BZm9vYg==", "foob"),
            ("0bZm9vYmE=", "fooba"),
            ("0bZm9vYmFy", "foobar"),
        ] {
            assert_eq!(parse_binary(text, 6).as_deref(), Some(bytes.as_bytes()), "{text}");
        }
        assert_eq!(parse_binary("0b+/+/", 3), Some(vec![0xfb, 0xff, 0xbf]));
    }

    #[test]
    fn what_is_no_binary_value_is_refused() {
        for text in [
            "",
            "0",
            "0x",
            "0b",
            "12",
            "0xabc",
            "0x0g",
            "0x+1",
            "ab",
            "0bZg=",
            "0bZ===",
            "0b====",
            "0bZg==Zg==",
            "0bZ=8=",
            "0bZh==",
            "0bZm9=",
            "0bZm 9",
            "0b-_-_",
            "é1",
        ] {
            assert_eq!(parse_binary(text, 64), None, "{text:?}");
        }
    }

    #[test]
    fn more_bytes_than_allowed_are_refused() {
        assert_eq!(parse_binary("0x0000", 1), None);
        assert_eq!(parse_binary("0bAAAA", 2), None);
        assert_eq!(parse_binary("0bAAA=", 2), Some(vec![0, 0]));
        assert_eq!(parse_binary(&format!("0b{}", "AAAA".repeat(1000)), 1024), None);
    }

    #[test]
    fn every_length_comes_back() {
        for length in 1..=70 {
            let bytes: Vec<u8> = (0..length).map(|number| (number * 37) as u8).collect();
            assert_eq!(parse_binary(&encode_binary(&bytes), 70), Some(bytes));
        }
    }
}
