//! Comparing data with the medium, for VERIFY and COMPARE AND WRITE.

/// Offset of the first byte that differs; `None` if `left` and `right` are equal as far as the shorter goes.
pub(crate) fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let length = left.len().min(right.len());
    if left[..length] == right[..length] {
        return None;
    }
    (0..length).find(|at| left[*at] != right[*at])
}

/// The same against one block repeated.
pub(crate) fn first_difference_from_repeated(bytes: &[u8], block: &[u8]) -> Option<usize> {
    bytes
        .chunks(block.len().max(1))
        .enumerate()
        .find_map(|(index, chunk)| first_difference(chunk, block).map(|at| index * block.len() + at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_found_where_it_is() {
        assert_eq!(first_difference(b"same", b"same"), None);
        assert_eq!(first_difference(b"sane", b"same"), Some(2));
        assert_eq!(first_difference_from_repeated(b"ababab", b"ab"), None);
        assert_eq!(first_difference_from_repeated(b"ababxb", b"ab"), Some(4));
    }
}
