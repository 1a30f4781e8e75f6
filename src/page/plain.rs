//! The answers that are not pages: JSON for programs, a line for terminals. The shapes are a contract with clients.

use hyper::body::Bytes;

use super::view::{WaitingView, in_seconds};
use super::{EmailState, EmailTerms, FailureKind};

/// What a program that waits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingJson {
    /// Seconds to the next try; the same as in `Retry-After`.
    pub retry_after_s: u32,
    /// Seconds in which half of those who wait now get in.
    pub expected_wait_s: Option<u64>,
    /// Place in the order of arrival, 1 is next; `None` in a lottery.
    pub position: Option<u64>,
}

/// `{"verdict":"wait","retry_after_s":10,"expected_wait_s":120,"position":null}`
#[must_use]
pub fn waiting_json(waiting: &WaitingJson) -> Bytes {
    let WaitingJson { retry_after_s, expected_wait_s, position } = *waiting;
    let (expected_wait_s, position) = (number_or_null(expected_wait_s), number_or_null(position));
    let json = format!(r#"{{"verdict":"wait","retry_after_s":{retry_after_s},"expected_wait_s":{expected_wait_s},"position":{position}}}"#);
    json.into()
}

/// `{"verdict":"shed","retry_after_s":3}`
#[must_use]
pub fn shed_json(retry_after_s: u32) -> Bytes {
    format!(r#"{{"verdict":"shed","retry_after_s":{retry_after_s}}}"#).into()
}

/// One line for a client that waits and wants text.
#[must_use]
pub fn waiting_text(view: &WaitingView) -> Bytes {
    let wait = view.state.wait_text();
    let line = if view.form_refused {
        format!("The site is busy. What you sent has not reached the site and has not been stored anywhere. {wait}\n")
    } else {
        let again = in_seconds(view.refresh_s as usize);
        format!(
            "The site is busy and you are in the waiting room. {wait} Ask again in {again}, with the cookie that came with this answer.\n"
        )
    };
    line.into()
}

/// One line for a client that is in, finds no slot and wants text.
#[must_use]
pub fn shed_text(retry_after_s: u32, unsafe_method: bool) -> Bytes {
    let again = in_seconds(retry_after_s as usize);
    let line = if unsafe_method {
        format!("The site is very busy. What you sent has not reached the site: send it again in {again}. Your place is kept.\n")
    } else {
        format!("The site is very busy. Ask again in {again}. Your place is kept.\n")
    };
    line.into()
}

/// One line for a failure.
#[must_use]
pub fn failure_text(kind: FailureKind) -> Bytes {
    format!("{}. {}\n", kind.title(), kind.text()).into()
}

/// `{"accepted":true}`, or `{"error":"…"}`.
#[must_use]
pub fn email_json(state: EmailState<'_>) -> Bytes {
    if state == EmailState::Taken {
        return Bytes::from_static(br#"{"accepted":true}"#);
    }
    let error = state.error().unwrap_or_else(|| state.title().to_owned());
    serde_json::json!({ "error": error }).to_string().into()
}

/// One line on an email address.
#[must_use]
pub fn email_text(state: EmailState<'_>, terms: Option<EmailTerms>) -> Bytes {
    let text = state.error().map_or_else(|| state.text(terms), Into::into);
    format!("{}. {text}\n", state.title()).into()
}

fn number_or_null(number: Option<u64>) -> String {
    number.map_or_else(|| "null".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::view::WaitingState;
    use super::*;

    #[test]
    fn json_is_byte_for_byte_the_contract() {
        let unknown = WaitingJson { retry_after_s: 10, expected_wait_s: None, position: None };
        assert_eq!(waiting_json(&unknown), r#"{"verdict":"wait","retry_after_s":10,"expected_wait_s":null,"position":null}"#);
        let known = WaitingJson { retry_after_s: 2, expected_wait_s: Some(120), position: Some(u64::MAX) };
        assert_eq!(waiting_json(&known), r#"{"verdict":"wait","retry_after_s":2,"expected_wait_s":120,"position":18446744073709551615}"#);
        assert_eq!(shed_json(3), r#"{"verdict":"shed","retry_after_s":3}"#);
        serde_json::from_slice::<serde_json::Value>(&waiting_json(&known)).unwrap();
    }

    #[test]
    fn text_is_one_line() {
        let lines = [
            waiting_text(&WaitingView::new(WaitingState::Closed, 10, false, None)),
            waiting_text(&WaitingView::new(WaitingState::Next, 10, true, None)),
            shed_text(1, false),
            shed_text(70, true),
            failure_text(FailureKind::BadGateway),
            failure_text(FailureKind::TooManyRequests { retry_s: 9 }),
        ];
        for line in lines {
            let line = std::str::from_utf8(&line).unwrap();
            assert!(line.ends_with(".\n"), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }

    #[test]
    fn a_refused_form_is_told_so_and_not_asked_to_come_back_by_itself() {
        let line = waiting_text(&WaitingView::new(WaitingState::Next, 10, true, None));
        let line = std::str::from_utf8(&line).unwrap();
        assert!(line.contains("has not reached the site"));
        assert!(!line.contains("Ask again"));
    }
}
