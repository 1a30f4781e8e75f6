//! The pages that the gate composes, and the same answers as JSON and text.
//!
//! Built-in pages need no script and nothing from elsewhere: one style, one drawing, below 13 KiB each. One script of ours may run, on a
//! waiting page with the form for an email address: it holds the refresh while something is typed there. The operator may replace the
//! waiting page by a template of their own. It is bounded (its size, the work it may do, the size of a page) and it is rendered in
//! every state when it is loaded: what is wrong with it is found then, with its file and line, and not when a crowd stands there.
//! Everything put into a page is escaped. Who takes gzip gets the waiting page so (`zipped.rs`). `docs/template.md` is for who writes a
//! template; its variables:
//!
//! | variable | |
//! |---|---|
//! | `state` | `waiting`, `closed` (the operator lets nobody in), `no_ticket`, `next` (a few seconds) |
//! | `form_refused` | true: something was sent by a visitor who isn't in; it is lost, and this page isn't refreshed |
//! | `refresh_s` | seconds after which the page refreshes itself; 0 if `form_refused` |
//! | `every` | the same as words: `every 10 seconds`; empty if `form_refused` |
//! | `wait_text` | how long it takes, as a sentence, in every state |
//! | `wait_half`, `wait_nine_of_ten` | `within about 2 minutes`; both none unless both are known and differ |
//! | `position` | place in the order of arrival, `17` or `about 1,200`; none in a lottery |
//! | `email_form` | the form for an email address, in the states `waiting` and `closed` if addresses are taken; else empty |
//! | `built_in_head`, `built_in_mark`, `built_in_sea` | the built-in page's head without its title, its emblem, its drawing |
//!
//! `letter.rs` is the letter of an invitation. It follows the same rules, and is the one thing here that is told in several languages.
//!
//! Absent: headers (`Refresh`, `Retry-After` and caching are the caller's), includes, macros, scripts of an operator's, pages in languages
//! other than English.

mod email;
mod failure;
mod letter;
mod plain;
mod view;
mod zipped;

use std::io::{self, Write};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use hyper::body::Bytes;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context};

pub use email::{EmailState, EmailTerms, EmailView, FormFields, WaitingPage};
pub use failure::FailureKind;
pub use letter::{LETTER_FILES_MAX, Letter, LetterFile, LetterView, SUBJECT_CHARS_MAX};
pub use plain::{WaitingJson, email_json, email_text, failure_text, shed_json, shed_text, waiting_json, waiting_text};
pub use view::{LandingState, LandingView, LeaveState, Span, WaitEstimate, WaitText, WaitingState, WaitingView, landing_link};

use email::{FIELDS, in_units};
use letter::Letters;
use view::in_seconds;

/// The most bytes of an operator's template: a page for a crowd is small.
pub const TEMPLATE_BYTES_MAX: usize = 256 * 1024;

/// The most bytes of a rendered page.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// The most steps of one rendering: a built-in page takes some hundreds; this many take a few milliseconds.
const FUEL: u64 = 100_000;

/// Appointments lie within 60 s: pages that name more seconds than that name none.
const SECONDS_MAX: usize = 60;

/// The pages, ready to be shown. Immutable; shared by every thread.
#[derive(Debug)]
pub struct Pages {
    waiting: Environment<'static>,
    waiting_name: String,
    built_in: Environment<'static>,
    shed: BySeconds,
    shed_unsafe: BySeconds,
    failures: Vec<(FailureKind, Bytes)>,
    too_many: BySeconds,
    policies: Policies,
    email: Option<EmailTerms>,
    letters: Letters,
}

/// Which page is shown: they have different security policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// [`Pages::waiting`]
    Waiting,
    /// [`Pages::shed`]
    Shed,
    /// [`Pages::failure`]
    Failure,
    /// [`Pages::landing`]
    Landing,
    /// [`Pages::email`]
    Email,
}

