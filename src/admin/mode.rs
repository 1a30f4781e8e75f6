//! `POST /mode`: what the operator asks for, checked before the gate hears of it.

use std::time::Duration;

use serde::Deserialize;

use crate::rules::policy::Mode;
use crate::rules::time::UnixTime;

/// What the operator asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ModeRequest {
    /// This mode instead of that of gate.yaml.
    Set {
        /// The mode.
        mode: Mode,
        /// When gate.yaml has the word again; `None`: when the operator clears it.
        until: Option<UnixTime>,
    },
    /// gate.yaml has the word again.
    File,
}

/// The shortest time that a mode is set for.
const LASTS_MIN: Duration = Duration::from_secs(1);

/// The longest: beyond it, leaving the time out says what is meant.
const LASTS_MAX: Duration = Duration::from_secs(365 * 86_400);

const MODES: &str = "auto, open, closed, fixed, observe, file";

/// The form of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyForm {
    /// `application/json`
    Json,
    /// `application/x-www-form-urlencoded`
    Form,
}

/// Why a body is not a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ModeError {
    /// 400: not in the form that its content type says.
    Syntax(String),
    /// 422: every value that cannot be.
    Values(Vec<String>),
}

/// The fields as they were written. An empty field of a form is absent: browsers send those that were left alone.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    mode: Option<String>,
    probability: Option<f64>,
    until: Option<String>,
    #[serde(rename = "for")]
    lasts: Option<String>,
}

/// Reads a body. `now` is what `for` counts from and `until` must be after.
pub(super) fn parse(form: BodyForm, body: &[u8], now: UnixTime) -> Result<ModeRequest, ModeError> {
    let written = match form {
        BodyForm::Json => from_json(body)?,
        BodyForm::Form => from_form(body)?,
    };
    let mut errors = Vec::new();
    let mode = mode(&written, &mut errors);
    let until = until(&written, now, &mut errors);
    match mode {
        Some(Asked::File) if written.until.is_some() || written.lasts.is_some() => {
            errors.push("until: mode file clears what was set, and takes no time".to_owned());
            Err(ModeError::Values(errors))
        }
        Some(asked) if errors.is_empty() => Ok(match asked {
            Asked::File => ModeRequest::File,
            Asked::Mode(mode) => ModeRequest::Set { mode, until },
        }),
        Some(_) | None => Err(ModeError::Values(errors)),
    }
}

#[derive(Clone, Copy)]
enum Asked {
    Mode(Mode),
    File,
}

fn mode(written: &Written, errors: &mut Vec<String>) -> Option<Asked> {
    let asked = match written.mode.as_deref() {
        Some("auto") => Asked::Mode(Mode::Auto),
        Some("open") => Asked::Mode(Mode::Open),
        Some("closed") => Asked::Mode(Mode::Closed),
        Some("observe") => Asked::Mode(Mode::Observe),
        Some("file") => Asked::File,
        Some("fixed") => match written.probability {
            Some(probability) if (0.0..=1.0).contains(&probability) => return Some(Asked::Mode(Mode::Fixed(probability))),
            Some(probability) => {
                errors.push(format!("probability: {probability} is not between 0 and 1"));
                return None;
            }
            None => {
                errors.push("probability: missing, and mode fixed needs it: a number between 0 and 1".to_owned());
                return None;
            }
        },
        Some(other) => {
            errors.push(format!("mode: {other:?} is not one of {MODES}"));
            return None;
        }
        None => {
            errors.push(format!("mode: missing; it is one of {MODES}"));
            return None;
        }
    };
    if let Some(probability) = written.probability {
        errors.push(format!("probability: {probability} is only taken with mode fixed"));
    }
    Some(asked)
}

fn until(written: &Written, now: UnixTime, errors: &mut Vec<String>) -> Option<UnixTime> {
    let checked = match (&written.until, &written.lasts) {
        (None, None) => return None,
        (Some(until), None) => until_at(until, now),
        (None, Some(lasts)) => duration(lasts).map(|duration| now.plus(duration)),
        (Some(_), Some(_)) => Err("until: given beside for; give one of them".to_owned()),
    };
    checked.map_err(|error| errors.push(error)).ok()
}

fn until_at(text: &str, now: UnixTime) -> Result<UnixTime, String> {
    let timestamp: jiff::Timestamp =
        text.parse().map_err(|_not_one| format!("until: {text:?} is not a time such as 2026-01-01T12:00:00Z"))?;
    let until = UnixTime::from_millis(u64::try_from(timestamp.as_millisecond()).unwrap_or(0));
    if until <= now {
        return Err(format!("until: {text} is in the past"));
    }
    if until.since(now) > LASTS_MAX {
        return Err(format!("until: {text} is more than 365d from now"));
    }
    Ok(until)
}

