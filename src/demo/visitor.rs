//! One visitor's visit, from arrival to the last page or to giving up.

use std::time::Duration;

use tokio::sync::oneshot;

use super::browser::{Answer, Browser, Form, NoAnswer, Page, classify};
use super::crowd::{MAIL_PATIENCE, RELOAD_PAUSES, RELOADS, Tally, email_address, own_address};
use super::mailbox::Mail;
use super::portal;
use crate::models::random::Random;
use crate::rules::time::Moment;

/// A visitor who is about to come.
#[derive(Debug)]
pub(super) struct Visitor {
    tally: Tally,
    browser: Browser,
    random: Random,
    number: u64,
    arrival: Moment,
    keeps_cookies: bool,
    reloader: bool,
    /// Leaves an address when it is asked for one.
    leaver: bool,
    /// Has had a page of the site.
    inside: bool,
    /// Has been shown the waiting room.
    waited: bool,
    /// Has been shown it after that.
    diverted: bool,
}

/// How a visit ends.
#[derive(Debug)]
enum End {
    Completed,
    /// An address was left; there will be mail, if anybody knows.
    Called(Option<oneshot::Receiver<Mail>>),
    Waiting,
    Failed,
}

impl Visitor {
    pub(super) fn new(tally: Tally, number: u64, arrival: Moment) -> Self {
        let settings = tally.settings();
        let mut random = Random::stream(settings.seed, number);
        let keeps_cookies = !random.chance(settings.cookie_droppers);
        let reloader = random.chance(settings.reloaders);
        // without leavers there is no draw, and so the very same crowd
        let leaver = keeps_cookies && settings.leavers > 0.0 && random.chance(settings.leavers);
        let source = settings.own_addresses.then(|| own_address(number));
        let browser = Browser::new(settings.server, source, keeps_cookies);
        Self { tally, browser, random, number, arrival, keeps_cookies, reloader, leaver, inside: false, waited: false, diverted: false }
    }

