//! Durations (`200ms`, `20m`, `1.5h`) and sizes (`512`, `32KiB`) as an operator writes them, and back.
//!
//! What is printed is read back as exactly the same value. A bare number is never a duration: whether `10` is seconds or milliseconds
//! is not to be guessed. A bare number is a size: bytes are the only thing that it can be.

use std::time::Duration;

/// Why a text is not a duration or not a size. The text itself is not repeated: whoever asked shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No digits where a number should begin, or a malformed decimal.
    #[error("does not start with a number such as 5 or 0.5")]
    NoNumber,
    /// A duration that is a bare number.
    #[error("has no unit: one of ms, s, m, h, d must follow the number, as in 10s")]
    NoDurationUnit,
    /// What follows the number of a duration.
    #[error("has an unknown unit: a duration ends in ms, s, m, h or d, as in 10s")]
    UnknownDurationUnit,
    /// What follows the number of a size.
    #[error("has an unknown unit: a size is bytes, or ends in KiB, MiB or GiB, as in 32KiB")]
    UnknownSizeUnit,
    /// A part of the smallest thing that can be counted.
    #[error("is finer than can be counted: a duration is whole nanoseconds, a size whole bytes")]
    TooFine,
    /// Above 2^64 nanoseconds (584 years) or bytes.
    #[error("is too large to be counted")]
    TooLarge,
}

/// Reads a duration: a number, whole or decimal, and a unit (`ms`, `s`, `m`, `h`, `d`) with no space between.
///
/// # Errors
/// If the text has another form, no unit, or a value that is not whole nanoseconds below 2^64.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Err(UnitError::NoDurationUnit);
    }
    let nanos = of_unit(DURATION_UNITS, unit).ok_or(UnitError::UnknownDurationUnit)?;
    multiply(number, nanos).map(Duration::from_nanos)
}

/// Prints a duration in the largest unit that holds it as a whole number; a part of a millisecond as a decimal.
#[must_use]
pub fn print_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    for &(unit, size) in DURATION_UNITS {
        if nanos.is_multiple_of(u128::from(size)) {
            return format!("{}{unit}", nanos / u128::from(size));
        }
    }
    let parts = format!("{:06}", nanos % NANOS_PER_MILLI);
    format!("{}.{}ms", nanos / NANOS_PER_MILLI, parts.trim_end_matches('0'))
}

/// Reads a size in bytes: a whole number, or a number, whole or decimal, and a unit (`KiB`, `MiB`, `GiB`) with no space between.
///
/// # Errors
/// If the text has another form, or a value that is not whole bytes below 2^64.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let bytes = if unit.is_empty() { 1 } else { of_unit(SIZE_UNITS, unit).ok_or(UnitError::UnknownSizeUnit)? };
    multiply(number, bytes)
}