/// As in gate.yaml: a whole number and `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("for: {text:?} is not a duration such as 90s, 15m, 2h or 1d");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    // digits that do not fit are above the bound too
    let count: u64 = digits.parse().unwrap_or(u64::MAX);
    let duration = Duration::from_secs(count.saturating_mul(seconds));
    if !(LASTS_MIN..=LASTS_MAX).contains(&duration) {
        return Err(format!("for: {text} is not between 1s and 365d"));
    }
    Ok(duration)
}

fn from_json(body: &[u8]) -> Result<Written, ModeError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let written: Written = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data if path == "." => ModeError::Values(vec![inner.to_string()]),
            serde_json::error::Category::Data => ModeError::Values(vec![format!("{path}: {inner}")]),
            serde_json::error::Category::Io | serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
                ModeError::Syntax(format!("the body is not JSON: {inner}"))
            }
        }
    })?;
    json.end().map_err(|error| ModeError::Syntax(format!("the body is not JSON: {error}")))?;
    Ok(written)
}

fn from_form(body: &[u8]) -> Result<Written, ModeError> {
    let mut written = Written::default();
    let mut errors = Vec::new();
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let name = form_decoded(&pair[..equals])?;
        let value = form_decoded(pair.get(equals + 1..).unwrap_or_default())?.trim().to_owned();
        let field = match name.as_str() {
            "mode" => &mut written.mode,
            "until" => &mut written.until,
            "for" => &mut written.lasts,
            "probability" => {
                match value.parse() {
                    _ if value.is_empty() => {}
                    Ok(_) if written.probability.is_some() => errors.push("probability: given twice".to_owned()),
                    Ok(probability) => written.probability = Some(probability),
                    Err(_) => errors.push(format!("probability: {value:?} is not a number between 0 and 1")),
                }
                continue;
            }
            _ => {
                errors.push(format!("{name:?} is not a field: they are mode, probability, until and for"));
                continue;
            }
        };
        if field.is_some() {
            errors.push(format!("{name}: given twice"));
        }
        if !value.is_empty() {
            *field = Some(value);
        }
    }
    if errors.is_empty() { Ok(written) } else { Err(ModeError::Values(errors)) }
}