/// A template that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// It can't be read, or fails in one of the states.
    #[error("{name}:{line}: {reason}")]
    Template {
        /// Its file.
        name: String,
        /// Where, counted from 1; 0 if the place isn't known.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Its source is too large.
    #[error("{name}: the template has {bytes} bytes, above {TEMPLATE_BYTES_MAX}")]
    TemplateTooLarge {
        /// Its file.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// A page made from it is too large.
    #[error("{name}: a page made from it would be larger than {PAGE_BYTES_MAX} bytes")]
    PageTooLarge {
        /// Its file.
        name: String,
    },
}

impl Pages {
    /// The built-in pages, without a form for email addresses.
    ///
    /// # Errors
    /// Only if a built-in template is broken, which the tests of this file rule out.
    pub fn built_in() -> Result<Self, PageError> {
        Self::new(None, None)
    }

    /// The pages. `template` is the operator's waiting page, by its file (for messages) and its source; else it is the built-in one.
    /// `email` is what is told of the email queue, if there is one.
    ///
    /// # Errors
    /// If the template is too large, can't be read, names what doesn't exist, holds the form twice, or fails or makes too large a page in
    /// some state.
    pub fn new(template: Option<(&str, &str)>, email: Option<EmailTerms>) -> Result<Self, PageError> {
        if let Some((name, source)) = template.filter(|(_, source)| source.len() > TEMPLATE_BYTES_MAX) {
            return Err(PageError::TemplateTooLarge { name: name.to_owned(), bytes: source.len() });
        }
        let (name, source) = template.unwrap_or((WAITING_NAME, WAITING));
        let mut waiting = environment();
        add(&mut waiting, name, source)?;
        let mut built_in = environment();
        built_in.add_global("promise", email.map_or("", EmailTerms::promise));
        built_in.add_global("script", Value::from_safe_string(script()));
        for (name, source) in [
            (SHED_NAME, SHED),
            (FAILURE_NAME, FAILURE),
            (LANDING_NAME, LANDING),
            (LEAVE_NAME, LEAVE),
            (EMAIL_NAME, EMAIL),
            (EMAIL_FORM_NAME, EMAIL_FORM),
        ] {
            add(&mut built_in, name, source)?;
        }
        let shed = BySeconds::new(|secs| render_shed(&built_in, secs, false))?;
        let shed_unsafe = BySeconds::new(|secs| render_shed(&built_in, secs, true))?;
        let too_many = BySeconds::new(|secs| {
            let retry_s = u32::try_from(secs).unwrap_or(u32::MAX);
            render_failure(&built_in, FailureKind::TooManyRequests { retry_s })
        })?;
        let failures = FailureKind::ALL.into_iter().map(|kind| Ok((kind, render_failure(&built_in, kind)?))).collect::<Result<_, _>>()?;
        let takes_form = waiting.get_template(name).is_ok_and(|template| template.undeclared_variables(false).contains("email_form"));
        let policies = Policies::new(template.is_some(), email.is_some() && takes_form);
        let waiting_name = name.to_owned();
        let letters = Letters::built_in()?;
        let pages = Self { waiting, waiting_name, built_in, shed, shed_unsafe, failures, too_many, policies, email, letters };
        pages.rehearse(source)?;
        Ok(pages)
    }

    /// Renders the waiting page in every state that exists, then looks for names that no state has come upon.
    fn rehearse(&self, source: &str) -> Result<(), PageError> {
        let name = &self.waiting_name;
        for view in every_view() {
            let page = self.render_waiting(&view)?;
            if memchr::memmem::find_iter(&page, FIELDS).nth(1).is_some() {
                let line = line_of_word(source, "email_form");
                return Err(PageError::Template { name: name.clone(), line, reason: "`email_form` stands in a page twice".to_owned() });
            }
        }
        let template = self.waiting.get_template(name).map_err(|error| page_error(name, &error))?;
        let mut unknown: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        unknown.retain(|variable| !VARIABLES.contains(&variable.as_str()) && self.waiting.globals().all(|(global, _)| global != variable));
        unknown.sort();
        let Some(variable) = unknown.into_iter().next() else { return Ok(()) };
        let line = line_of_word(source, &variable);
        Err(PageError::Template { name: name.clone(), line, reason: format!("`{variable}` is undefined") })
    }

    /// The waiting page. It depends on nothing but the view, so that the caller may keep it by view.
    ///
    /// # Errors
    /// If the template fails; a rehearsal of every state at load leaves little that can.
    pub fn waiting(&self, view: &WaitingView) -> Result<WaitingPage, PageError> {
        self.render_waiting(view).map(WaitingPage::cut)
    }

    fn render_waiting(&self, view: &WaitingView) -> Result<Bytes, PageError> {
        let figures = match view.state {
            WaitingState::Waiting { wait } => wait.figures(),
            WaitingState::Closed | WaitingState::NoTicket | WaitingState::Next => None,
        };
        let (wait_half, wait_nine_of_ten) = figures.unzip();
        let context = context! {
            state => view.state.name(),
            form_refused => view.form_refused,
            refresh_s => view.refresh_s,
            every => view.every(),
            wait_text => view.state.wait_text(),
            wait_half,
            wait_nine_of_ten,
            position => view.position_text(),
            email_form => self.email.filter(|_| view.has_form()).map_or(Ok(Value::from("")), |terms| {
                self.email_form(terms, EmailState::Asks, view.refresh_s, FIELDS.to_owned())
            })?,
        };
        render(&self.waiting, &self.waiting_name, context)
    }

    /// The form for an email address: by itself, or if `refresh_s` is not 0 as a part of the waiting page.
    fn email_form(&self, terms: EmailTerms, state: EmailState<'_>, refresh_s: u32, fields: String) -> Result<Value, PageError> {
        let context = context! {
            refresh_s,
            kept_for => in_units(terms.retention),
            typed => state.typed(),
            error => state.error(),
            fields => Value::from_safe_string(fields),
        };
        let form = render(&self.built_in, EMAIL_FORM_NAME, context)?;
        Ok(Value::from_safe_string(String::from_utf8_lossy(&form).into_owned()))
    }

    /// What visitors are told of the email queue, if there is one.
    #[must_use]
    pub const fn email_terms(&self) -> Option<EmailTerms> {
        self.email
    }

    /// The pages of the form for an email address: it never refreshes, and posts to `/.tidegate/email`.
    ///
    /// # Errors
    /// If what was typed and the page asked for make it larger than [`PAGE_BYTES_MAX`].
    pub fn email(&self, view: &EmailView<'_>) -> Result<Bytes, PageError> {
        let EmailView { state, fields, void_after } = *view;
        let form = self.email.filter(|_| state.has_form());
        let context = context! {
            title => state.title(),
            text => state.text(self.email),
            form => form.map(|terms| self.email_form(terms, state, 0, fields.inputs())).transpose()?,
            next => fields.next,
            keeps_place => state.keeps_place(),
            void_after => in_units(void_after),
        };
        render(&self.built_in, EMAIL_NAME, context)
    }

    /// The page of a visitor who is in and finds no slot. With an unsafe method it must not be refreshed.
    #[must_use]
    pub fn shed(&self, retry_s: u32, unsafe_method: bool) -> Bytes {
        if unsafe_method { self.shed_unsafe.page(retry_s) } else { self.shed.page(retry_s) }
    }

    /// The page of a failure.
    #[must_use]
    pub fn failure(&self, kind: FailureKind) -> Bytes {
        if let FailureKind::TooManyRequests { retry_s } = kind {
            return self.too_many.page(retry_s);
        }
        self.failures.iter().find(|(known, _)| *known == kind).map_or_else(|| failure_text(kind), |(_, page)| page.clone())
    }

    /// The page that an invitation leads to: its button posts `code` and `next` to `/.tidegate/invitation`.
    ///
    /// # Errors
    /// If the code and the page asked for make it larger than [`PAGE_BYTES_MAX`].
    pub fn landing(&self, view: &LandingView<'_>) -> Result<Bytes, PageError> {
        let LandingView { state, next, check, typed } = *view;
        let context =
            context! { title => state.title(), text => state.text(), code => state.code(), asks => state.asks(), next, check, typed };
        render(&self.built_in, LANDING_NAME, context)
    }

    /// The page where an address is deleted that an invitation was sent to.
    ///
    /// # Errors
    /// If what the link holds makes it larger than [`PAGE_BYTES_MAX`].
    pub fn leave(&self, state: LeaveState<'_>) -> Result<Bytes, PageError> {
        let (id, check) = if let LeaveState::Asks { id, check } = state { (Some(id), Some(check)) } else { (None, None) };
        render(&self.built_in, LEAVE_NAME, context! { title => state.title(), text => state.text(), id, check })
    }

    /// The `Content-Security-Policy` of a page. No page may run a script, but for ours beside the form for an email address.
    ///
    /// Built-in pages may use their one style, by its hash. An operator's template may use styles, images and fonts of the site and
    /// over https, and styles of its own in the page: those can hold nothing that a visitor has sent, since no variable does.
    #[must_use]
    pub fn content_security_policy(&self, page: PageKind) -> &HeaderValue {
        match page {
            PageKind::Waiting => &self.policies.waiting,
            PageKind::Shed | PageKind::Failure | PageKind::Email => &self.policies.built_in,
            PageKind::Landing => &self.policies.landing,
        }
    }
}

#[derive(Debug)]
struct Policies {
    waiting: HeaderValue,
    built_in: HeaderValue,
    landing: HeaderValue,
}

impl Policies {
    fn new(by_operator: bool, scripted: bool) -> Self {
        let mut waiting = if by_operator { OPERATOR_POLICY.to_owned() } else { built_in_policy("'self'") };
        if scripted {
            waiting.push_str(&format!("; script-src '{}'", hash(&script())));
        }
        // browsers hold form-action against the redirects after a post too, and sites redirect to their login on another host:
        // with 'self' alone the invited would press the button and stay where they are (seen in Chromium 156)
        let (built_in, landing) = (built_in_policy("'self'"), built_in_policy("'self' http: https:"));
        Self { waiting: value(waiting), built_in: value(built_in), landing: value(landing) }
    }
}

/// `frame-ancestors` is 'self' since the pages of a site may hold frames of itself: a frame that is shed must be able to come back.
fn built_in_policy(form_action: &str) -> String {
    let style = hash(style());
    format!("default-src 'none'; style-src '{style}'; img-src data:; form-action {form_action}; base-uri 'none'; frame-ancestors 'self'")
}

/// By which a policy allows what stands in the page.
fn hash(inline: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest::digest(&digest::SHA256, inline.as_bytes())))
}

