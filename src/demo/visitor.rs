//! One visitor's visit, from arrival to the last page or to giving up.

use std::time::Duration;

use super::browser::{Answer, Browser, classify};
use super::crowd::{RELOAD_PAUSES, RELOADS, Tally, own_address};
use super::portal;
use crate::models::random::Random;
use crate::rules::time::Moment;

/// A visitor who is about to come.
#[derive(Debug)]
pub(super) struct Visitor {
    tally: Tally,
    browser: Browser,
    random: Random,
    arrival: Moment,
    keeps_cookies: bool,
    reloader: bool,
    /// Has had a page of the site.
    inside: bool,
    /// Has been shown the waiting room.
    waited: bool,
    /// Has been shown it after that.
    diverted: bool,
}

/// How a visit ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Completed,
    Waiting,
    Failed,
}

impl Visitor {
    pub(super) fn new(tally: Tally, number: u64, arrival: Moment) -> Self {
        let settings = tally.settings();
        let mut random = Random::stream(settings.seed, number);
        let keeps_cookies = !random.chance(settings.cookie_droppers);
        let reloader = random.chance(settings.reloaders);
        let source = settings.own_addresses.then(|| own_address(number));
        let browser = Browser::new(settings.server, source, keeps_cookies);
        Self { tally, browser, random, arrival, keeps_cookies, reloader, inside: false, waited: false, diverted: false }
    }

    pub(super) async fn visit(mut self) {
        self.tally.count(|counts| counts.started += 1);
        let end = self.session().await;
        let inside = u64::from(self.inside);
        self.tally.count(|counts| match end {
            End::Completed => counts.completed += 1,
            End::Waiting => {
                counts.left_waiting += 1;
                counts.left_inside += inside;
            }
            End::Failed => {
                counts.left_failed += 1;
                counts.left_inside += inside;
            }
        });
    }

    async fn session(&mut self) -> End {
        let (pages, think) = (self.tally.settings().pages, self.tally.settings().think);
        let mut start = self.arrival;
        for page in 0..pages.draw(&mut self.random) {
            if page > 0 {
                start = self.tally.now().plus(think.draw(&mut self.random));
                self.tally.until(start).await;
            }
            let path = self.path(page);
            if let Err(end) = self.page(&path, start).await {
                return end;
            }
        }
        End::Completed
    }

    /// Asks for a page until it is there. It was meant to be asked for at `start`.
    async fn page(&mut self, path: &str, start: Moment) -> Result<(), End> {
        // of the request that leads to the page: reloads and sheds are part of its latency, the waiting room is not
        let mut intended = start;
        let mut tries = 0;
        loop {
            let asked = self.tally.now();
            match self.ask(path).await {
                Asked::Answered(Answer::Page) => {
                    self.loaded(intended, asked);
                    return Ok(());
                }
                Asked::Answered(Answer::Wait { after }) => {
                    self.shown_waiting_room();
                    let after = if self.reloader { after / RELOADS } else { after };
                    intended = self.tally.now().plus(after);
                    self.wait_until(intended, start).await?;
                }
                Asked::Answered(Answer::Shed { after }) => {
                    self.tally.count(|counts| counts.sheds += 1);
                    self.wait_until(self.tally.now().plus(after), start).await?;
                }
                Asked::Answered(Answer::Failed) => {
                    tries += 1;
                    self.failed(tries)?;
                    let pause = self.tally.settings().reload_pause.draw(&mut self.random) * tries.min(RELOAD_PAUSES);
                    self.tally.until(self.tally.now().plus(pause)).await;
                }
                Asked::GaveUp => {
                    tries += 1;
                    self.failed(tries)?;
                }
            }
        }
    }

    async fn ask(&mut self, path: &str) -> Asked {
        match tokio::time::timeout(self.tally.settings().answer_timeout, self.browser.load(path)).await {
            Ok(Ok((status, headers))) => Asked::Answered(classify(status, &headers)),
            Ok(Err(_)) => Asked::Answered(Answer::Failed),
            Err(_) => Asked::GaveUp,
        }
    }

    fn loaded(&mut self, intended: Moment, asked: Moment) {
        let now = self.tally.now();
        self.tally.page(now.since(intended), now.since(asked));
        if !self.inside {
            self.inside = true;
            self.tally.first_page(now.since(self.arrival));
            if self.waited {
                // until it was let in, and not until the page was there
                self.tally.waited(asked.since(self.arrival));
            }
        }
    }

    fn shown_waiting_room(&mut self) {
        let first = !std::mem::replace(&mut self.waited, true);
        let diverted = self.inside && self.keeps_cookies && !self.diverted;
        self.diverted |= diverted;
        self.tally.count(|counts| {
            counts.waits += 1;
            counts.kept_waiting += u64::from(first);
            counts.diverted += u64::from(diverted);
        });
    }

