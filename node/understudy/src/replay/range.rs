//! Which steps of a replay are shown: from here to there, by number or by the clock on the wall, and only those about something.
//!
//! Not here: what is run. All of it is, since a step means something only after those before it. The one idea: an incident is
//! reported with a time of day ("at 14:03 the pool was gone"), so a time of day is enough to get there.

use std::ops::RangeInclusive;
use std::str::FromStr;

use super::Shown;

const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;

/// What becomes of uneventful steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uneventfully {
    /// They are counted.
    Counted,
    /// They are shown.
    Shown,
}

/// Which steps are shown.
#[derive(Debug, Clone)]
pub struct Range {
    /// By their numbers.
    pub steps: RangeInclusive<u64>,
    /// By the wall clock, microseconds since 1970.
    pub moments: RangeInclusive<u64>,
    /// Whether uneventful ones are shown too.
    pub all: Uneventfully,
    /// Words in small letters, one of which has to occur in a step; none if any step will do.
    pub only: Vec<String>,
}

impl Range {
    /// Every step.
    #[must_use]
    pub fn everything(all: Uneventfully) -> Self {
        Self { steps: 1..=u64::MAX, moments: 0..=u64::MAX, all, only: Vec::new() }
    }

    /// Whether steps are left out because of where they are or what they are about.
    #[must_use]
    pub fn is_part(&self) -> bool {
        let Self { steps, moments, all: _, only } = self;
        *steps != (1..=u64::MAX) || *moments != (0..=u64::MAX) || !only.is_empty()
    }

    /// Whether the step is within the range.
    #[must_use]
    pub fn contains(&self, shown: &Shown<'_>) -> bool {
        self.steps.contains(&shown.number) && self.moments.contains(&shown.step.wall_micros)
    }

    /// Whether a step with these lines is about what is looked for.
    #[must_use]
    pub fn is_about<'l>(&self, lines: impl IntoIterator<Item = &'l str>) -> bool {
        let has_one = |line: &str| {
            let line = line.to_lowercase();
            self.only.iter().any(|words| line.contains(words))
        };
        self.only.is_empty() || lines.into_iter().any(has_one)
    }

    /// From one place to the other, in a log whose first and last moments are these.
    #[must_use]
    pub fn between(from: Option<Place>, until: Option<Place>, span: Option<(u64, u64)>, all: Uneventfully) -> Self {
        let mut range = Self::everything(all);
        let last = span.map_or(0, |(_, last)| last);
        let (mut begin, mut end) = (0, u64::MAX);
        match from {
            Some(Place::Step(number)) => range.steps = number..=u64::MAX,
            Some(Place::Moment(at)) => begin = at,
            // The last time it was so late.
            Some(Place::OfDay(at)) if last % DAY >= at => begin = last - last % DAY + at,
            Some(Place::OfDay(at)) => begin = (last - last % DAY + at).saturating_sub(DAY),
            None => {}
        }
        match until {
            Some(Place::Step(number)) => range.steps = *range.steps.start()..=number,
            Some(Place::Moment(at)) => end = at,
            // The next time after the begin, or on the last day.
            Some(Place::OfDay(at)) => {
                let day = if begin == 0 { last } else { begin };
                end = day - day % DAY + at;
                end += if end < begin { DAY } else { 0 };
            }
            None => {}
        }
        range.moments = begin..=end;
        range
    }
}

/// A place in a log, as a person names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The number of a step.
    Step(u64),
    /// Microseconds since 1970.
    Moment(u64),
    /// Microseconds since midnight, UTC.
    OfDay(u64),
}

impl FromStr for Place {
    type Err = String;

    /// Reads `400`, `14:03`, `14:03:05.25`, `2026-05-31 14:03:05`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = match text.split_once([' ', 'T']) {
            Some((day, of_day)) => day_of(day).zip(of_day_of(of_day)).map(|(day, of_day)| Self::Moment(day + of_day)),
            None if text.contains(':') => of_day_of(text).map(Self::OfDay),
            None => text.parse().ok().map(Self::Step),
        };
        place.ok_or_else(|| {
            "expected the number of a step, or a time (UTC) as 14:03, 14:03:05.250 or 2026-05-31T14:03:05".to_owned()
        })
    }
}

