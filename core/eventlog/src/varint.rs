//! Numbers of as few bytes as they need: seven bits a byte, lowest first, the top bit says that more follow.
//!
//! The same form postcard writes; here for what is put together by hand.

/// Most bytes of one number.
const BYTES_MAX: usize = 10;

pub(crate) fn put(mut number: u64, out: &mut Vec<u8>) {
    // BOUND: seven bits less each time.
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The number at the beginning of `bytes`, and what follows it; `None` if there is none, or one of more than 64 bits.
pub(crate) fn take(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(BYTES_MAX) {
        let bits = u64::from(byte & 0x7f);
        if at == BYTES_MAX - 1 && bits > 1 {
            return None;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_of_number_comes_back() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put(number, &mut bytes);
            bytes.push(0x55);
            assert_eq!(take(&bytes), Some((number, &[0x55][..])));
        }
    }

    #[test]
    fn unfinished_and_too_long_numbers_are_none() {
        assert_eq!(take(&[]), None);
        assert_eq!(take(&[0x80, 0x80]), None);
        assert_eq!(take(&[0xff; 11]), None);
        assert_eq!(take(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), None);
    }
}