    /// Waits, unless that would take longer than the visitor's patience with this page.
    async fn wait_until(&self, moment: Moment, start: Moment) -> Result<(), End> {
        let patience: Duration = self.tally.settings().patience;
        if moment.since(start) > patience {
            self.tally.until(start.plus(patience)).await;
            return Err(End::Waiting);
        }
        self.tally.until(moment).await;
        Ok(())
    }

    fn failed(&mut self, tries: u32) -> Result<(), End> {
        self.tally.count(|counts| counts.failed += 1);
        let settings = self.tally.settings();
        if tries < settings.tries && self.random.chance(settings.reload_probability) { Ok(()) } else { Err(End::Failed) }
    }

    fn path(&mut self, page: u32) -> String {
        let slow = self.random.chance(self.tally.settings().slow_pages);
        let number = self.random.below(portal::PAGES) + 1;
        match (page, slow) {
            (_, true) => format!("/slow/{number}"),
            (0, false) => "/".to_owned(),
            (_, false) => format!("/page/{number}"),
        }
    }
}

enum Asked {
    Answered(Answer),
    /// There was no answer in time.
    GaveUp,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use crate::clock::Clock;
    use crate::demo::crowd::{Crowd, CrowdSettings, Pages};
    use crate::demo::report::Counts;
    use crate::models::arrivals::Step;
    use crate::models::random::Span;

    use super::*;

    /// What a scripted server answers: `p`age, `w`ait, `s`hed, `f`ailure.
    async fn visit(script: &'static str, settings: impl FnOnce(&mut CrowdSettings)) -> Counts {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut crowd = CrowdSettings {
            schedule: vec![Step { at_s: 0.0, visitors_per_s: 1e6 }],
            visitors: Some(1),
            pages: Pages::Fixed(2),
            think: Span::Fixed(Duration::ZERO),
            reload_pause: Span::Fixed(Duration::ZERO),
            reload_probability: 1.0,
            reloaders: 1.0,
            ..CrowdSettings::of(listener.local_addr().unwrap())
        };
        settings(&mut crowd);
        let crowd = Crowd::new(crowd, Arc::new(Clock::start()));
        let answers = std::sync::Mutex::new(script.chars());
        let service = service_fn(|request: Request<Incoming>| {
            assert_eq!(request.headers()["sec-fetch-mode"], "navigate");
            let answer = answers.lock().unwrap().next().unwrap();
            async move { response(answer) }
        });
        let server = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            }
        };
        tokio::select! {
            () = server => {}
            () = crowd.run() => {}
        }
        assert_eq!(answers.lock().unwrap().as_str(), "", "the visitor asked for less");
        crowd.report().total.counts
    }

    fn response(answer: char) -> Result<Response<Empty<Bytes>>, http::Error> {
        let response = match answer {
            'p' => Response::builder(),
            'w' => Response::builder().status(503).header("retry-after", "1").header("proxy-status", "tidegate; details=\"wait\""),
            's' => Response::builder().status(503).header("retry-after", "1").header("proxy-status", "tidegate; details=\"shed\""),
            _ => Response::builder().status(500),
        };
        response.body(Empty::new())
    }

    #[tokio::test]
    async fn waits_its_turn_and_then_sees_its_pages() {
        let counts = visit("wwpp", |_| {}).await;
        assert_eq!((counts.waits, counts.kept_waiting, counts.diverted, counts.pages(), counts.completed), (2, 1, 0, 2, 1));
    }

    #[tokio::test]
    async fn is_diverted_once_however_often_it_is_told_to_wait() {
        let counts = visit("pwwp", |_| {}).await;
        assert_eq!((counts.waits, counts.diverted, counts.completed), (2, 1, 1));
        let counts = visit("pwwp", |settings| settings.cookie_droppers = 1.0).await;
        assert_eq!((counts.waits, counts.diverted, counts.completed), (2, 0, 1), "nobody can know it again");
    }

    #[tokio::test]
    async fn runs_out_of_patience() {
        let counts = visit("w", |settings| settings.patience = Duration::from_millis(20)).await;
        assert_eq!((counts.left_waiting, counts.left_inside), (1, 0));
        let counts = visit("ps", |settings| settings.patience = Duration::from_millis(20)).await;
        assert_eq!((counts.sheds, counts.left_waiting, counts.left_inside), (1, 1, 1));
    }

    #[tokio::test]
    async fn tries_a_page_that_fails_again() {
        let counts = visit("ffpp", |_| {}).await;
        assert_eq!((counts.failed, counts.completed), (2, 1));
        let counts = visit("pfff", |_| {}).await;
        assert_eq!((counts.failed, counts.left_failed, counts.left_inside), (3, 1, 1));
    }
}
