//! A site that reads more strictly than most, and writes down what it has read byte for byte.

use std::sync::{Arc, Mutex};

use crate::support::{Site, Upstream};

use super::cases::forwarded;

/// The site.
pub(super) struct Strict {
    upstream: Upstream,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    seen: Vec<String>,
    faults: Vec<String>,
}

impl Strict {
    pub(super) fn start() -> Self {
        Self::behind("http")
    }

    /// Behind a gate to which visitors come over this.
    pub(super) fn behind(scheme: &'static str) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = Arc::clone(&record);
        let upstream = Upstream::raw(move |site| serve(site, scheme, &shared));
        Self { upstream, record }
    }

    /// As gate.yaml names it.
    pub(super) fn url(&self) -> String {
        self.upstream.url()
    }

    /// The requests so far: the head without what the gate says of the client, and the body as it was framed.
    pub(super) fn seen(&self) -> Vec<String> {
        self.record.lock().unwrap().seen.clone()
    }

    /// What a strict reader can't accept.
    pub(super) fn faults(&self) -> Vec<String> {
        self.record.lock().unwrap().faults.clone()
    }
}

/// Answers each request with its method and target.
fn serve(site: &mut Site, scheme: &str, record: &Mutex<Record>) {
    let mut bytes = Vec::new();
    loop {
        match whole(&bytes, scheme) {
            Ok(Some((length, text, name))) => {
                record.lock().unwrap().seen.push(text);
                bytes.drain(..length);
                let body = if name.starts_with("HEAD ") { "" } else { name.as_str() };
                if !site.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", name.len())) {
                    return;
                }
            }
            Ok(None) => match site.bytes() {
                Ok(more) => bytes.extend(more),
                Err(_) if bytes.is_empty() => return,
                Err(error) => return record.lock().unwrap().faults.push(format!("{error} within {}", bytes.escape_ascii())),
            },
            Err(fault) => return record.lock().unwrap().faults.push(format!("{fault}: {}", bytes.escape_ascii())),
        }
    }
}

/// A request that has come whole: its length, its text, and its name. `None` if more is to come.
fn whole(bytes: &[u8], scheme: &str) -> Result<Option<(usize, String, String)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let head = match request.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    if bytes[..head].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r') {
        return Err("a bare line feed".to_owned());
    }
    if request.version != Some(1) {
        return Err("not HTTP/1.1".to_owned());
    }
    let all = |wanted: &str| -> Vec<String> {
        let lines = request.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(wanted));
        lines.map(|line| String::from_utf8_lossy(line.value).into_owned()).collect()
    };
    let [host] = all("host").try_into().map_err(|hosts| format!("Host: {hosts:?}"))?;
    told(&host, scheme, &all)?;
    let rest = &bytes[head..];
    let body = match (all("content-length").as_slice(), all("transfer-encoding").as_slice()) {
        ([], []) => Some(0),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
            (rest.len() >= length).then_some(length)
        }
        ([], [coding]) if coding == "chunked" => chunks(rest)?,
        (lengths, codings) => return Err(format!("framed by {lengths:?} and {codings:?}")),
    };
    let Some(body) = body else { return Ok(None) };
    let ours = |line: &str| {
        ["x-forwarded-for: ", "x-forwarded-proto: ", "x-forwarded-host: ", "forwarded: "].iter().any(|ours| line.starts_with(ours))
    };
    // each line without its end
    let mut lines = bytes[..head - 2]
        .split(|&byte| byte == b'\n')
        .map(|line: &[u8]| -> String { line.strip_suffix(b"\r").unwrap_or(line).iter().copied().map(char::from).collect() });
    let line = lines.next().unwrap_or_default();
    let text = forwarded(&line, lines.filter(|line| !line.is_empty() && !ours(line)).collect(), &rest[..body]);
    let name = format!("{} {}", request.method.unwrap_or_default(), request.path.unwrap_or_default());
    Ok(Some((head + body, text, name)))
}

/// What the gate says of a client that is no trusted proxy, whatever that has said.
fn told(host: &str, scheme: &str, all: &dyn Fn(&str) -> Vec<String>) -> Result<(), String> {
    let element = format!("for=127.0.0.1;host={host};proto={scheme}");
    let quoted = format!("for=127.0.0.1;host=\"{host}\";proto={scheme}");
    // a client of 1.0 need not say whom it wants
    let bare = format!("for=127.0.0.1;proto={scheme}");
    let holds = all("x-forwarded-for") == ["127.0.0.1"]
        && all("x-forwarded-proto") == [scheme]
        && match all("x-forwarded-host").as_slice() {
            [said] => said == host && (all("forwarded") == [element] || all("forwarded") == [quoted]),
            said => said.is_empty() && all("forwarded") == [bare],
        };
    if holds { Ok(()) } else { Err("what the gate says of the client".to_owned()) }
}

/// How many bytes chunks and trailers take; `None` if more are to come.
fn chunks(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(end) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = &bytes[at..at + end];
        if line.is_empty() || !line.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("a chunk of {}", line.escape_ascii()));
        }
        let size = str::from_utf8(line).ok().and_then(|line| usize::from_str_radix(line, 16).ok());
        let size = size.ok_or_else(|| format!("a chunk of {}", line.escape_ascii()))?;
        at += end + 2;
        if size == 0 {
            break;
        }
        match bytes.get(at + size..at + size + 2) {
            None => return Ok(None),
            Some(b"\r\n") => at += size + 2,
            Some(_) => return Err("a chunk that is longer than it says".to_owned()),
        }
    }
    loop {
        let Some(end) = bytes[at..].windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        at += end + 2;
        if end == 0 {
            return Ok(Some(at));
        }
    }
}
