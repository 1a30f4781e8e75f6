//! A row of the email queue: one JSON object a line, written once.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::calendar;
use crate::rules::time::UnixTime;
use crate::rules::token::VisitorId;

/// A place in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its name in ledgers and logs; random.
    pub id: VisitorId,
    /// When it was taken.
    pub at: UnixTime,
    /// The address, as [`Address`](crate::rules::email::Address) writes it.
    pub email: Cow<'a, str>,
    /// The language to write in.
    pub language: Option<Cow<'a, str>>,
    /// The page asked for.
    pub path: Option<Cow<'a, str>>,
    /// The ticket that it came with.
    pub ticket: VisitorId,
    /// The keyed hash of the client's prefix, by which the rows of one who spoils the queue can be found.
    pub client: u64,
}

/// What stands in the file.
#[derive(Debug, Deserialize, Serialize)]
struct Line<'a> {
    v: u8,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    at: Cow<'a, str>,
    #[serde(borrow)]
    email: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    language: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    ticket: Cow<'a, str>,
    #[serde(borrow)]
    client: Cow<'a, str>,
}

const VERSION: u8 = 1;

/// Why a line is no row.
#[derive(Debug, thiserror::Error)]
pub enum RowFault {
    /// Not JSON, or not of this form.
    #[error("not a row")]
    Form(#[from] serde_json::Error),
    /// Of a version to come.
    #[error("version {found} is not one that this gate knows")]
    Version {
        /// Which.
        found: u8,
    },
    /// A value that is none.
    #[error("{key} is not one")]
    Value {
        /// Of which key.
        key: &'static str,
    },
}

impl<'a> Row<'a> {
    /// Adds its line to `text`, with the line's end.
    ///
    /// # Errors
    /// If JSON can't say it.
    pub fn write(&self, text: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        let line = Line {
            v: VERSION,
            id: self.id.to_string().into(),
            at: calendar(self.at).to_string().into(),
            email: Cow::Borrowed(&self.email),
            language: self.language.as_deref().map(Cow::Borrowed),
            path: self.path.as_deref().map(Cow::Borrowed),
            ticket: self.ticket.to_string().into(),
            client: format!("{:016x}", self.client).into(),
        };
        serde_json::to_writer(&mut *text, &line)?;
        text.push(b'\n');
        Ok(())
    }

    /// Reads a line, with or without its end.
    pub(super) fn read(line: &'a [u8]) -> Result<Self, RowFault> {
        let Line { v, id, at, email, language, path, ticket, client } = serde_json::from_slice(line)?;
        if v != VERSION {
            return Err(RowFault::Version { found: v });
        }
        Ok(Self {
            id: id_of("id", &id)?,
            at: time_of("at", &at)?,
            email,
            language,
            path,
            ticket: id_of("ticket", &ticket)?,
            client: id_of("client", &client)?.0,
        })
    }
}

pub(super) fn id_of(key: &'static str, text: &str) -> Result<VisitorId, RowFault> {
    text.parse().map_err(|_| RowFault::Value { key })
}

pub(super) fn time_of(key: &'static str, text: &str) -> Result<UnixTime, RowFault> {
    let time: jiff::Timestamp = text.parse().map_err(|_| RowFault::Value { key })?;
    u64::try_from(time.as_millisecond()).map(UnixTime::from_millis).map_err(|_| RowFault::Value { key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row<'static> {
        Row {
            id: VisitorId(0x0123_4567_89ab_cdef),
            at: UnixTime::from_millis(1_800_000_000_123),
            email: "ann@example.org".into(),
            language: Some("de-CH".into()),
            path: Some("/apply?step=\"2\"&x=ü".into()),
            ticket: VisitorId(7),
            client: u64::MAX,
        }
    }

    fn written(row: &Row<'_>) -> String {
        let mut text = Vec::new();
        row.write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_row_is_one_line_that_jq_reads() {
        assert_eq!(
            written(&row()),
            "{\"v\":1,\"id\":\"0123456789abcdef\",\"at\":\"2027-01-15T08:00:00.123Z\",\"email\":\"ann@example.org\",\"language\":\"de-CH\",\
             \"path\":\"/apply?step=\\\"2\\\"&x=ü\",\"ticket\":\"0000000000000007\",\"client\":\"ffffffffffffffff\"}\n"
        );
        let short = Row { language: None, path: None, ..row() };
        assert!(!written(&short).contains("language") && !written(&short).contains("path"));
        for row in [row(), short] {
            let line = written(&row);
            assert_eq!(Row::read(line.as_bytes()).unwrap(), row);
            assert_eq!(line.matches('\n').count(), 1);
        }
    }

    #[test]
    fn what_is_no_row_is_told_why() {
        let line = written(&row());
        let table = [
            (line[..40].to_owned(), "not a row"),
            (line.replace("\"v\":1", "\"v\":2"), "version 2"),
            (line.replace("0123456789abcdef", "0123"), "id is not one"),
            (line.replace("2027-01-15", "soon"), "at is not one"),
            (line.replace("ffffffffffffffff", "?"), "client is not one"),
        ];
        for (line, expected) in table {
            let error = Row::read(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
