//! Log lines on stderr: JSON for machines, readable text on a terminal.
//!
//! A line is handed to a thread of its own, so that a stderr that is full or closed never holds up or kills the gate. What does not fit
//! is lost, and counted in the log itself. The form is fixed at start. Absent: the access log's choice of requests, which is the
//! proxy's, and a clock of its own: lines carry the same time as every decision.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tracing::Dispatch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{MakeWriter, Subscriber};

use crate::clock::Clock;
use crate::rules::policy::{Log, LogFormat};
use crate::rules::time::UnixTime;

/// The environment variable with the level, such as `debug` or `info,tidegate::proxy=debug`.
pub const LEVEL_VARIABLE: &str = "TIDEGATE_LOG";

/// Bytes of log lines that wait for stderr: seconds of a busy log, and little beside the buffers for bodies.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// What a waiting line costs beside its bytes.
const LINE_OVERHEAD_BYTES: usize = 64;

/// How long the end of the process waits for stderr to take the last lines.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error("{LEVEL_VARIABLE}: {text:?} is not a level (error, warn, info, debug, trace, off) or a list of target=level")]
    Level {
        /// What was asked for.
        text: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The thread that writes could not be started.
    #[error("the log thread could not be started")]
    Thread(#[source] io::Error),
    /// Logging had already started in this process.
    #[error("logging has already started")]
    Started,
}

/// Logging, from [`start`] on. Dropping it writes what still waits, for a second at most.
#[derive(Debug)]
#[must_use = "dropping it flushes the log"]
pub struct Telemetry {
    lines: Lines,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.lines.flush(FLUSH_MAX);
    }
}

/// Sends every event of the process, and every panic, to stderr from now on.
///
/// # Errors
///
/// A level in the environment that is not one, or logging that has already started.
pub fn start(log: &Log, clock: &Arc<Clock>) -> Result<Telemetry, TelemetryError> {
    let level = std::env::var_os(LEVEL_VARIABLE).map(|text| text.to_string_lossy().into_owned());
    let filter = filter(level.as_deref())?;
    let form = Form::choose(log.format, io::stderr().is_terminal(), std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()));
    let lines = Lines::start(io::stderr(), form, Arc::clone(clock)).map_err(TelemetryError::Thread)?;
    let dispatch = dispatch(form, filter, lines.clone(), Arc::clone(clock));
    tracing::dispatcher::set_global_default(dispatch).map_err(|_already| TelemetryError::Started)?;
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, cause = message.unwrap_or("no message"), "panicked");
    }));
    Ok(Telemetry { lines })
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Text,
    Colour,
}

impl Form {
    const fn choose(format: LogFormat, terminal: bool, no_colour: bool) -> Self {
        match (format, terminal) {
            (LogFormat::Json, _) | (LogFormat::Auto, false) => Self::Json,
            (LogFormat::Text, false) => Self::Text,
            (LogFormat::Text | LogFormat::Auto, true) => {
                if no_colour {
                    Self::Text
                } else {
                    Self::Colour
                }
            }
        }
    }
}

fn filter(level: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let text = level.unwrap_or_default().trim();
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    builder.parse(text).map_err(|source| TelemetryError::Level { text: text.to_owned(), source })
}

fn dispatch(form: Form, filter: EnvFilter, lines: Lines, clock: Arc<Clock>) -> Dispatch {
    let builder = Subscriber::builder()
        .with_env_filter(filter)
        .with_writer(lines)
        .with_timer(Timer(clock))
        .with_ansi(form == Form::Colour)
        // it would report to stderr itself, and panic there
        .log_internal_errors(false);
    match form {
        Form::Json => Dispatch::new(builder.json().flatten_event(true).with_span_list(false).finish()),
        Form::Text | Form::Colour => Dispatch::new(builder.finish()),
    }
}

/// The time of a line, by the process's clock.
#[derive(Debug)]
struct Timer(Arc<Clock>);

impl FormatTime for Timer {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{}", rfc3339(self.0.now().wall))
    }
}

/// A time as RFC 3339 in UTC with milliseconds.
fn rfc3339(time: UnixTime) -> String {
    let timestamp = i64::try_from(time.as_millis()).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    format!("{:.3}", timestamp.unwrap_or(jiff::Timestamp::MAX))
}

/// The lines that wait to be written. Cloned into the subscriber.
#[derive(Clone, Debug)]
struct Lines {
    /// Unbounded, since `waiting_bytes` bounds it: sending never blocks.
    sender: mpsc::Sender<Entry>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    form: Form,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    Flush(mpsc::Sender<()>),
}

