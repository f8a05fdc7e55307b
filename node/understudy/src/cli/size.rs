//! Sizes and volumes as an operator types them.

use std::fmt;
use std::str::FromStr;

use crate::admin::Provisioning;

/// A number of bytes, typed as `512MiB`, `1.5GiB` or `1000000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// Binary units only: a volume of 1 GB that is smaller than one of 1 GiB helps nobody.
const UNITS: [(&str, u64); 5] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size; write it as 512MiB, 1.5GiB or 2TiB");
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number.trim(), *factor)))
            .ok_or_else(wrong)?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 6 || (factor == 1 && !part.is_empty()) {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let part: u64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
        let of_part = u128::from(part) * u128::from(factor) / 1_000_000;
        let bytes = u128::from(whole) * u128::from(factor) + of_part;
        match u64::try_from(bytes) {
            Ok(0) | Err(_) => Err(wrong()),
            Ok(bytes) => Ok(Self(bytes)),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |factor: u64| self.0 >= factor;
        let (unit, factor) = UNITS.into_iter().find(|(_, factor)| fits(*factor)).unwrap_or(("", 1));
        let unit = if unit.is_empty() { "B" } else { unit };
        // u64::MAX bytes are sixteen million TiB, times ten: no product of two u64 here.
        let tenths = u128::from(self.0) * 10 / u128::from(factor) % 10;
        let text = match (tenths, factor) {
            (0, _) | (_, 1) => format!("{} {unit}", self.0 / factor),
            (tenth, _) => format!("{}.{tenth} {unit}", self.0 / factor),
        };
        out.pad(&text)
    }
}

/// A volume to be made, typed as `name:size:pool` or `name:size:pool:thin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeWish {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size: Size,
    /// The pool it shall live in.
    pub pool: String,
    /// When its chunks are taken from the pool.
    pub provisioning: Provisioning,
}

impl FromStr for VolumeWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, size, pool, provisioning) = match text.split(':').collect::<Vec<_>>()[..] {
            [name, size, pool] => (name, size, pool, Provisioning::Thick),
            [name, size, pool, "thin"] => (name, size, pool, Provisioning::Thin),
            _ => {
                return Err(format!(
                    "`{text}` is no volume; write it as name:size:pool, as in vm1:64MiB:pool-a, or with :thin behind it"
                ));
            }
        };
        check_volume_name(name)?;
        Ok(Self { name: name.to_owned(), size: size.parse()?, pool: pool.to_owned(), provisioning })
    }
}

/// Whether a volume may be called `name`.
///
/// # Errors
/// What is expected.
pub fn check_volume_name(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if (1..=32).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(format!("`{name}` can not be the name of a volume; use 1 to 32 characters of a-z, 0-9, `-`, `_`, `.`"))
}
