//! Single values: what each kind of setting looks like, and what is said of one that does not. Addresses are in `address.rs`.
//!
//! Where a secret may have been pasted (into the place of the file's name that holds it), the value is never part of a message.
#![expect(clippy::wildcard_enum_match_arm, reason = "a value of any other kind is refused, and so would be a kind that is added")]

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::rules::policy::{MaxInFlight, Revoked};
use crate::rules::routes::{Route, Routes};
use crate::rules::time::UnixTime;
use crate::rules::units::{parse_duration, parse_size, print_duration, print_size};

use super::bounds::{MAX_IN_FLIGHT, PATTERN_MAX, RATIO, TEXT_MAX, WORKERS};
use super::mirror::Written;

/// What is wrong with a value.
pub(super) type Checked<T> = Result<T, String>;

/// A whole number within bounds.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&Written) -> Checked<T>
where
    T: Copy + PartialOrd + Display + TryFrom<i128>,
{
    move |written| {
        let &Written::Whole(number) = written else {
            return Err(format!("{} is not a whole number", shown(written)));
        };
        match T::try_from(number) {
            Ok(value) => within(value, &range, |value| value.to_string()),
            Err(_) if number < 0 => Err(format!("{number} is below {}", range.start())),
            Err(_) => Err(format!("{number} is above {}", range.end())),
        }
    }
}

/// A number within bounds.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&Written) -> Checked<f64> {
    move |written| within(finite(written)?, &range, |value| value.to_string())
}

/// A share or a probability.
pub(super) fn ratio(written: &Written) -> Checked<f64> {
    number(RATIO)(written)
}

#[expect(clippy::cast_precision_loss, reason = "exact far beyond every bound")]
fn finite(written: &Written) -> Checked<f64> {
    match *written {
        Written::Whole(number) => Ok(number as f64),
        Written::Float(number) if number.is_finite() => Ok(number),
        _ => Err(format!("{} is not a finite number", shown(written))),
    }
}

/// A duration within bounds.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Written) -> Checked<Duration> {
    move |written| match written {
        Written::Text(text) => {
            let value = parse_duration(text).map_err(|error| format!("{} {error}", shown(written)))?;
            within(value, &range, print_duration)
        }
        Written::Whole(_) | Written::Float(_) => Err(format!("{} has no unit: write a duration such as 200ms, 10s or 20m", shown(written))),
        _ => Err(format!("{} is not a duration such as 200ms, 10s or 20m", shown(written))),
    }
}

/// A size in bytes within bounds.
pub(super) fn size(range: RangeInclusive<usize>) -> impl Fn(&Written) -> Checked<usize> {
    move |written| {
        let bytes = match written {
            Written::Text(text) => parse_size(text).map_err(|error| format!("{} {error}", shown(written)))?,
            &Written::Whole(number) if number < 0 => {
                return Err(format!("{number} is below {}", print_bytes(*range.start())));
            }
            &Written::Whole(number) => u64::try_from(number).unwrap_or(u64::MAX),
            _ => return Err(format!("{} is not a size such as 512, 32KiB or 1MiB", shown(written))),
        };
        within(usize::try_from(bytes).unwrap_or(usize::MAX), &range, print_bytes)
    }
}

/// Prints a size.
pub(super) fn print_bytes(bytes: usize) -> String {
    print_size(u64::try_from(bytes).unwrap_or(u64::MAX))
}

/// `true` or `false`.
pub(super) fn truth(written: &Written) -> Checked<bool> {
    match written {
        &Written::Bool(value) => Ok(value),
        _ => Err(format!("{} is not true or false", shown(written))),
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Written) -> Checked<T> {
    move |written| {
        let found = words.iter().find(|(word, _)| matches!(written, Written::Text(text) if text == word));
        found.map(|&(_, value)| value).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|&(word, _)| word).collect();
            format!("{} is not one of {}", shown(written), words.join(", "))
        })
    }
}

