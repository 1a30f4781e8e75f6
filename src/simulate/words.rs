//! Figures as words, as they stand in the report.

/// `97.3 %`. Never rounded to all or to nothing.
pub(super) fn percent(ratio: f64) -> String {
    let value = ratio * 100.0;
    if value > 0.0 && value < 0.05 {
        "<0.1\u{a0}%".to_owned()
    } else if (99.95..100.0).contains(&value) {
        "99.9\u{a0}%".to_owned()
    } else {
        format!("{}\u{a0}%", strip(&format!("{value:.1}")))
    }
}

/// `1,204`; a median between two seeds may be `0.5`.
pub(super) fn count(value: f64) -> String {
    let digits = format!("{value:.1}");
    let (whole, rest) = digits.split_once('.').unwrap_or((&digits, "0"));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if rest == "0" { text } else { format!("{text}.{rest}") }
}

/// `0.32 s`, `42 s`, `1 minute 5 s`, `2 hours 10 minutes`.
pub(super) fn span(seconds: f64) -> String {
    let several = |value: f64, unit: &str| format!("{value:.0}\u{a0}{unit}{}", if value > 1.5 { "s" } else { "" });
    let whole = seconds.round();
    let (hours, minutes) = ((whole / 3600.0).floor(), (whole % 3600.0 / 60.0).floor());
    match (hours > 0.0, minutes > 0.0) {
        _ if seconds < 0.1 => format!("{}\u{a0}s", trimmed(seconds)),
        _ if seconds < 9.995 => format!("{}\u{a0}s", strip(&format!("{seconds:.2}"))),
        (false, false) => format!("{whole:.0}\u{a0}s"),
        (false, true) if whole % 60.0 > 0.0 => format!("{} {:.0}\u{a0}s", several(minutes, "minute"), whole % 60.0),
        (false, true) => several(minutes, "minute"),
        (true, true) => format!("{} {}", several(hours, "hour"), several(minutes, "minute")),
        (true, false) => several(hours, "hour"),
    }
}

pub(super) fn span_short(seconds: f64) -> String {
    span(seconds).replace("minutes", "min").replace("minute", "min")
}

/// A number beside a tick.
pub(super) fn axis(value: f64) -> String {
    if value >= 1e6 {
        format!("{}M", trimmed(value / 1e6))
    } else if value >= 1000.0 {
        count(value)
    } else {
        trimmed(value)
    }
}

/// A value in words: whole from 10 up, below it two places after the point.
pub(super) fn rough(value: f64) -> String {
    if value >= 10.0 { axis(value.round()) } else { strip(&format!("{value:.2}")).to_owned() }
}

/// At most three places after the point.
pub(super) fn trimmed(value: f64) -> String {
    strip(&format!("{value:.3}")).to_owned()
}

pub(super) fn strip(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        let texts = [percent(0.9999), percent(1.0), percent(0.0), percent(0.0001), percent(0.973), count(1_204.0), count(0.5), count(1e6)];
        assert_eq!(
            texts.map(|text| text.replace('\u{a0}', " ")),
            ["99.9 %", "100 %", "0 %", "<0.1 %", "97.3 %", "1,204", "0.5", "1,000,000"]
        );
        let texts = [0.045, 0.32, 42.0, 59.7, 65.0, 540.0, 3600.0, 7800.0].map(|seconds| span(seconds).replace('\u{a0}', " "));
        assert_eq!(texts, ["0.045 s", "0.32 s", "42 s", "1 minute", "1 minute 5 s", "9 minutes", "1 hour", "2 hours 10 minutes"]);
    }
}
