//! The letter of an invitation: its subject, its text, and the same in HTML, in the language of who reads it.
//!
//! Built in are English, French, German and Spanish. An operator may bring texts of their own, as files of a directory, `de.txt` and
//! beside it, if they like, `de.html`; then the built-in ones are out of use, so that nobody is written to in words that the operator
//! has not seen. A text begins with a line `Subject: …` and an empty line. Without an HTML file a letter is text alone, which every
//! reader shows well. They are bounded and rehearsed when they are loaded, as the waiting page is.
//!
//! Who is written to gets the language that their browser asked for: the same tag (`de-CH`), else one that is less exact (`de`), else
//! another of the same language, else the fallback: `en`, or without that the first in the order of the alphabet.
//!
//! | variable | |
//! |---|---|
//! | `site_host`, `site_url` | the site, as `www.example.org`, and with `https://` |
//! | `link` | leads in; each text must have it |
//! | `code` | the code that is in the link, in groups |
//! | `code_page` | where it can be typed in |
//! | `until` | how long it is good, to the minute, in UTC and saying so |
//! | `asked_on` | the day on which the address was left |
//! | `next` | the page first asked for, without what follows a `?`; none if it was the front page, or is not fit to be shown |
//! | `unsubscribe` | has the address deleted |
//! | `language` | the tag of the text: `de` |
//! | `built_in_style` | the style of the built-in letters, for HTML |
//!
//! Absent: addresses, headers and encodings (`mail/`). Nothing is loaded from elsewhere, nothing tells whether a letter was read.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, context};

use super::email::escape;
use super::{PageError, Pages, TEMPLATE_BYTES_MAX, add, base_environment, line_of_word, page_error, render};
use crate::rules::time::UnixTime;

/// What a letter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterView<'a> {
    /// The site, without a slash at its end.
    pub site_url: &'a str,
    /// Leads in. What stands in front of a `?` is where the code can be typed in.
    pub link: &'a str,
    /// The code in groups: `ABCD-EFGH-JKMN-PQRS-T`.
    pub code: &'a str,
    /// When the code expires.
    pub until: UnixTime,
    /// When the address was left.
    pub asked_at: UnixTime,
    /// The page asked for.
    pub next: Option<&'a str>,
    /// Has the address deleted.
    pub unsubscribe: &'a str,
}

/// A letter, ready to be put into an envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The tag of the language that it is in.
    pub language: String,
    /// One line, of [`SUBJECT_CHARS_MAX`] characters at most.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The same in HTML.
    pub html: Option<String>,
}

/// A file of the operator's directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LetterFile {
    /// What messages call it: its path.
    pub name: String,
    /// Its name within the directory: `de.txt`.
    pub file: String,
    /// What is in it.
    pub source: String,
}

/// The most characters of a subject: readers show some seventy of them.
pub const SUBJECT_CHARS_MAX: usize = 200;

/// The most files of an operator's directory: each is rehearsed at each reload.
pub const LETTER_FILES_MAX: usize = 200;

impl Pages {
    /// The same pages with the operator's letters in place of the built-in ones.
    ///
    /// # Errors
    /// If there is none, or one is called by no language, is too large, can't be read, lacks its subject or its link, names what doesn't
    /// exist, fails, or makes too large a letter.
    pub fn with_letters(self, files: &[LetterFile]) -> Result<Self, PageError> {
        Ok(Self { letters: Letters::new(files)?, ..self })
    }

    /// The letter of an invitation, in the language of a tag such as `de-CH`, or in the fallback.
    ///
    /// # Errors
    /// If the template fails; a rehearsal at load leaves little that can.
    pub fn letter(&self, language: Option<&str>, view: &LetterView<'_>) -> Result<Letter, PageError> {
        self.letters.write(self.letters.chosen(language), view)
    }
}

/// Every language, by its tag.
#[derive(Debug)]
pub(super) struct Letters {
    environment: Environment<'static>,
    all: Vec<Texts>,
}

/// The templates of one language.
#[derive(Debug)]
struct Texts {
    /// As its files are called.
    language: String,
    text: String,
    html: Option<String>,
}