    pub(super) async fn visit(mut self) {
        self.tally.count(|counts| counts.started += 1);
        let mut end = self.session().await;
        if let End::Called(mail) = end {
            if !self.comes_back(mail).await {
                return;
            }
            end = self.session().await;
        }
        let inside = u64::from(self.inside);
        self.tally.count(|counts| match &end {
            End::Completed => counts.completed += 1,
            // only once, and that was above
            End::Called(_) => {}
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
                Asked::Answered(Answer::Page, _) => {
                    self.loaded(intended, asked);
                    return Ok(());
                }
                Asked::Answered(Answer::Wait { after }, form) => {
                    self.shown_waiting_room();
                    if let Some(form) = form {
                        self.leave_address(form).await?;
                    }
                    let after = if self.reloader { after / RELOADS } else { after };
                    intended = self.tally.now().plus(after);
                    self.wait_until(intended, start).await?;
                }
                Asked::Answered(Answer::Shed { after }, _) => {
                    self.tally.count(|counts| counts.sheds += 1);
                    self.wait_until(self.tally.now().plus(after), start).await?;
                }
                Asked::Answered(Answer::Failed, _) => {
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
        let timeout = self.tally.settings().answer_timeout;
        let answer = tokio::time::timeout(timeout, async {
            if !self.leaver {
                return self.browser.load(path).await.map(|(status, headers)| (classify(status, &headers), None));
            }
            // the page of the waiting room is read for its form
            let page = self.browser.read(path).await?;
            Ok::<_, NoAnswer>((classify(page.status, &page.headers), page.form()))
        });
        match answer.await {
            Ok(Ok((answer, form))) => Asked::Answered(answer, form),
            Ok(Err(_)) => Asked::Answered(Answer::Failed, None),
            Err(_) => Asked::GaveUp,
        }
    }

    /// Leaves an address and goes, if the form is for that and the address is taken. Else the visitor waits on, as others do.
    async fn leave_address(&mut self, mut form: Form) -> Result<(), End> {
        self.leaver = false;
        let address = email_address(self.number);
        if !form.fill("email", &address) {
            return Ok(());
        }
        let mail = self.tally.settings().mailboxes.as_ref().map(|mailboxes| mailboxes.expect(&address));
        match self.patiently(Way::Send(&form)).await {
            Some(page) if page.status.is_redirection() || page.status.is_success() => {
                self.browser.close();
                self.tally.count(|counts| counts.left_address += 1);
                Err(End::Called(mail))
            }
            _ => Ok(()),
        }
    }

    /// Waits for the mail, and comes in with its link. Returns whether that was so; the visit then begins anew.
    async fn comes_back(&mut self, mail: Option<oneshot::Receiver<Mail>>) -> bool {
        let Some(mail) = mail else { return false };
        let Ok(Ok(mail)) = tokio::time::timeout(MAIL_PATIENCE, mail).await else { return false };
        let Some(path) = mail.link.as_deref().and_then(path_of) else { return false };
        let mut pause = self.tally.settings().mail_pause.draw(&mut self.random);
        for _ in 0..self.tally.settings().tries {
            self.tally.until(self.tally.now().plus(pause)).await;
            if self.follow(path).await {
                self.tally.count(|counts| counts.came_back += 1);
                self.arrival = self.tally.now();
                self.waited = false;
                return true;
            }
            pause = LOOK_AGAIN;
        }
        false
    }

    /// Opens the page that a link leads to and presses its button. Returns whether it leads on to the site.
    async fn follow(&mut self, path: &str) -> bool {
        let Some(form) = self.patiently(Way::Read(path)).await.and_then(|page| page.form()) else { return false };
        self.patiently(Way::Send(&form)).await.is_some_and(|page| page.status.is_redirection())
    }

    /// An answer that comes in time.
    async fn patiently(&mut self, way: Way<'_>) -> Option<Page> {
        let timeout = self.tally.settings().answer_timeout;
        let answer = async {
            match way {
                Way::Read(path) => self.browser.read(path).await,
                Way::Send(form) => self.browser.send(form).await,
            }
        };
        tokio::time::timeout(timeout, answer).await.ok()?.ok()
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
    /// With the form on the page, if the visitor looks for one.
    Answered(Answer, Option<Form>),
    /// There was no answer in time.
    GaveUp,
}

/// What is done with a page.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// The page at a path is read.
    Read(&'a str),
    /// A form is sent.
    Send(&'a Form),
}

/// Path and query of a link.
fn path_of(link: &str) -> Option<&str> {
    let (_, rest) = link.split_once("://")?;
    rest.find('/').and_then(|at| rest.get(at..))
}

/// A link that did not let in is tried again after this: the site may be full again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use crate::clock::Clock;
    use crate::demo::crowd::{Crowd, CrowdSettings, Pages};
    use crate::demo::mailbox::Mailboxes;
    use crate::demo::report::Counts;
    use crate::models::arrivals::Step;
    use crate::models::random::Span;

    use super::*;

    /// What a scripted server answers: `p`age, `w`ait, `s`hed, `f`ailure; `a`sks for an address while one waits, `t`akes it and writes to
    /// it at once, shows the landing page of the `l`ink, lets `i`n.
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
            mailboxes: Some(Mailboxes::default()),
            mail_pause: Span::Fixed(Duration::ZERO),
            ..CrowdSettings::of(listener.local_addr().unwrap())
        };
        settings(&mut crowd);
        let mailboxes = crowd.mailboxes.clone();
        let crowd = Crowd::new(crowd, Arc::new(Clock::start()));
        let answers = std::sync::Mutex::new(script.chars());
        let service = service_fn(|request: Request<Incoming>| {
            assert_eq!(request.headers()["sec-fetch-mode"], "navigate");
            let answer = answers.lock().unwrap().next().unwrap();
            let mailboxes = mailboxes.clone();
            async move {
                assert!(answer == 'f' || (request.method() == "POST") == matches!(answer, 't' | 'i'));
                let asked = request.uri().to_string();
                let posted = request.into_body().collect().await.unwrap().to_bytes();
                match answer {
                    't' => {
                        assert_eq!((asked.as_str(), &posted[..]), ("/address", &b"next=%2F&email=visitor0%40crowd.example"[..]));
                        let mail = Mail {
                            to: "visitor0@crowd.example".to_owned(),
                            subject: "There is room".to_owned(),
                            link: Some("http://127.0.0.1:1/landing?code=A-B".to_owned()),
                            code: None,
                        };
                        mailboxes.iter().for_each(|mailboxes| mailboxes.deliver(mail.clone()));
                    }
                    'l' => assert_eq!(asked, "/landing?code=A-B"),
                    'i' => assert_eq!((asked.as_str(), &posted[..]), ("/enter", &b"code=A-B"[..])),
                    _ => {}
                }
                response(answer)
            }
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

    fn response(answer: char) -> Result<Response<Full<Bytes>>, http::Error> {
        let waits = || Response::builder().status(503).header("retry-after", "1").header("proxy-status", "tidegate; details=\"wait\"");
        let (response, html) = match answer {
            'p' => (Response::builder(), ""),
            'w' => (waits(), ""),
            'a' => (waits(), "<form method=\"post\" action=\"/address\"><input name=\"next\" value=\"/\"><input name=\"email\"></form>"),
            's' => (Response::builder().status(503).header("retry-after", "1").header("proxy-status", "tidegate; details=\"shed\""), ""),
            't' | 'i' => (Response::builder().status(303).header("location", "/"), ""),
            'l' => (Response::builder(), "<form method=\"post\" action=\"/enter\"><input name=\"code\" value=\"A-B\"></form>"),
            _ => (Response::builder().status(500), ""),
        };
        response.body(html.into())
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

    #[tokio::test]
    async fn leaves_an_address_and_comes_back_with_the_link() {
        let leaves = |settings: &mut CrowdSettings| settings.leavers = 1.0;
        let counts = visit("atlipp", leaves).await;
        assert_eq!((counts.kept_waiting, counts.left_address, counts.came_back, counts.completed), (1, 1, 1, 1));
        // asked for once: who has come back and has to wait again waits
        let counts = visit("atliawpp", leaves).await;
        assert_eq!((counts.waits, counts.left_address, counts.completed), (3, 1, 1));
        // not asked, or not taken: waits on, as others do
        let counts = visit("wafapp", leaves).await;
        assert_eq!((counts.waits, counts.left_address, counts.completed), (3, 0, 1));
        let counts = visit("app", |_| {}).await;
        assert_eq!((counts.waits, counts.left_address, counts.completed), (1, 0, 1));
    }

    #[tokio::test]
    async fn without_mail_or_with_a_link_that_does_not_let_in_stays_away() {
        let unread = |settings: &mut CrowdSettings| {
            settings.leavers = 1.0;
            settings.mailboxes = None;
        };
        let counts = visit("at", unread).await;
        assert_eq!((counts.left_address, counts.came_back, counts.completed), (1, 0, 0));
        let once = |settings: &mut CrowdSettings| {
            settings.leavers = 1.0;
            settings.tries = 1;
        };
        for script in ["atf", "atlf", "atp"] {
            let counts = visit(script, once).await;
            assert_eq!((counts.left_address, counts.came_back, counts.completed), (1, 0, 0), "{script}");
        }
    }

    #[test]
    fn links_are_followed_by_their_path() {
        assert_eq!(path_of("http://127.0.0.1:8080/a?b=/c"), Some("/a?b=/c"));
        assert_eq!(path_of("http://127.0.0.1:8080"), None);
        assert_eq!(path_of("/a"), None);
    }
}
