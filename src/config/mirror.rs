//! What the operator wrote: a mirror of the file without any judgement, so that one wrong value does not hide the next.
//! The only file that knows `serde_yaml`.
//!
//! Its types are those of YAML 1.2: `off` is a text and `no` is not a truth value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::problem::Place;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    /// `null`, `~`, or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Whole(i128),
    /// Any other number, infinities and NaN included.
    Float(f64),
    /// A text, quoted or not.
    Text(String),
    /// A list.
    List(Vec<Written>),
    /// A map, in the order of the file, repeated keys included.
    Map(Vec<(String, Written)>),
}

impl Written {
    /// What it is, for a message that must not show the value.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a truth value",
            Self::Whole(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

/// Where and why a text is not the YAML that is taken here.
pub(super) struct Unreadable {
    /// Where, if it is known.
    pub(super) place: Option<Place>,
    /// The path of the value; empty for the whole file.
    pub(super) path: String,
    /// Why.
    pub(super) text: String,
}

/// Reads a text that `locate.rs` has let through and that is not empty.
///
/// # Errors
/// If the second reader of the file is stricter than the first.
pub(super) fn read(text: &str) -> Result<Written, Unreadable> {
    serde_path_to_error::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let path = error.path().to_string();
        let place = error.inner().location().map(|at| Place { line: count(at.line()), column: count(at.column()) });
        let path = if path == "." { String::new() } else { path };
        // the error's own text says the path and the place again, and could say the value
        Unreadable { place, path, text: "not valid YAML as it is taken here: keys are plain words, and values have no tags".to_owned() }
    })
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_none<E>(self) -> Result<Written, E> {
        Ok(Written::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
        Ok(Written::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
        Ok(Written::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
        Ok(Written::Whole(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Written, E> {
        Ok(Written::Whole(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Written, E> {
        // beyond every bound that there is, as it was before
        Ok(Written::Whole(i128::try_from(value).unwrap_or(i128::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Written, E> {
        Ok(Written::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Written, E> {
        Ok(Written::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Written, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Written::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Written, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Written::Map(entries))
    }
}
