//! What is wrong with a gate.yaml: every fault, each with its place. The values of keys that may hold a secret never get here.

use std::fmt;

/// A place in the file; both count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

impl Place {
    /// Where a file begins: the place of what is missing at its top level.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One fault, shown as `file:line:column: key path: value and bound`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was asked for.
    pub file: String,
    /// Where; `None` if the fault is of the whole file (it can't be read).
    pub place: Option<Place>,
    /// The key, such as `routes[2].path`; empty if the fault is of no key.
    pub key: String,
    /// What is wrong, with the value and the bound that it breaks.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Every fault of a gate.yaml, at least one, in the order of the file. Shown one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(Vec<Problem>);

impl Errors {
    /// The faults, put in the order of the file.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.place);
        Self(problems)
    }

    /// The one fault of a file that can't be read any further.
    pub(super) fn one(file: &str, place: Option<Place>, key: String, text: String) -> Self {
        Self(vec![Problem { file: file.to_owned(), place, key, text }])
    }

    /// The faults, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().take(SHOWN_MAX).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        if self.0.len() > SHOWN_MAX {
            write!(f, "\nand {} more", self.0.len() - SHOWN_MAX)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// More than anyone mends at once; a file that isn't a gate.yaml must not fill the log each time it is looked at.
const SHOWN_MAX: usize = 100;