fn value(policy: String) -> HeaderValue {
    // it is ASCII; were it not, a page without style is better than one without a policy
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
}

const OPERATOR_POLICY: &str = "default-src 'none'; style-src 'self' https: 'unsafe-inline'; img-src 'self' https: data:; font-src 'self' https: data:; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'self'";

/// A page for each number of seconds that it may name, rendered ahead: when the site stalls, everyone who is in gets one at once.
#[derive(Debug)]
struct BySeconds(Box<[Bytes]>);

impl BySeconds {
    fn new(render: impl Fn(usize) -> Result<Bytes, PageError>) -> Result<Self, PageError> {
        (0..=SECONDS_MAX + 1).map(render).collect::<Result<_, _>>().map(Self)
    }

    fn page(&self, secs: u32) -> Bytes {
        let at = usize::try_from(secs).unwrap_or(usize::MAX).min(SECONDS_MAX + 1);
        self.0.get(at).cloned().unwrap_or_default()
    }
}

fn render_shed(built_in: &Environment<'_>, secs: usize, unsafe_method: bool) -> Result<Bytes, PageError> {
    render(built_in, SHED_NAME, context! { unsafe_method, in_seconds => in_seconds(secs) })
}

fn render_failure(built_in: &Environment<'_>, kind: FailureKind) -> Result<Bytes, PageError> {
    let context = context! {
        status => kind.status().as_u16(),
        title => kind.title(),
        text => kind.text(),
        try_again => kind.may_pass(),
    };
    render(built_in, FAILURE_NAME, context)
}

