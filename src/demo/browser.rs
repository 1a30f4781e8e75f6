//! A visitor's browser, as far as a gate can tell: one connection kept alive, cookies, what the answers mean, and the form on a page.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_LANGUAGE, CONNECTION, CONTENT_TYPE, COOKIE, HOST, ORIGIN, REFRESH, RETRY_AFTER, SET_COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpSocket;
use tokio::task::AbortHandle;

/// What an answer is to a visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A page of the site.
    Page,
    /// The waiting room: come back after so long.
    Wait {
        /// As the answer says, within bounds.
        after: Duration,
    },
    /// Let in, but the site is full just now: come back after so long.
    Shed {
        /// As the answer says, within bounds.
        after: Duration,
    },
    /// Anything else.
    Failed,
}

/// Reads an answer by its head. The gate's own answers say so in `Proxy-Status` (RFC 9209), by `details`; any other 503 is a failure.
#[must_use]
pub fn classify(status: StatusCode, headers: &HeaderMap) -> Answer {
    if status.is_success() {
        return Answer::Page;
    }
    let Some(after) = come_back(headers).filter(|_| status == StatusCode::SERVICE_UNAVAILABLE) else {
        return Answer::Failed;
    };
    let says = |details: &str| {
        let mut values = headers.get_all("proxy-status").iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.contains("tidegate") && value.contains(details))
    };
    if says("details=\"wait\"") {
        Answer::Wait { after }
    } else if says("details=\"shed\"") {
        Answer::Shed { after }
    } else {
        Answer::Failed
    }
}

/// `Refresh`, which is what a browser acts on, or else `Retry-After`.
fn come_back(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |name: HeaderName| {
        let value = headers.get(name)?.to_str().ok()?;
        value.split([';', ',']).next()?.trim().parse::<f64>().ok().filter(|seconds| *seconds >= 0.0)
    };
    let seconds = seconds(REFRESH).or_else(|| seconds(RETRY_AFTER))?;
    Some(Duration::from_secs_f64(seconds.clamp(COME_BACK_MIN_S, COME_BACK_MAX_S)))
}

/// A visitor's cookies of one site: names and values, without regard to paths, domains and expiries other than a removal.
#[derive(Clone, Debug, Default)]
pub struct CookieJar(Vec<(String, String)>);

impl CookieJar {
    /// Takes over what an answer sets or removes.
    pub fn store(&mut self, headers: &HeaderMap) {
        for value in headers.get_all(SET_COOKIE) {
            let Ok(value) = value.to_str() else { continue };
            let mut parts = value.split(';');
            let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { continue };
            let (name, value) = (name.trim(), value.trim());
            let removed = parts.filter_map(|part| part.split_once('=')).any(|(attribute, age)| {
                attribute.trim().eq_ignore_ascii_case("max-age") && age.trim().parse::<i64>().is_ok_and(|age| age <= 0)
            });
            self.0.retain(|(kept, _)| kept != name);
            if !removed && !name.is_empty() && self.0.len() < COOKIES_MAX {
                self.0.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// The `Cookie` header; none without cookies.
    #[must_use]
    pub fn header(&self) -> Option<HeaderValue> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { None } else { HeaderValue::try_from(pairs.join("; ")).ok() }
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The connection broke, or what came was not HTTP.
    #[error("no answer")]
    Exchange(#[source] hyper::Error),
    /// The path is none.
    #[error("not a path")]
    Path(#[source] http::Error),
}

/// What a browser asks for.
#[derive(Clone, Copy)]
struct Ask<'a> {
    path: &'a str,
    /// To be posted.
    form: Option<&'a Form>,
    /// How much of the answer is kept, in bytes.
    keeps: usize,
}

/// A page that was read.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// What it says, up to a bound.
    pub html: String,
}

impl Page {
    /// The first form of the page that is there to be posted, with what is filled in already.
    #[must_use]
    pub fn form(&self) -> Option<Form> {
        let forms = self.html.split("<form").skip(1).map(|rest| rest.split("</form").next().unwrap_or_default());
        let (tag, content) = forms
            .filter_map(|form| form.split_once('>'))
            .find(|(tag, _)| attribute(tag, "method").is_some_and(|method| method == "post"))?;
        let inputs = content.split("<input").skip(1).map(|rest| rest.split('>').next().unwrap_or_default());
        let fields = inputs.filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value").unwrap_or_default()))).collect();
        Some(Form { action: attribute(tag, "action")?, fields })
    }
}

/// A form of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The path that it is sent to.
    pub action: String,
    /// Names and values, in their order.
    pub fields: Vec<(String, String)>,
}

impl Form {
    /// Fills in a field. Returns whether there is one of this name.
    pub fn fill(&mut self, name: &str, text: &str) -> bool {
        let field = self.fields.iter_mut().find(|(field, _)| field == name);
        field.map(|(_, value)| text.clone_into(value)).is_some()
    }
}

/// An attribute in quotes, as the pages of a gate have them.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(unescaped(rest.split('"').next()?))
}

/// Takes `&amp;` and `&#x2f;` for what they stand for.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let found = after.split_once(';').and_then(|(entity, after)| Some((character(entity)?, after)));
        let (char, after) = found.unwrap_or(('&', after));
        plain.push(char);
        rest = after;
    }
    plain + rest
}

