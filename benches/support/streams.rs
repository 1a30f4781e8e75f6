//! One connection of a visitor over HTTP/2.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::header::{CONTENT_LENGTH, COOKIE, HeaderValue};
use http::{Request, Version};
use tokio::task::{JoinHandle, JoinSet, spawn_local};

use super::load::{BROWSER, Connection, HOST, THEIR_COOKIE};

/// A connection on which requests are made.
pub(super) struct Session {
    requests: SendRequest<Bytes>,
    /// Ends with the connection.
    driven: JoinHandle<Result<(), h2::Error>>,
}

impl Session {
    /// With windows in which no page waits for room, as those of browsers are.
    pub(super) async fn new(stream: Box<dyn Connection>) -> anyhow::Result<Self> {
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (requests, connection) = builder.handshake(stream).await?;
        Ok(Self { requests, driven: spawn_local(connection) })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.driven.is_finished()
    }

    /// Asks once.
    pub(super) async fn ask(&self, request: &Request<()>, status: u16) -> anyhow::Result<()> {
        ask(self.requests.clone(), request, status).await
    }

    /// Asks for so many pages at a time, and for the next as soon as one is there. Ends only if something is wrong.
    pub(super) async fn ask_all(self, requests: &[Request<()>], streams: usize, status: u16, answers: &Rc<Cell<u64>>) -> anyhow::Error {
        let mut asking = JoinSet::new();
        for number in 0..streams {
            let (to, answers) = (self.requests.clone(), Rc::clone(answers));
            // each its own part of what is shown in turn
            let mut own = requests.to_vec();
            own.rotate_left(number * requests.len() / streams);
            asking.spawn_local(async move {
                for request in own.iter().cycle() {
                    ask(to.clone(), request, status).await?;
                    answers.set(answers.get() + 1);
                }
                anyhow::Ok(())
            });
        }
        match asking.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(_) | None => anyhow::anyhow!("a stream has ended"),
        }
    }
}

async fn ask(to: SendRequest<Bytes>, request: &Request<()>, status: u16) -> anyhow::Result<()> {
    let (answer, _) = to.ready().await?.send_request(request.clone(), true)?;
    let answer = answer.await?;
    ensure!(answer.status() == status, "{} instead of {status}", answer.status());
    let length = answer.headers().get(CONTENT_LENGTH).context("no Content-Length")?;
    let whole: usize = length.to_str()?.parse()?;
    let mut body = answer.into_body();
    let mut got = 0;
    while let Some(piece) = body.data().await {
        let bytes = piece?.len();
        body.flow_control().release_capacity(bytes)?;
        got += bytes;
    }
    if got != whole {
        bail!("{got} bytes of {whole}");
    }
    Ok(())
}

/// The request of a browser, which sends each cookie by itself.
pub(super) fn request(path: &str, cookie: &str) -> anyhow::Result<Request<()>> {
    let mut request = Request::get(format!("https://{HOST}{path}")).version(Version::HTTP_2);
    for (name, value) in BROWSER {
        request = request.header(name, HeaderValue::from_static(value));
    }
    for cookie in [THEIR_COOKIE, cookie] {
        request = request.header(COOKIE, cookie);
    }
    Ok(request.body(())?)
}

const WINDOW: u32 = 8 * 1024 * 1024;