impl Letters {
    /// The built-in ones.
    pub(super) fn built_in() -> Result<Self, PageError> {
        let files =
            BUILT_IN.map(|(file, source)| LetterFile { name: format!("letters/{file}"), file: file.to_owned(), source: source.to_owned() });
        Self::new(&files)
    }

    fn new(files: &[LetterFile]) -> Result<Self, PageError> {
        let mut letters = Self { environment: environment(), all: Vec::new() };
        if files.len() > LETTER_FILES_MAX {
            return Err(fault(&files[LETTER_FILES_MAX].name, 0, format!("there are more than {LETTER_FILES_MAX} letters")));
        }
        for LetterFile { name, file, source } in files {
            let Some((language, kind)) = language_of(file) else {
                return Err(fault(name, 0, "is not called by a language, as de.txt or pt-BR.html".to_owned()));
            };
            if source.len() > TEMPLATE_BYTES_MAX {
                return Err(PageError::TemplateTooLarge { name: name.clone(), bytes: source.len() });
            }
            if letters.environment.get_template(name).is_ok() {
                return Err(fault(name, 0, "is there twice".to_owned()));
            }
            // some editors begin a file with a byte order mark, and some end lines with two characters
            add(&mut letters.environment, name, &source.trim_start_matches('\u{feff}').replace("\r\n", "\n"))?;
            if kind == Kind::Text {
                letters.all.push(Texts { language: language.to_owned(), text: name.clone(), html: None });
            }
        }
        for LetterFile { name, file, .. } in files {
            let Some((language, Kind::Html)) = language_of(file) else { continue };
            let Some(texts) = letters.all.iter_mut().find(|texts| texts.language.eq_ignore_ascii_case(language)) else {
                return Err(fault(name, 0, format!("there is no {language}.txt beside it: who reads no HTML would get nothing")));
            };
            texts.html = Some(name.clone());
        }
        letters.all.sort_by_key(|texts| texts.language.to_ascii_lowercase());
        if let Some([_, again]) = letters.all.windows(2).find(|pair| pair[0].language.eq_ignore_ascii_case(&pair[1].language)) {
            return Err(fault(&again.text, 0, "is there twice, in small and in capital letters".to_owned()));
        }
        if letters.all.is_empty() {
            return Err(fault("letters", 0, "there is no text, such as en.txt".to_owned()));
        }
        letters.rehearse(files)?;
        Ok(letters)
    }

    /// Writes every letter, with and without what may be missing, then looks for names that nobody has come upon.
    fn rehearse(&self, files: &[LetterFile]) -> Result<(), PageError> {
        let code = "ABCDEFGHJKMNPQRST";
        let link = format!("https://www.example.org/.tidegate/invitation?code={code}");
        let until = UnixTime::from_secs(1_796_000_000);
        let some = LetterView {
            site_url: "https://www.example.org",
            link: &link,
            code: "ABCD-EFGH-JKMN-PQRS-T",
            until,
            asked_at: until,
            next: Some("/apply"),
            unsubscribe: "https://www.example.org/.tidegate/email?forget=1",
        };
        for texts in &self.all {
            for view in [some, LetterView { next: None, ..some }] {
                let letter = self.write(texts, &view)?;
                for (name, written) in [(Some(&texts.text), Some(&letter.text)), (texts.html.as_ref(), letter.html.as_ref())] {
                    let (Some(name), Some(written)) = (name, written) else { continue };
                    if !written.contains(code) {
                        return Err(fault(name, 0, "`link` is not in it: it would let nobody in".to_owned()));
                    }
                }
            }
        }
        for LetterFile { name, source, .. } in files {
            let template = self.environment.get_template(name).map_err(|error| page_error(name, &error))?;
            let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
            unknown.retain(|variable| {
                !VARIABLES.contains(&variable.as_str()) && self.environment.globals().all(|(known, _)| known != variable)
            });
            unknown.sort();
            if let Some(variable) = unknown.first() {
                return Err(fault(name, line_of_word(source, variable), format!("`{variable}` is undefined")));
            }
        }
        Ok(())
    }