/// `listen.workers`: `auto` or a number.
pub(super) fn workers(written: &Written) -> Checked<Option<usize>> {
    match written {
        Written::Text(text) if text == "auto" => Ok(None),
        Written::Whole(_) => whole(WORKERS)(written).map(Some),
        _ => Err(format!("{} is neither auto nor a whole number", shown(written))),
    }
}

/// `upstream.max_in_flight`
pub(super) fn max_in_flight(written: &Written) -> Checked<MaxInFlight> {
    match written {
        Written::Text(text) if text == "auto" => Ok(MaxInFlight::Auto),
        Written::Whole(_) => whole(MAX_IN_FLIGHT)(written).map(MaxInFlight::Fixed),
        _ => Err(format!("{} is neither auto nor a whole number", shown(written))),
    }
}

/// `waiting_room.status`
pub(super) fn status(written: &Written) -> Checked<u16> {
    match *written {
        Written::Whole(200) => Ok(200),
        Written::Whole(202) => Ok(202),
        Written::Whole(429) => Ok(429),
        Written::Whole(503) => Ok(503),
        _ => Err(format!("{} is not one of 200, 202, 429, 503", shown(written))),
    }
}

/// `log.access`: `off`, `all` or a share.
pub(super) fn access(written: &Written) -> Checked<f64> {
    match written {
        Written::Text(text) if text == "off" => Ok(0.0),
        Written::Text(text) if text == "all" => Ok(1.0),
        Written::Whole(_) | Written::Float(_) => ratio(written),
        _ => Err(format!("{} is not off, all or a share such as 0.01", shown(written))),
    }
}

/// A path, taken from the directory of the file. Never shown: a secret may have been pasted where the name of its file belongs.
pub(super) fn path(base: &Path) -> impl Fn(&Written) -> Checked<PathBuf> {
    move |written| {
        let text = text(written).map_err(|problem| problem.unshown("a path"))?;
        Ok(base.join(text))
    }
}

/// A text that is not shown: `invitations.username`.
pub(super) fn unshown_text(written: &Written) -> Checked<String> {
    text(written).map(str::to_owned).map_err(|problem| problem.unshown("a text"))
}

/// A point in time, RFC 3339.
pub(super) fn timestamp(written: &Written) -> Checked<UnixTime> {
    let not_one = || format!("{} is not a time after 1970 such as 2026-01-31T06:00:00Z", shown(written));
    let Written::Text(text) = written else { return Err(not_one()) };
    let time: jiff::Timestamp = text.parse().map_err(|_| not_one())?;
    u64::try_from(time.as_millisecond()).map(UnixTime::from_millis).map_err(|_| not_one())
}

/// One of `bypass.revoked`.
pub(super) fn revoked(written: &Written) -> Checked<Revoked> {
    let text = match written {
        Written::Text(text) => text,
        // YAML takes an id of digits alone for a number, and may have changed it
        Written::Whole(_) | Written::Float(_) => return Err("a number: write the id in quotes".to_owned()),
        _ => return Err(format!("{} is not the id of a pass or a batch", shown(written))),
    };
    let found = match text.strip_prefix("batch-") {
        Some(digits) => hexadecimal(digits, 8).and_then(|id| u32::try_from(id).ok()).map(Revoked::Batch),
        None => hexadecimal(text, 16).map(Revoked::Pass),
    };
    found.ok_or_else(|| format!("{} is neither a pass (16 hexadecimal digits) nor batch- and 8 of them", shown(written)))
}

/// The pattern of a route.
pub(super) fn pattern(written: &Written) -> Checked<String> {
    let Written::Text(text) = written else { return Err(format!("{} is not a path such as /static/**", shown(written))) };
    if !text.starts_with('/') {
        return Err(format!("{} does not start with /", shown(written)));
    }
    if text.len() > PATTERN_MAX {
        return Err(format!("{} bytes are above {PATTERN_MAX}", text.len()));
    }
    match Routes::new(vec![Route { path: text.clone(), gated: true, signal: true }]) {
        Ok(_) => Ok(text.clone()),
        Err(error) => Err(format!("{} is not a path pattern: {error}", shown(written))),
    }
}