/// Undoes `application/x-www-form-urlencoded` (WHATWG URL, section 5.1), strictly.
fn form_decoded(text: &[u8]) -> Result<String, ModeError> {
    let wrong = || ModeError::Syntax("the body is not an encoded form".to_owned());
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else { return Err(wrong()) };
                u8::try_from(high * 16 + low).map_err(|_above| wrong())?
            }
            other => *other,
        });
    }
    String::from_utf8(decoded).map_err(|_invalid| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_767_225_600); // 2026-01-01T00:00:00Z

    fn json(body: &str) -> Result<ModeRequest, ModeError> {
        parse(BodyForm::Json, body.as_bytes(), NOW)
    }

    fn form(body: &str) -> Result<ModeRequest, ModeError> {
        parse(BodyForm::Form, body.as_bytes(), NOW)
    }

    fn set(mode: Mode, after_secs: Option<u64>) -> Result<ModeRequest, ModeError> {
        Ok(ModeRequest::Set { mode, until: after_secs.map(|secs| NOW.plus(Duration::from_secs(secs))) })
    }

    fn values(errors: &[&str]) -> Result<ModeRequest, ModeError> {
        Err(ModeError::Values(errors.iter().map(|error| (*error).to_owned()).collect()))
    }

    #[test]
    fn every_mode_is_asked_for_in_both_forms() {
        assert_eq!(json(r#"{"mode":"closed","until":"2026-01-01T12:00:00Z"}"#), set(Mode::Closed, Some(43_200)));
        assert_eq!(json(r#"{"mode":"closed","for":"15m"}"#), set(Mode::Closed, Some(900)));
        assert_eq!(json(r#"{"mode":"open","until":null}"#), set(Mode::Open, None));
        assert_eq!(json(r#"{"mode":"fixed","probability":0.25}"#), set(Mode::Fixed(0.25), None));
        assert_eq!(json(r#"{"mode":"file"}"#), Ok(ModeRequest::File));
        assert_eq!(form("mode=auto&for=2h&until="), set(Mode::Auto, Some(7200)));
        assert_eq!(form("mode=observe"), set(Mode::Observe, None));
        assert_eq!(form("mode=fixed&probability=1&for=1d"), set(Mode::Fixed(1.0), Some(86_400)));
        assert_eq!(form("mode=closed&until=2026-01-01T01%3A00%3A00%2B00%3A00"), set(Mode::Closed, Some(3600)));
        assert_eq!(form("mode=file&probability=&for="), Ok(ModeRequest::File));
    }

    #[test]
    fn a_probability_is_between_0_and_1() {
        assert_eq!(json(r#"{"mode":"fixed","probability":0}"#), set(Mode::Fixed(0.0), None));
        assert_eq!(json(r#"{"mode":"fixed","probability":1.01}"#), values(&["probability: 1.01 is not between 0 and 1"]));
        assert_eq!(json(r#"{"mode":"fixed","probability":-0.1}"#), values(&["probability: -0.1 is not between 0 and 1"]));
        assert_eq!(form("mode=fixed&probability=NaN"), values(&["probability: NaN is not between 0 and 1"]));
        assert_eq!(form("mode=fixed&probability=half"), values(&["probability: \"half\" is not a number between 0 and 1"]));
        assert_eq!(json(r#"{"mode":"fixed"}"#), values(&["probability: missing, and mode fixed needs it: a number between 0 and 1"]));
        assert_eq!(json(r#"{"mode":"auto","probability":0.5}"#), values(&["probability: 0.5 is only taken with mode fixed"]));
    }

    #[test]
    fn a_time_is_ahead_and_bounded() {
        assert_eq!(json(r#"{"mode":"open","for":"1s"}"#), set(Mode::Open, Some(1)));
        assert_eq!(json(r#"{"mode":"open","for":"365d"}"#), set(Mode::Open, Some(365 * 86_400)));
        for wrong in ["0s", "366d", "99999999999999999999d"] {
            let error = format!("for: {wrong} is not between 1s and 365d");
            assert_eq!(json(&format!(r#"{{"mode":"open","for":"{wrong}"}}"#)), values(&[&error]));
        }
        for wrong in ["", "15", "m", "-1m", "+1m", "1.5h", "15 m", "1é"] {
            let error = format!("for: {wrong:?} is not a duration such as 90s, 15m, 2h or 1d");
            assert_eq!(json(&format!(r#"{{"mode":"open","for":"{wrong}"}}"#)), values(&[&error]));
        }
        assert_eq!(json(r#"{"mode":"open","until":"2026-01-01T00:00:00Z"}"#), values(&["until: 2026-01-01T00:00:00Z is in the past"]));
        assert_eq!(json(r#"{"mode":"open","until":"1950-01-01T00:00:00Z"}"#), values(&["until: 1950-01-01T00:00:00Z is in the past"]));
        assert_eq!(
            json(r#"{"mode":"open","until":"2027-01-02T00:00:00Z"}"#),
            values(&["until: 2027-01-02T00:00:00Z is more than 365d from now"])
        );
        assert_eq!(
            json(r#"{"mode":"open","until":"tomorrow"}"#),
            values(&["until: \"tomorrow\" is not a time such as 2026-01-01T12:00:00Z"])
        );
        assert_eq!(
            json(r#"{"mode":"open","until":"2026-01-01T12:00:00Z","for":"1m"}"#),
            values(&["until: given beside for; give one of them"])
        );
        assert_eq!(json(r#"{"mode":"file","for":"1m"}"#), values(&["until: mode file clears what was set, and takes no time"]));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        assert_eq!(
            json(r#"{"mode":"shut","for":"0s"}"#),
            values(&["mode: \"shut\" is not one of auto, open, closed, fixed, observe, file", "for: 0s is not between 1s and 365d"])
        );
        assert_eq!(json("{}"), values(&["mode: missing; it is one of auto, open, closed, fixed, observe, file"]));
        assert_eq!(form(""), values(&["mode: missing; it is one of auto, open, closed, fixed, observe, file"]));
        assert_eq!(
            form("mode=open&mode=closed&colour=red"),
            values(&["mode: given twice", "\"colour\" is not a field: they are mode, probability, until and for"])
        );
    }

    #[test]
    fn what_is_not_in_its_form_is_told_apart_from_wrong_values() {
        for body in ["", "{", "mode=open", "{\"mode\":\"open\"} trailing"] {
            assert!(matches!(json(body), Err(ModeError::Syntax(_))), "{body}");
        }
        for body in ["mode=%4", "mode=%zz", "mode=%ff"] {
            assert!(matches!(form(body), Err(ModeError::Syntax(_))), "{body}");
        }
        let Err(ModeError::Values(errors)) = json(r#"{"mode":3}"#) else { panic!("3 is no mode") };
        assert!(errors[0].starts_with("mode: invalid type: integer `3`"), "{errors:?}");
        let Err(ModeError::Values(errors)) = json(r#"{"modus":"open"}"#) else { panic!("modus is no field") };
        assert!(errors[0].contains("unknown field `modus`"), "{errors:?}");
    }
}