/// One view of every kind: each state, with and without each thing that may be missing.
fn every_view() -> impl Iterator<Item = WaitingView> {
    const WAITS: [(Option<u64>, Option<u64>); 6] =
        [(None, None), (Some(100), Some(400)), (Some(100), None), (None, Some(400)), (Some(2400), Some(9000)), (Some(9000), Some(9000))];
    let waiting =
        WAITS.map(|(half_s, nine_of_ten_s)| WaitingState::Waiting { wait: WaitText::new(WaitEstimate { half_s, nine_of_ten_s }) });
    let in_line = [None, Some(100), Some(9000)].map(|expected_s| WaitingState::Waiting { wait: WaitText::in_line(expected_s) });
    let states = waiting.into_iter().chain(in_line).chain([WaitingState::Closed, WaitingState::NoTicket, WaitingState::Next]);
    states.flat_map(|state| {
        [(false, None), (false, Some(1)), (false, Some(123_456)), (true, None), (true, Some(7))]
            .map(|(form_refused, position)| WaitingView::new(state, 10, form_refused, position))
    })
}

/// In which nothing runs for ever, and a name that doesn't exist is an error.
fn base_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

fn environment() -> Environment<'static> {
    let mut environment = base_environment();
    // whatever the file is called
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_global("built_in_head", Value::from_safe_string(format!("{HEAD}<style>{}</style>", style())));
    environment.add_global("built_in_mark", Value::from_safe_string(MARK.trim_end().to_owned()));
    environment.add_global("built_in_sea", Value::from_safe_string(SEA.trim_end().to_owned()));
    environment
}