/// Prints a size in bytes in the largest unit that holds it as a whole number.
#[must_use]
pub fn print_size(bytes: u64) -> String {
    for &(unit, size) in SIZE_UNITS {
        if bytes != 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

/// The digits before and after the point.
type Decimal<'a> = (&'a str, &'a str);

fn split(text: &str) -> Result<(Decimal<'_>, &str), UnitError> {
    let (whole, rest) = digits(text);
    if whole.is_empty() {
        return Err(UnitError::NoNumber);
    }
    let Some(rest) = rest.strip_prefix('.') else { return Ok(((whole, ""), rest)) };
    let (part, unit) = digits(rest);
    if part.is_empty() { Err(UnitError::NoNumber) } else { Ok(((whole, part), unit)) }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn of_unit(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|&(_, size)| size)
}

/// `number × unit` in whole numbers all the way: a float would turn 0.1 into something that is not printed back as 0.1.
fn multiply((whole, part): Decimal<'_>, unit: u64) -> Result<u64, UnitError> {
    let part = part.trim_end_matches('0');
    let whole: u64 = whole.parse().map_err(|_| UnitError::TooLarge)?;
    let mut total = u128::from(whole) * u128::from(unit);
    if !part.is_empty() {
        if part.len() > PLACES_MAX {
            return Err(UnitError::TooFine);
        }
        let scale = part.bytes().fold(1_u128, |scale, _| scale * 10);
        let scaled = part.bytes().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0')) * u128::from(unit);
        if !scaled.is_multiple_of(scale) {
            return Err(UnitError::TooFine);
        }
        total += scaled / scale;
    }
    u64::try_from(total).map_err(|_| UnitError::TooLarge)
}

const NANOS_PER_MILLI: u128 = 1_000_000;

/// Decimal places that are read: more than anyone writes, and 10^18 × a day in nanoseconds still fits into 128 bits.
const PLACES_MAX: usize = 18;

/// Largest first, in nanoseconds.
const DURATION_UNITS: &[(&str, u64)] =
    &[("d", 86_400_000_000_000), ("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)];

/// Largest first, in bytes.
const SIZE_UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        for (text, nanos) in [
            ("200ms", 200_000_000),
            ("5s", 5_000_000_000),
            ("20m", 1_200_000_000_000),
            ("4h", 14_400_000_000_000),
            ("30d", 2_592_000_000_000_000),
            ("0.1s", 100_000_000),
            ("1.50h", 5_400_000_000_000),
            ("0.000001ms", 1),
            ("0s", 0),
            ("007s", 7_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_the_reason() {
        for (text, error) in [
            ("10", UnitError::NoDurationUnit),
            ("1.5", UnitError::NoDurationUnit),
            ("", UnitError::NoNumber),
            ("s", UnitError::NoNumber),
            ("-5s", UnitError::NoNumber),
            ("+5s", UnitError::NoNumber),
            (".5s", UnitError::NoNumber),
            ("5.s", UnitError::NoNumber),
            (" 5s", UnitError::NoNumber),
            ("٣s", UnitError::NoNumber),
            ("5 s", UnitError::UnknownDurationUnit),
            ("5S", UnitError::UnknownDurationUnit),
            ("5sec", UnitError::UnknownDurationUnit),
            ("1h30m", UnitError::UnknownDurationUnit),
            ("1e3s", UnitError::UnknownDurationUnit),
            ("0.0000001ms", UnitError::TooFine),
            ("0.0000000000000000000000001d", UnitError::TooFine),
            ("99999999999999999999s", UnitError::TooLarge),
            ("300000d", UnitError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn durations_are_printed_in_the_largest_whole_unit() {
        for (text, printed) in [
            ("200ms", "200ms"),
            ("1.5s", "1500ms"),
            ("90s", "90s"),
            ("60s", "1m"),
            ("48h", "2d"),
            ("0ms", "0s"),
            ("0.25ms", "0.25ms"),
            ("1.000001ms", "1.000001ms"),
        ] {
            assert_eq!(print_duration(parse_duration(text).unwrap()), printed);
        }
    }

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes, printed) in [
            ("512", 512, "512"),
            ("0", 0, "0"),
            ("32KiB", 32 << 10, "32KiB"),
            ("1024", 1024, "1KiB"),
            ("1MiB", 1 << 20, "1MiB"),
            ("1.5MiB", 3 << 19, "1536KiB"),
            ("1GiB", 1 << 30, "1GiB"),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(print_size(bytes), printed);
        }
        for (text, error) in [
            ("", UnitError::NoNumber),
            ("KiB", UnitError::NoNumber),
            ("1KB", UnitError::UnknownSizeUnit),
            ("1K", UnitError::UnknownSizeUnit),
            ("1kib", UnitError::UnknownSizeUnit),
            ("1 KiB", UnitError::UnknownSizeUnit),
            ("0.5", UnitError::TooFine),
            ("0.0001KiB", UnitError::TooFine),
            ("17179869184GiB", UnitError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back_the_same(nanos: u64, bytes: u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&print_size(bytes)), Ok(bytes));
        }

        #[test]
        fn any_text_is_refused_or_read_to_what_prints_back(text in "\\PC*|[0-9.]{0,60}(ms|s|KiB)?") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
            }
            if let Ok(bytes) = parse_size(&text) {
                prop_assert_eq!(parse_size(&print_size(bytes)), Ok(bytes));
            }
        }
    }
}
