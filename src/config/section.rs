//! Reading a file section by section: each key is asked for by name, each fault is noted with its place, and a default stands in for
//! a value that is wrong, so that the reading always goes on to the end. Keys that nobody asked for are unknown.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::rules::units::print_duration;

use super::locate::{Places, item_path, key_path};
use super::mirror::Written;
use super::problem::{Errors, Place, Problem};

/// The reading of one file.
pub(super) struct Reading {
    file: String,
    places: Places,
    problems: Vec<Problem>,
    /// The path of every key that was asked for.
    known: BTreeSet<String>,
    /// Section, key, and full path of every key that was not.
    unknown: Vec<(String, String, String)>,
}

impl Reading {
    /// A reading of `file`, with what is already known to be repeated in it.
    pub(super) fn new(file: &str, places: Places) -> Self {
        let mut reading = Self { file: file.to_owned(), places, problems: Vec::new(), known: BTreeSet::new(), unknown: Vec::new() };
        for (path, place, first) in std::mem::take(&mut reading.places.repeated) {
            reading.note(Some(place), path, format!("is written twice: first at {}:{}", first.line, first.column));
        }
        reading
    }

    /// The top level of the file.
    pub(super) fn root<'r>(&'r mut self, written: &'r Written) -> Section<'r> {
        Section::new(self, String::new(), Some(written))
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All that was noted.
    pub(super) fn finish(mut self) -> Result<(), Errors> {
        for (section, key, path) in std::mem::take(&mut self.unknown) {
            let text = match self.meant(&section, &key) {
                Some(meant) => format!("unknown key: did you mean {meant}?"),
                None => "unknown key".to_owned(),
            };
            self.note(Some(self.place_of_key(&path)), path, text);
        }
        if self.problems.is_empty() { Ok(()) } else { Err(Errors::new(self.problems)) }
    }

    /// Where a key stands; or what it stands in, if the two readers of the file have not read it in the same way.
    fn place_of_key(&self, path: &str) -> Place {
        let above = std::iter::successors(Some(path), |path| Some(parent(path)).filter(|above| !above.is_empty()));
        above.filter_map(|path| self.places.key(path)).next().unwrap_or(Place::START)
    }

    fn note(&mut self, place: Option<Place>, key: String, text: String) {
        self.problems.push(Problem { file: self.file.clone(), place, key, text });
    }

    /// The key that an unknown one was probably meant to be: one of its section that is spelled nearly so, or one of that very name
    /// in another section.
    fn meant(&self, section: &str, key: &str) -> Option<&str> {
        if key.len() > NAME_MAX {
            return None;
        }
        let near = self
            .known
            .iter()
            .filter(|path| parent(path) == section)
            .map(|path| (distance(key, name(path)), name(path)))
            .min()
            .filter(|&(distance, _)| distance <= TYPOS_MAX && distance < key.len());
        let elsewhere = || self.known.iter().map(String::as_str).find(|path| name(path) == key);
        near.map(|(_, name)| name).or_else(elsewhere)
    }
}

/// One map of the file. Ends with [`Section::finish`], which finds the keys that were not asked for.
#[must_use = "unknown keys are found by finish()"]
pub(super) struct Section<'r> {
    reading: &'r mut Reading,
    path: String,
    entries: &'r [(String, Written)],
    asked: Vec<&'static str>,
    faulty: Vec<&'static str>,
}

impl<'r> Section<'r> {
    fn new(reading: &'r mut Reading, path: String, written: Option<&'r Written>) -> Self {
        let entries = match written {
            None | Some(Written::Null) => &[],
            Some(Written::Map(entries)) => entries.as_slice(),
            Some(other) => {
                let place = reading.places.value(&path);
                reading.note(place, path.clone(), format!("is {}: a map of keys and values is expected", other.kind()));
                &[]
            }
        };
        Self { reading, path, entries, asked: Vec::new(), faulty: Vec::new() }
    }