/// The style as it stands in the page, between its tags.
fn style() -> &'static str {
    STYLE.trim_end()
}

/// The script as it stands in the page, between its tags: without what is there for who reads its source.
fn script() -> String {
    let lines = SCRIPT.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn add(environment: &mut Environment<'static>, name: &str, source: &str) -> Result<(), PageError> {
    environment.add_template_owned(name.to_owned(), source.to_owned()).map_err(|error| page_error(name, &error))
}

fn render(environment: &Environment<'_>, name: &str, context: Value) -> Result<Bytes, PageError> {
    let mut page = Bounded { bytes: Vec::with_capacity(8 * 1024), overflowed: false };
    let result = environment.get_template(name).and_then(|template| template.render_captured_to(context, &mut page).map(drop));
    match result {
        Ok(()) => Ok(page.bytes.into()),
        Err(_) if page.overflowed => Err(PageError::PageTooLarge { name: name.to_owned() }),
        Err(error) => Err(page_error(name, &error)),
    }
}

fn page_error(name: &str, error: &minijinja::Error) -> PageError {
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("takes more than {FUEL} steps: is there an endless loop?"),
        (ErrorKind::UndefinedError, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    PageError::Template { name: name.to_owned(), line: error.line().unwrap_or(0), reason }
}

/// The line, counted from 1, in which a word stands first; 0 if it doesn't.
fn line_of_word(source: &str, word: &str) -> usize {
    let has_word = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word);
    source.lines().position(has_word).map_or(0, |at| at + 1)
}

/// Takes a page, up to [`PAGE_BYTES_MAX`].
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > PAGE_BYTES_MAX {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What [`Pages::waiting`] puts into a template.
const VARIABLES: [&str; 9] =
    ["state", "form_refused", "refresh_s", "every", "wait_text", "wait_half", "wait_nine_of_ten", "position", "email_form"];

const HEAD: &str = include_str!("head.html");
const MARK: &str = include_str!("mark.html");
const SEA: &str = include_str!("sea.html");
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("email.js");
const WAITING_NAME: &str = "waiting.html";
const WAITING: &str = include_str!("waiting.html");
const SHED: &str = include_str!("shed.html");
const SHED_NAME: &str = "shed.html";
const FAILURE: &str = include_str!("failure.html");
const FAILURE_NAME: &str = "failure.html";
const LANDING: &str = include_str!("landing.html");
const LANDING_NAME: &str = "landing.html";
const LEAVE: &str = include_str!("leave.html");
const LEAVE_NAME: &str = "leave.html";
const EMAIL: &str = include_str!("email.html");
const EMAIL_NAME: &str = "email.html";
const EMAIL_FORM: &str = include_str!("email_form.html");
const EMAIL_FORM_NAME: &str = "email_form.html";

#[cfg(test)]
mod tests;