fn character(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}

/// A browser that asks one server.
#[derive(Debug)]
pub struct Browser {
    server: SocketAddr,
    host: HeaderValue,
    /// The address that it connects from; any if there is none.
    source: Option<Ipv4Addr>,
    /// None for a client that drops cookies.
    cookies: Option<CookieJar>,
    connection: Option<Connection>,
}

/// Ends with its owner: a browser that gives up closes the connection, answer or not.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Browser {
    /// A browser without a connection or cookies. `keeps_cookies` is false for a client that drops them.
    #[must_use]
    pub fn new(server: SocketAddr, source: Option<Ipv4Addr>, keeps_cookies: bool) -> Self {
        let host = HeaderValue::try_from(server.to_string()).unwrap_or(HeaderValue::from_static("localhost"));
        Self { server, host, source, cookies: keeps_cookies.then(CookieJar::default), connection: None }
    }

    /// Navigates to a path and reads the answer to its end. If this is dropped midway, the connection is closed.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn load(&mut self, path: &str) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        let page = self.ask(Ask { path, form: None, keeps: 0 }).await?;
        Ok((page.status, page.headers))
    }

    /// The same, and keeps what the page says.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn read(&mut self, path: &str) -> Result<Page, NoAnswer> {
        self.ask(Ask { path, form: None, keeps: PAGE_BYTES_MAX }).await
    }

    /// Sends a form, by POST, and reads the answer. A redirect is not followed.
    ///
    /// # Errors
    /// If there is no answer. As with other requests, one that broke on a kept connection is made once more.
    pub async fn send(&mut self, form: &Form) -> Result<Page, NoAnswer> {
        self.ask(Ask { path: &form.action, form: Some(form), keeps: PAGE_BYTES_MAX }).await
    }

    /// Closes the connection, and keeps the cookies.
    pub fn close(&mut self) {
        self.connection = None;
    }

    async fn ask(&mut self, ask: Ask<'_>) -> Result<Page, NoAnswer> {
        if let Some(connection) = self.connection.take() {
            // the server may have closed an idle connection in the meantime: browsers then ask again on a new one, once
            if let Ok(answer) = self.exchange(connection, ask).await {
                return Ok(answer);
            }
        }
        let connection = self.connect().await?;
        self.exchange(connection, ask).await
    }

    async fn exchange(&mut self, mut connection: Connection, ask: Ask<'_>) -> Result<Page, NoAnswer> {
        connection.sender.ready().await.map_err(NoAnswer::Exchange)?;
        let request = self.request(ask).map_err(NoAnswer::Path)?;
        let response = connection.sender.send_request(request).await.map_err(NoAnswer::Exchange)?;
        let (head, mut body) = response.into_parts();
        let mut kept = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(NoAnswer::Exchange)?;
            if let Some(data) = frame.data_ref() {
                let room = ask.keeps.saturating_sub(kept.len());
                kept.extend_from_slice(&data[..data.len().min(room)]);
            }
        }
        if let Some(cookies) = &mut self.cookies {
            cookies.store(&head.headers);
        }
        let closes = head.headers.get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        self.connection = (!closes).then_some(connection);
        Ok(Page { status: head.status, headers: head.headers, html: String::from_utf8_lossy(&kept).into_owned() })
    }

    fn request(&self, ask: Ask<'_>) -> Result<Request<Full<Bytes>>, http::Error> {
        let method = if ask.form.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder()
            .method(method)
            .uri(ask.path)
            .header(HOST, &self.host)
            .header(USER_AGENT, "Mozilla/5.0 (tidegate model visitor)")
            .header(ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")
            .header(ACCEPT_LANGUAGE, "en")
            .header("sec-fetch-mode", "navigate")
            .header("sec-fetch-dest", "document");
        if let Some(cookies) = self.cookies.as_ref().and_then(CookieJar::header) {
            request = request.header(COOKIE, cookies);
        }
        let Some(form) = ask.form else { return request.body(Full::default()) };
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ORIGIN, format!("http://{}", self.server));
        let mut fields = form_urlencoded::Serializer::new(String::new());
        fields.extend_pairs(&form.fields);
        request.body(fields.finish().into())
    }

    async fn connect(&self) -> Result<Connection, NoAnswer> {
        let socket = if self.server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(NoAnswer::Connect)?;
        if let Some(source) = self.source {
            socket.bind(SocketAddr::from((source, 0))).map_err(NoAnswer::Connect)?;
        }
        let stream = socket.connect(self.server).await.map_err(NoAnswer::Connect)?;
        stream.set_nodelay(true).map_err(NoAnswer::Connect)?;
        let handshake = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(NoAnswer::Exchange)?;
        let driver = tokio::spawn(async move {
            // what goes wrong here is told to whoever waits for an answer
            drop(connection.await);
        });
        Ok(Connection { sender, driver: driver.abort_handle() })
    }
}