fn within<T: Copy + PartialOrd>(value: T, range: &RangeInclusive<T>, print: impl Fn(T) -> String) -> Checked<T> {
    if value < *range.start() {
        Err(format!("{} is below {}", print(value), print(*range.start())))
    } else if value > *range.end() {
        Err(format!("{} is above {}", print(value), print(*range.end())))
    } else {
        Ok(value)
    }
}

/// A value for a message: short, on one line.
pub(super) fn shown(written: &Written) -> String {
    match written {
        Written::Whole(number) => number.to_string(),
        Written::Float(number) => number.to_string(),
        Written::Bool(value) => value.to_string(),
        Written::Text(text) if text.chars().count() > SHOWN_MAX => {
            let start: String = text.chars().take(SHOWN_MAX).collect();
            format!("{:?}", start + "…")
        }
        Written::Text(text) => format!("{text:?}"),
        Written::Null | Written::List(_) | Written::Map(_) => written.kind().to_owned(),
    }
}

/// Why something is not a text that is taken.
pub(super) enum NotText {
    Kind(&'static str),
    Empty,
    TooLong,
    Control,
}

impl NotText {
    fn unshown(self, expected: &str) -> String {
        match self {
            Self::Kind(kind) => format!("is {kind}: {expected} is expected, in quotes if it looks like something else"),
            Self::Empty => format!("is empty: {expected} is expected"),
            Self::TooLong => format!("is longer than {TEXT_MAX} bytes"),
            Self::Control => "holds a line break or another control character".to_owned(),
        }
    }
}

/// A text that is not empty, fits on a line, and is no longer than [`TEXT_MAX`].
pub(super) fn text(written: &Written) -> Result<&str, NotText> {
    match written {
        Written::Text(text) if text.is_empty() => Err(NotText::Empty),
        Written::Text(text) if text.len() > TEXT_MAX => Err(NotText::TooLong),
        Written::Text(text) if text.chars().any(char::is_control) => Err(NotText::Control),
        Written::Text(text) => Ok(text),
        other => Err(NotText::Kind(other.kind())),
    }
}

fn hexadecimal(text: &str, digits: usize) -> Option<u64> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain { u64::from_str_radix(text, 16).ok() } else { None }
}

/// Characters of a value that a message shows.
const SHOWN_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: &str) -> Written {
        Written::Text(value.to_owned())
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(&written("1970-01-01T00:00:01.5Z")), Ok(UnixTime::from_millis(1500)));
        assert_eq!(timestamp(&written("2026-01-31T06:00:00+01:00")), timestamp(&written("2026-01-31T05:00:00Z")));
        for text in ["2026-01-31", "2026-01-31T06:00:00", "1969-12-31T23:59:59Z", "now", "2026-02-30T00:00:00Z"] {
            assert!(timestamp(&written(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn revocations() {
        assert_eq!(revoked(&written("00000000000000ff")), Ok(Revoked::Pass(255)));
        assert_eq!(revoked(&written("batch-0000000A")), Ok(Revoked::Batch(10)));
        for text in ["ff", "00000000000000fg", "batch-1", "batch-000000000000000a", "+0000000000000ff", ""] {
            assert!(revoked(&written(text)).is_err(), "{text}");
        }
        assert!(revoked(&Written::Whole(1_234_567_890_123_456)).unwrap_err().contains("quotes"));
    }

    #[test]
    fn what_may_be_a_secret_is_never_shown() {
        for value in
            [written("hunter2\n"), Written::List(vec![written("hunter2")]), written(&"hunter2".repeat(1000)), Written::Whole(7_777)]
        {
            for error in [path(Path::new("/"))(&value).unwrap_err(), unshown_text(&value).unwrap_err()] {
                assert!(!error.contains("hunter2") && !error.contains("7777"), "{error}");
            }
        }
    }

    #[test]
    fn a_long_value_is_cut_and_stays_on_one_line() {
        let text = shown(&written(&"a\n".repeat(1000)));
        assert!(text.len() < 150 && !text.contains('\n'), "{text}");
    }
}