    /// RFC 4647, 3.4 (lookup), and then whatever is of the same language.
    fn chosen(&self, wanted: Option<&str>) -> &Texts {
        let called = |tag: &str| self.all.iter().find(|texts| texts.language.eq_ignore_ascii_case(tag));
        let mut found = None;
        let mut tag = wanted.unwrap_or_default();
        while found.is_none() && !tag.is_empty() {
            found = called(tag);
            tag = tag.rfind('-').map_or("", |at| &tag[..at]);
        }
        let related = || {
            let wanted = primary(wanted?);
            self.all.iter().find(|texts| primary(&texts.language).eq_ignore_ascii_case(wanted))
        };
        found.or_else(related).or_else(|| called("en")).unwrap_or(&self.all[0])
    }

    fn write(&self, texts: &Texts, view: &LetterView<'_>) -> Result<Letter, PageError> {
        let words = Words::of(&texts.language);
        let context = |put: fn(&str) -> Value| {
            context! {
                site_host => put(host(view.site_url)),
                site_url => put(view.site_url),
                link => put(view.link),
                code => put(view.code),
                code_page => put(view.link.split('?').next().unwrap_or_default()),
                until => put(&words.minute(view.until)),
                asked_on => put(&words.day(view.asked_at)),
                next => view.next.and_then(fit_to_show).map(put),
                unsubscribe => put(view.unsubscribe),
                language => put(&texts.language),
            }
        };
        let rendered = |name: &str, put| {
            let bytes = render(&self.environment, name, context(put))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (subject, text) = cut(&texts.text, &rendered(&texts.text, plain)?)?;
        let html = texts.html.as_ref().map(|name| rendered(name, escaped)).transpose()?;
        Ok(Letter { language: texts.language.clone(), subject, text, html })
    }
}

/// What a file holds, by the end of its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Html,
}

/// `pt-BR.html`: the tag, and what is in it.
fn language_of(file: &str) -> Option<(&str, Kind)> {
    let (tag, kind) = match file.rsplit_once('.')? {
        (tag, "txt") => (tag, Kind::Text),
        (tag, "html") => (tag, Kind::Html),
        _ => return None,
    };
    let mut parts = tag.split('-');
    let is_language = parts.next().is_some_and(|part| (2..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphabetic()));
    let others = parts.all(|part| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    (is_language && others && tag.len() <= TAG_BYTES_MAX).then_some((tag, kind))
}

/// The language of a tag, without its country, script and the like.
fn primary(tag: &str) -> &str {
    tag.split('-').next().unwrap_or_default()
}

/// `www.example.org` of `https://www.example.org/portal`.
fn host(site_url: &str) -> &str {
    let rest = site_url.split_once("://").map_or(site_url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// What of the page asked for can stand in a letter. What follows a `?` can be private, and anybody can have asked for anything in the
/// name of who is written to: what is long, or what a reader would make a link of, is not shown.
fn fit_to_show(next: &str) -> Option<&str> {
    let path = next.split(['?', '#']).next().unwrap_or_default();
    let is_plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte));
    let is_link = path.contains("//") || path.to_ascii_lowercase().contains("www.");
    (path.len() > 1 && path.len() <= NEXT_BYTES_MAX && path.starts_with('/') && is_plain && !is_link).then_some(path)
}

/// Takes a text apart: `Subject: …`, an empty line, and the rest.
fn cut(name: &str, rendered: &str) -> Result<(String, String), PageError> {
    let mut parts = rendered.splitn(3, '\n');
    let subject = parts.next().and_then(|line| line.strip_prefix("Subject:")).map(str::trim).unwrap_or_default();
    if subject.is_empty() {
        return Err(fault(name, 1, "does not begin with a line such as `Subject: There is room for you now`".to_owned()));
    }
    if subject.chars().count() > SUBJECT_CHARS_MAX || subject.chars().any(char::is_control) {
        return Err(fault(name, 1, format!("the subject has more than {SUBJECT_CHARS_MAX} characters, or some that can't be seen")));
    }
    if !parts.next().is_some_and(|line| line.trim().is_empty()) {
        return Err(fault(name, 2, "the line that follows the subject is not empty".to_owned()));
    }
    let text = parts.next().unwrap_or_default().trim_matches('\n');
    Ok((subject.to_owned(), format!("{text}\n")))
}

fn fault(name: &str, line: usize, reason: String) -> PageError {
    PageError::Template { name: name.to_owned(), line, reason }
}

fn plain(text: &str) -> Value {
    Value::from(text)
}

/// Escaped here, since minijinja escapes slashes too: filters of spam distrust a link that is spelled so.
fn escaped(text: &str) -> Value {
    let mut html = Vec::with_capacity(text.len());
    escape(&mut html, text);
    Value::from_safe_string(String::from_utf8_lossy(&html).into_owned())
}

fn environment() -> Environment<'static> {
    let mut environment = base_environment();
    environment.set_auto_escape_callback(|name| if name.ends_with(".html") { AutoEscape::Html } else { AutoEscape::None });
    environment.add_global("built_in_style", Value::from_safe_string(STYLE.trim_end().to_owned()));
    environment
}