impl Lines {
    /// Starts the thread that writes to `out`.
    fn start(out: impl Write + Send + 'static, form: Form, clock: Arc<Clock>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let lines = Self { sender, waiting_bytes: Arc::default(), lost: Arc::default(), form };
        let pen = Pen { out, form, clock, waiting_bytes: Arc::clone(&lines.waiting_bytes), lost: Arc::clone(&lines.lost) };
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || pen.write_all(&receiver))?;
        // it ends with the last sender, which the global subscriber keeps for ever
        drop(thread);
        Ok(lines)
    }

    fn push(&self, line: &[u8]) {
        let line = one_line(line, self.form);
        let cost = cost_bytes(&line);
        if self.waiting_bytes.fetch_add(cost, Ordering::Relaxed) + cost > WAITING_BYTES_MAX {
            self.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if self.sender.send(Entry::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines so far are written, or the time is out. Whether they were.
    fn flush(&self, at_most: Duration) -> bool {
        let (done, wait) = mpsc::channel();
        self.sender.send(Entry::Flush(done)).is_ok() && wait.recv_timeout(at_most).is_ok()
    }
}

const fn cost_bytes(line: &[u8]) -> usize {
    line.len() + LINE_OVERHEAD_BYTES
}

/// What a visitor sends must not look like a line of ours, nor drive the operator's terminal: control characters are written out.
/// Colours alone pass, where we set them ourselves.
fn one_line(line: &[u8], form: Form) -> Vec<u8> {
    let line = String::from_utf8_lossy(line);
    let mut rest = line.strip_suffix('\n').unwrap_or(&line);
    let mut escaped = String::with_capacity(line.len());
    while let Some(control) = rest.find(|c: char| c.is_control() && c != '\t') {
        let (plain, from_control) = rest.split_at(control);
        escaped.push_str(plain);
        let colour = if form == Form::Colour { colour_bytes(from_control) } else { 0 };
        if colour > 0 {
            escaped.push_str(&from_control[..colour]);
            rest = &from_control[colour..];
        } else {
            let mut chars = from_control.chars();
            escaped.extend(chars.next().into_iter().flat_map(char::escape_default));
            rest = chars.as_str();
        }
    }
    escaped.push_str(rest);
    escaped.push('\n');
    escaped.into_bytes()
}

/// The length of the colour sequence (ECMA-48, SGR) that the text starts with; 0 if it starts with none.
fn colour_bytes(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\x1b[") else { return 0 };
    let digits = parameters.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b';').count();
    if parameters.as_bytes().get(digits) == Some(&b'm') { "\x1b[".len() + digits + "m".len() } else { 0 }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

/// Takes one event by one `write`, and never fails.
struct LineWriter<'a>(&'a Lines);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the thread owns.
struct Pen<W> {
    out: W,
    form: Form,
    clock: Arc<Clock>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

impl<W: Write> Pen<W> {
    fn write_all(mut self, entries: &mpsc::Receiver<Entry>) {
        for entry in entries {
            match entry {
                Entry::Line(line) => {
                    self.own_up();
                    if self.out.write_all(&line).is_err() {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    self.waiting_bytes.fetch_sub(cost_bytes(&line), Ordering::Relaxed);
                }
                Entry::Flush(done) => {
                    self.own_up();
                    drop(self.out.flush());
                    let _whoever_asked_may_have_given_up = done.send(());
                }
            }
        }
    }

    /// Says how many lines were lost, if any were, as soon as a line can be written again.
    fn own_up(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost == 0 {
            return;
        }
        let time = rfc3339(self.clock.now().wall);
        let written = match self.form {
            Form::Json => writeln!(self.out, r#"{{"timestamp":"{time}","level":"WARN","message":"log lines were lost","lines":{lost}}}"#),
            Form::Text | Form::Colour => writeln!(self.out, "{time}  WARN log lines were lost lines={lost}"),
        };
        if written.is_err() {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A stderr that keeps what is written, and can be closed.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }

        fn close(&self, closed: bool) {
            self.0.lock().unwrap().1 = closed;
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut paper = self.0.lock().unwrap();
            if paper.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            paper.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    fn logged(form: Form, level: Option<&str>, log: impl FnOnce()) -> String {
        let paper = Paper::default();
        let clock = Arc::new(Clock::start());
        let lines = Lines::start(paper.clone(), form, Arc::clone(&clock)).unwrap();
        let dispatch = dispatch(form, filter(level).unwrap(), lines.clone(), clock);
        tracing::dispatcher::with_default(&dispatch, log);
        assert!(lines.flush(LONG));
        paper.text()
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let text = logged(Form::Json, None, || {
            tracing::warn!(server = "http://a", took_ms = 7_u64, "ejected \"it\"\nand more");
            tracing::debug!("below the level");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "ejected \"it\"\nand more");
        assert_eq!(line["server"], "http://a");
        assert_eq!(line["took_ms"], 7);
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.len() == "2026-01-01T00:00:00.000Z".len() && time.ends_with('Z'), "{time}");
    }

    #[test]
    fn a_text_line_cannot_be_broken_by_what_it_says() {
        let text = logged(Form::Text, None, || tracing::info!(path = %"/a\n2026-01-01T00:00:00.000Z ERROR forged\x1b[31m", "asked"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("asked") && text.contains("\\n2026") && !text.contains('\x1b'), "{text}");
    }

    #[test]
    fn only_colours_reach_a_terminal() {
        let line = "\x1b[32m INFO\x1b[0m asked\x1b[2J\x1b]0;title\x07\u{9b}2J\tend\n".as_bytes();
        let text = String::from_utf8(one_line(line, Form::Colour)).unwrap();
        assert_eq!(text, "\x1b[32m INFO\x1b[0m asked\\u{1b}[2J\\u{1b}]0;title\\u{7}\\u{9b}2J\tend\n");
        assert_eq!(one_line(b"cut short \x1b[3", Form::Colour), b"cut short \\u{1b}[3\n");
    }

    #[test]
    fn the_level_is_asked_for_by_target() {
        let log = || {
            tracing::info!("a");
            tracing::debug!(target: "tidegate::proxy", "b");
        };
        assert_eq!(logged(Form::Json, Some("warn"), log), "");
        let text = logged(Form::Json, Some("warn,tidegate::proxy=debug"), log);
        assert!(text.contains("\"b\"") && !text.contains("\"a\""), "{text}");
        assert_eq!(logged(Form::Json, Some(""), log).lines().count(), 1);
        let error = filter(Some("tidegate=loud")).unwrap_err();
        assert!(error.to_string().starts_with("TIDEGATE_LOG: \"tidegate=loud\" is not a level"), "{error}");
    }

    #[test]
    fn the_form_follows_the_terminal_unless_said_otherwise() {
        assert_eq!(Form::choose(LogFormat::Auto, false, false), Form::Json);
        assert_eq!(Form::choose(LogFormat::Auto, true, false), Form::Colour);
        assert_eq!(Form::choose(LogFormat::Auto, true, true), Form::Text);
        assert_eq!(Form::choose(LogFormat::Json, true, false), Form::Json);
        assert_eq!(Form::choose(LogFormat::Text, false, false), Form::Text);
    }

    #[test]
    fn a_closed_stderr_loses_lines_and_says_so_when_it_can() {
        let paper = Paper::default();
        let lines = Lines::start(paper.clone(), Form::Json, Arc::new(Clock::start())).unwrap();
        paper.close(true);
        lines.push(b"one\n");
        lines.push(b"two\n");
        assert!(lines.flush(LONG));
        assert_eq!(paper.text(), "");
        paper.close(false);
        lines.push(b"three\n");
        assert!(lines.flush(LONG));
        let text = paper.text();
        let (notice, rest) = text.split_once('\n').unwrap();
        let notice: serde_json::Value = serde_json::from_str(notice).unwrap();
        assert_eq!((notice["message"].as_str(), notice["lines"].as_u64()), (Some("log lines were lost"), Some(2)));
        assert_eq!(rest, "three\n");
    }

    #[test]
    fn a_stderr_that_takes_nothing_holds_up_nobody() {
        /// A pipe that is full until the test ends.
        struct Full(mpsc::Receiver<()>);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _until_the_test_ends = self.0.recv();
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (open, pipe) = mpsc::channel();
        let lines = Lines::start(Full(pipe), Form::Json, Arc::new(Clock::start())).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..10 {
            lines.push(&line);
        }
        assert!(lines.waiting_bytes.load(Ordering::Relaxed) <= WAITING_BYTES_MAX);
        assert_eq!(lines.lost.load(Ordering::Relaxed), 7, "three of a mebibyte and their overhead fit");
        assert!(!lines.flush(Duration::ZERO));
        drop(open);
        assert!(lines.flush(LONG));
        assert_eq!(lines.waiting_bytes.load(Ordering::Relaxed), 0);
    }
}