/// No faster than a person who reloads in anger, whatever the answer says.
const COME_BACK_MIN_S: f64 = 1.0;

/// No slower than a person who looks again.
const COME_BACK_MAX_S: f64 = 300.0;

const COOKIES_MAX: usize = 32;

/// Several times a page of a gate.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// The smallest buffer that hyper allows: thousands of connections are open.
const BUFFER_BYTES: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn answers_of_the_gate_are_told_apart() {
        let full = StatusCode::SERVICE_UNAVAILABLE;
        let wait = headers(&[("retry-after", "5"), ("proxy-status", "tidegate; error=http_request_denied; details=\"wait\"")]);
        assert_eq!(classify(full, &wait), Answer::Wait { after: Duration::from_secs(5) });
        let shed = headers(&[("retry-after", "2"), ("proxy-status", "tidegate; details=\"shed\"")]);
        assert_eq!(classify(full, &shed), Answer::Shed { after: Duration::from_secs(2) });
        assert_eq!(classify(StatusCode::OK, &HeaderMap::new()), Answer::Page);
        assert_eq!(classify(StatusCode::NO_CONTENT, &HeaderMap::new()), Answer::Page);
    }

    #[test]
    fn a_503_of_anything_else_is_a_failure() {
        let full = StatusCode::SERVICE_UNAVAILABLE;
        for list in [
            headers(&[]),
            headers(&[("retry-after", "5")]),
            headers(&[("retry-after", "5"), ("proxy-status", "haproxy; details=\"wait\"")]),
            headers(&[("retry-after", "5"), ("proxy-status", "tidegate; error=connection_refused")]),
            headers(&[("proxy-status", "tidegate; details=\"wait\"")]),
        ] {
            assert_eq!(classify(full, &list), Answer::Failed, "{list:?}");
        }
        let wait = headers(&[("retry-after", "5"), ("proxy-status", "tidegate; details=\"wait\"")]);
        assert_eq!(classify(StatusCode::BAD_GATEWAY, &wait), Answer::Failed);
        assert_eq!(classify(StatusCode::FOUND, &HeaderMap::new()), Answer::Failed);
    }

    #[test]
    fn refresh_outranks_retry_after_and_both_are_bounded() {
        let after = |list| come_back(&headers(list));
        assert_eq!(after(&[("retry-after", "9"), ("refresh", "2; url=/page/1")]), Some(Duration::from_secs(2)));
        assert_eq!(after(&[("retry-after", "0")]), Some(Duration::from_secs(1)));
        assert_eq!(after(&[("retry-after", "99999999")]), Some(Duration::from_secs(300)));
        assert_eq!(after(&[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]), None);
        assert_eq!(after(&[("retry-after", "-5")]), None);
    }

    #[test]
    fn forms_are_found_and_filled_in() {
        let html = "<form action=\"/search\"><input name=\"q\"></form>\n<form id=\"a\" method=\"post\" action=\"/.tidegate/email\">\n\
            <label for=\"b\">Address</label><input id=\"b\" name=\"email\" required value=\"\">\n<button>Go</button>\
            <input type=\"hidden\" name=\"next\" value=\"&#x2f;page/7?a=1&amp;b=&quot;&#39;&lt;&gt;&x\"></form><input name=\"out\" value=\"1\">";
        let page = Page { status: StatusCode::OK, headers: HeaderMap::new(), html: html.to_owned() };
        let mut form = page.form().unwrap();
        assert!(form.fill("email", "ann@example.org") && !form.fill("check", "1"));
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = vec![field("email", "ann@example.org"), field("next", "/page/7?a=1&b=\"'<>&x")];
        assert_eq!(form, Form { action: "/.tidegate/email".to_owned(), fields });
        assert_eq!(Page { html: "<form action=\"/\"></form>".to_owned(), ..page }.form(), None);
    }

    #[test]
    fn cookies_are_kept_replaced_and_removed() {
        let mut jar = CookieJar::default();
        assert_eq!(jar.header(), None);
        jar.store(&headers(&[
            ("set-cookie", "tidegate_ticket=v1.a.b=; Path=/; HttpOnly; Max-Age=600"),
            ("set-cookie", "site=1"),
            ("set-cookie", "not a cookie"),
        ]));
        assert_eq!(jar.header().unwrap(), "tidegate_ticket=v1.a.b=; site=1");
        jar.store(&headers(&[("set-cookie", "site=2"), ("set-cookie", "tidegate_ticket=; max-age = 0; Path=/")]));
        assert_eq!(jar.header().unwrap(), "site=2");
        jar.store(&headers(&[("set-cookie", "site=; Max-Age=-1")]));
        assert_eq!(jar.header(), None);
    }

    #[test]
    fn a_jar_holds_only_so_many() {
        let mut jar = CookieJar::default();
        for index in 0..100 {
            let mut set = HeaderMap::new();
            set.insert(SET_COOKIE, HeaderValue::try_from(format!("c{index}=x")).unwrap());
            jar.store(&set);
        }
        assert_eq!(jar.0.len(), COOKIES_MAX);
    }
}
