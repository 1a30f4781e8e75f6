//! The `Date` of answers: a line that all answers of a worker share, written anew each second.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::rules::time::UnixTime;

/// The line.
#[derive(Debug)]
pub(super) struct Dated(Mutex<(u64, Line)>);

/// A whole line: `date: Sun, 06 Nov 1994 08:49:37 GMT` and its end.
pub(super) type Line = [u8; 37];

impl Dated {
    pub(super) fn new(now: UnixTime) -> Self {
        let dated = Self(Mutex::new((u64::MAX, *b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")));
        dated.set(now);
        dated
    }

    /// It is now so late.
    pub(super) fn set(&self, now: UnixTime) {
        let second = now.as_millis() / 1000;
        let mut dated = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if dated.0 != second
            && let Some(line) = line(second)
        {
            *dated = (second, line);
        }
    }

    pub(super) fn line(&self) -> Line {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// The line of a second; `None` beyond the year 9999.
fn line(second: u64) -> Option<Line> {
    let time = Timestamp::from_second(i64::try_from(second).ok()?).ok()?;
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
    format!("date: {date}\r\n").into_bytes().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_form_that_http_has() {
        assert_eq!(line(784_111_777).unwrap(), *b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
        assert_eq!(line(0).unwrap(), *b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n");
        assert_eq!(line(u64::MAX), None);
    }

    #[test]
    fn it_goes_with_the_time() {
        let dated = Dated::new(UnixTime::from_millis(784_111_777_999));
        assert!(dated.line().ends_with(b":37 GMT\r\n"));
        dated.set(UnixTime::from_millis(784_111_778_000));
        assert!(dated.line().ends_with(b":38 GMT\r\n"));
    }
}