    /// A section within this one. Absent or empty, it is read all the same: every default stands.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'_> {
        let written = self.ask(key);
        Section::new(self.reading, key_path(&self.path, key), written)
    }

    /// A setting, or `default` if it is not written. What is wrong with it is noted, and `default` stands in.
    pub(super) fn read<T>(&mut self, key: &'static str, default: T, value: impl Fn(&Written) -> Result<T, String>) -> T {
        match self.ask(key) {
            None => default,
            Some(Written::Null) => {
                self.fault_at_key(key, "has no value: write one, or remove the key for the default".to_owned());
                default
            }
            Some(written) => self.judge(key, value(written)).unwrap_or(default),
        }
    }

    /// A setting that can be left out, or be null. What is wrong with it is noted.
    pub(super) fn optional<T>(&mut self, key: &'static str, value: impl Fn(&Written) -> Result<T, String>) -> Option<T> {
        match self.ask(key) {
            None | Some(Written::Null) => None,
            Some(written) => self.judge(key, value(written)),
        }
    }

    /// A list of single values; null is the empty list. `None` if it is not written. Faulty items are noted and left out.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        mut item: impl FnMut(&Written) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let path = key_path(&self.path, key);
        let items = self.items(key, &length)?;
        let mut values = Vec::with_capacity(items.len());
        for (index, written) in items.iter().enumerate() {
            match item(written) {
                Ok(value) => values.push(value),
                Err(text) => self.fault_at(item_path(&path, index), text),
            }
        }
        Some(values)
    }

    /// A list of maps; null is the empty list. `None` if it is not written.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        length: RangeInclusive<usize>,
        mut item: impl FnMut(Section<'_>) -> T,
    ) -> Option<Vec<T>> {
        let path = key_path(&self.path, key);
        let items = self.items(key, &length)?;
        let mut values = Vec::with_capacity(items.len());
        for (index, written) in items.iter().enumerate() {
            values.push(item(Section::new(self.reading, item_path(&path, index), Some(written))));
        }
        Some(values)
    }

    /// Notes a fault of a setting that was read: at its value, or at its section if it was not written.
    pub(super) fn fault(&mut self, key: &'static str, text: String) {
        self.faulty.push(key);
        self.fault_at(key_path(&self.path, key), text);
    }

    /// Whether a fault of this setting has been noted: its value is then not the operator's.
    pub(super) fn is_faulty(&self, key: &str) -> bool {
        self.faulty.contains(&key)
    }

    /// Notes a fault of `larger` if it is below `smaller`, unless one of them is a stand-in.
    pub(super) fn require_order(&mut self, smaller: (&'static str, Duration), larger: (&'static str, Duration)) {
        if larger.1 >= smaller.1 || self.is_faulty(smaller.0) || self.is_faulty(larger.0) {
            return;
        }
        let other = key_path(&self.path, smaller.0);
        self.fault(larger.0, format!("{} is below {other}, which is {}", print_duration(larger.1), print_duration(smaller.1)));
    }

    /// Whether a key is written, with whatever value but null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|written| *written != Written::Null)
    }

    /// Ends the section: what was written and not asked for is unknown.
    pub(super) fn finish(self) {
        let mut seen = BTreeSet::new();
        for (key, _) in self.entries {
            if !self.asked.contains(&key.as_str()) && seen.insert(key) {
                self.reading.unknown.push((self.path.clone(), key.clone(), key_path(&self.path, key)));
            }
        }
    }

    fn ask(&mut self, key: &'static str) -> Option<&'r Written> {
        self.asked.push(key);
        self.reading.known.insert(key_path(&self.path, key));
        self.entry(key)
    }

    fn entry(&self, key: &str) -> Option<&'r Written> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, written)| written)
    }

    fn items(&mut self, key: &'static str, length: &RangeInclusive<usize>) -> Option<&'r [Written]> {
        let items = match self.ask(key)? {
            Written::Null => &[],
            Written::List(items) => items.as_slice(),
            other @ (Written::Bool(_) | Written::Whole(_) | Written::Float(_) | Written::Text(_) | Written::Map(_)) => {
                self.fault(key, format!("is {}: a list is expected, as in [a, b]", other.kind()));
                return Some(&[]);
            }
        };
        if items.len() < *length.start() {
            self.fault(key, format!("{} entries are below {}", items.len(), length.start()));
        }
        if items.len() > *length.end() {
            self.fault(key, format!("{} entries are above {}", items.len(), length.end()));
            return Some(&[]);
        }
        Some(items)
    }

    fn judge<T>(&mut self, key: &'static str, value: Result<T, String>) -> Option<T> {
        value.map_err(|text| self.fault(key, text)).ok()
    }

    fn fault_at_key(&mut self, key: &'static str, text: String) {
        let path = key_path(&self.path, key);
        self.faulty.push(key);
        self.reading.note(Some(self.reading.place_of_key(&path)), path, text);
    }

    fn fault_at(&mut self, path: String, text: String) {
        let places = &self.reading.places;
        let place = places.value(&path).or_else(|| places.key(&self.path)).or_else(|| places.value(&self.path)).unwrap_or(Place::START);
        self.reading.note(Some(place), path, text);
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn name(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, name)| name)
}

/// How many letters must be put in, left out or changed to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Slips in a word that is still recognised: two, as when two letters have changed places.
const TYPOS_MAX: usize = 2;

/// Longer than every key: what is longer was not meant to be one of them.
const NAME_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_letters_put_in_left_out_and_changed() {
        for (a, b, expected) in [("mode", "mode", 0), ("mod", "mode", 1), ("moed", "mode", 2), ("", "abc", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