/// Microseconds of `14:03:05.25`.
fn of_day_of(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let mut parts = text.split(':');
    let mut below = |limit: u64| parts.next().map(|part| part.parse::<u64>().ok().filter(|number| *number < limit));
    let (hours, minutes) = (below(24)??, below(60)??);
    let micros = match parts.next() {
        None => 0,
        Some(seconds) => seconds_of(seconds)?,
    };
    parts.next().is_none().then_some((hours * 60 + minutes) * 60 * SECOND + micros)
}

/// Microseconds of `05.25`.
fn seconds_of(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_fraction = (1..=6).contains(&fraction.len()) && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let micros: u64 = format!("{fraction:0<6}").parse().ok().filter(|_| is_fraction)?;
    let seconds = whole.parse::<u64>().ok().filter(|seconds| *seconds < 60)?;
    Some(seconds * SECOND + micros)
}

/// Microseconds from 1970 to the day `2026-05-31`, in the Gregorian calendar.
fn day_of(text: &str) -> Option<u64> {
    let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_in = |month: u64| match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_day = (1970..10_000).contains(&year) && (1..=12).contains(&month) && (1..=days_in(month)).contains(&day);
    if !is_day || parts.next().is_some() {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    Some((years + (1..month).map(days_in).sum::<u64>() + day - 1) * DAY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::clock;

    fn place(text: &str) -> Place {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn places_are_numbers_times_and_moments() {
        assert_eq!(place("400"), Place::Step(400));
        assert_eq!(place("14:03"), Place::OfDay((14 * 60 + 3) * 60 * SECOND));
        assert_eq!(place("00:00:05.25"), Place::OfDay(5_250_000));
        for text in ["2026-05-31 14:03:05.250", "2024-02-29 23:59:59.999", "1970-01-01 00:00:00.000"] {
            let Place::Moment(micros) = place(text) else { panic!("{text} is a moment") };
            assert_eq!(clock(micros), text);
            assert_eq!(place(&format!("{}Z", text.replace(' ', "T"))), Place::Moment(micros));
        }
    }

    #[test]
    fn what_is_no_place_is_refused_with_what_is() {
        for text in [
            "",
            "-1",
            "25:00",
            "14:60",
            "14:03:60",
            "14:03:05.",
            "14:03:05.1234567",
            "2026-02-30 14:03",
            "2026-13-01T00:00",
            "1:2:3:4",
            "noon",
        ] {
            let error = text.parse::<Place>().expect_err(text);
            assert!(error.contains("14:03"), "{error}");
        }
    }

    #[test]
    fn times_of_day_are_those_of_the_last_day_that_had_them() {
        let noon = 20_000 * DAY + DAY / 2;
        let between = |from: Option<&str>, until: Option<&str>| {
            let range =
                Range::between(from.map(place), until.map(place), Some((noon - DAY, noon)), Uneventfully::Counted);
            (*range.moments.start(), *range.moments.end())
        };
        let at = |day: u64, hour: u64| (20_000 - 1 + day) * DAY + hour * 3600 * SECOND;
        assert_eq!(between(Some("11:00"), None), (at(1, 11), u64::MAX));
        assert_eq!(between(Some("13:00"), None), (at(0, 13), u64::MAX), "it was not so late today");
        assert_eq!(between(Some("23:00"), Some("01:00")), (at(0, 23), at(1, 1)), "over midnight");
        assert_eq!(between(None, Some("09:00")), (0, at(1, 9)));
        assert_eq!(between(Some("10:00"), Some("11:00")), (at(1, 10), at(1, 11)));
        assert!(Range::between(Some(Place::Step(7)), None, None, Uneventfully::Counted).is_part());
        assert!(!Range::everything(Uneventfully::Shown).is_part());
    }
}