/// How times are told.
struct Words {
    months: Option<[&'static str; 12]>,
    day: fn(day: i8, month: &str, year: i16) -> String,
    at: &'static str,
}

impl Words {
    /// In a language that is not built in, times are told in digits.
    fn of(language: &str) -> Self {
        match primary(language).to_ascii_lowercase().as_str() {
            "en" => Self { months: Some(ENGLISH), day: |day, month, year| format!("{day} {month} {year}"), at: ", " },
            "de" => Self { months: Some(GERMAN), day: |day, month, year| format!("{day}. {month} {year}"), at: ", " },
            "fr" => Self {
                months: Some(FRENCH),
                day: |day, month, year| format!("{day}{} {month} {year}", if day == 1 { "er" } else { "" }),
                at: " à ",
            },
            "es" => Self { months: Some(SPANISH), day: |day, month, year| format!("{day} de {month} de {year}"), at: " a las " },
            _ => Self { months: None, day: |_, _, _| String::new(), at: " " },
        }
    }

    fn day(&self, time: UnixTime) -> String {
        let time = civil(time);
        let month = self.months.as_ref().zip(usize::try_from(time.month()).ok()).and_then(|(months, month)| months.get(month - 1));
        month.map_or_else(|| time.date().to_string(), |month| (self.day)(time.day(), month, time.year()))
    }

    /// Rounded down: a code is never good for less than it says.
    fn minute(&self, time: UnixTime) -> String {
        let clock = civil(time);
        format!("{}{}{:02}:{:02} UTC", self.day(time), self.at, clock.hour(), clock.minute())
    }
}

fn civil(time: UnixTime) -> DateTime {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX);
    timestamp.to_zoned(TimeZone::UTC).datetime()
}

const ENGLISH: [&str; 12] =
    ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const GERMAN: [&str; 12] =
    ["Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"];
const FRENCH: [&str; 12] =
    ["janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"];
const SPANISH: [&str; 12] =
    ["enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"];

/// RFC 5646, 4.4.1: room for every tag that is made of registered parts.
const TAG_BYTES_MAX: usize = 35;

/// Of a path in a letter: more says nothing to who reads it.
const NEXT_BYTES_MAX: usize = 100;

/// What [`Letters::write`] puts into a template.
const VARIABLES: [&str; 10] =
    ["site_host", "site_url", "link", "code", "code_page", "until", "asked_on", "next", "unsubscribe", "language"];

const STYLE: &str = include_str!("letters/letter.css");
const BUILT_IN: [(&str, &str); 8] = [
    ("de.txt", include_str!("letters/de.txt")),
    ("de.html", include_str!("letters/de.html")),
    ("en.txt", include_str!("letters/en.txt")),
    ("en.html", include_str!("letters/en.html")),
    ("es.txt", include_str!("letters/es.txt")),
    ("es.html", include_str!("letters/es.html")),
    ("fr.txt", include_str!("letters/fr.txt")),
    ("fr.html", include_str!("letters/fr.html")),
];

#[cfg(test)]
mod tests;
