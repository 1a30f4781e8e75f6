//! `POST /invitations`: whether invitations are paused.

use serde::Deserialize;

use super::mode::{BodyForm, ModeError};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    paused: bool,
}

/// Reads a body: `{"paused": true}`, or `paused=true`.
pub(super) fn parse(form: BodyForm, body: &[u8]) -> Result<bool, ModeError> {
    match form {
        BodyForm::Json => {
            let written: Result<Written, _> = serde_json::from_slice(body);
            written.map(|written| written.paused).map_err(|error| match error.classify() {
                serde_json::error::Category::Data => ModeError::Values(vec![error.to_string()]),
                serde_json::error::Category::Io | serde_json::error::Category::Syntax | serde_json::error::Category::Eof => {
                    ModeError::Syntax(format!("the body is not JSON: {error}"))
                }
            })
        }
        BodyForm::Form => {
            let fields: Vec<_> = form_urlencoded::parse(body).collect();
            match fields.as_slice() {
                [(name, value)] if name == "paused" => match &**value {
                    "true" => Ok(true),
                    "false" => Ok(false),
                    other => Err(ModeError::Values(vec![format!("paused: {other:?} is neither true nor false")])),
                },
                [(name, _), ..] if name != "paused" => Err(ModeError::Values(vec![format!("{name}: unknown field, expected paused")])),
                [] => Err(ModeError::Values(vec!["paused: missing; it is true or false".to_owned()])),
                [..] => Err(ModeError::Values(vec!["paused: given twice".to_owned()])),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_true_or_false_and_nothing_else() {
        for (form, body, expected) in [
            (BodyForm::Json, "{\"paused\":true}", Ok(true)),
            (BodyForm::Json, "{\"paused\":false}", Ok(false)),
            (BodyForm::Form, "paused=true", Ok(true)),
            (BodyForm::Form, "paused=false", Ok(false)),
            (BodyForm::Json, "{}", Err("missing field `paused`")),
            (BodyForm::Json, "{\"paused\":\"yes\"}", Err("expected a boolean")),
            (BodyForm::Json, "{\"paused\":true,\"until\":1}", Err("unknown field `until`")),
            (BodyForm::Json, "paused", Err("not JSON")),
            (BodyForm::Form, "", Err("paused: missing")),
            (BodyForm::Form, "paused=yes", Err("\"yes\" is neither")),
            (BodyForm::Form, "paused=true&paused=false", Err("given twice")),
            (BodyForm::Form, "pause=true", Err("pause: unknown field")),
        ] {
            match (parse(form, body.as_bytes()), expected) {
                (Ok(paused), Ok(wanted)) => assert_eq!(paused, wanted, "{body}"),
                (Err(ModeError::Values(errors)), Err(part)) => assert!(errors.join(" ").contains(part), "{body}: {errors:?}"),
                (Err(ModeError::Syntax(error)), Err(part)) => assert!(error.contains(part), "{body}: {error}"),
                (parsed, _) => panic!("{body}: {parsed:?}"),
            }
        }
    }
}
