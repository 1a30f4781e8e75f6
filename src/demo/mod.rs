//! Models of the outside things that a gate stands between: a legacy site, a crowd and its mailboxes, in real time, over real sockets.
//!
//! A demonstration puts the gate between them; the benchmark `surge` puts nothing, another proxy or the gate there. No model
//! knows the gate: the site and the mailboxes are servers at an address, the crowd is given one, and what they can be told while they
//! run goes through [`site::Site`], [`crowd::Crowd`] and [`mailbox::Mailboxes`]. So: start the site and the mailboxes, start the gate
//! with their addresses, start the crowd with the gate's.
//!
//! Deliberately absent: anything that burns the processor. The site's workers wait, so a site of any size fits beside the gate.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

pub mod browser;
pub mod crowd;
pub mod mailbox;
mod portal;
pub mod report;
pub mod site;
mod visitor;

/// A model on a thread of its own. Dropping it stops the model and waits until it has ended.
#[derive(Debug)]
pub struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Waits until the model has ended by itself.
    pub fn join(mut self) {
        self.wait();
    }

    fn start<W: Future<Output = ()>>(
        name: &str,
        runtime: Runtime,
        work: impl FnOnce(oneshot::Receiver<()>) -> W + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let body = move || runtime.block_on(work(stopped));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            // a model that panicked has said so on standard error
            drop(thread.join());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.wait();
    }
}

/// Serves the site on a thread of its own. Says at which address: `listen` may have port 0.
///
/// # Errors
/// If the address can't be listened at, or there is no thread to be had.
pub fn start_site(site: &site::Site, listen: SocketAddr) -> io::Result<(SocketAddr, Running)> {
    let runtime = runtime()?;
    let listener = runtime.block_on(TcpListener::bind(listen))?;
    let address = listener.local_addr()?;
    let site = site.clone();
    let running = Running::start("site", runtime, async move |stopped| {
        let stop = async { drop(stopped.await) };
        if let Err(error) = site.serve(listener, stop).await {
            tracing::error!(%error, "the model site has ended");
        }
    })?;
    Ok((address, running))
}

/// Takes mail at a free port of this machine, on a thread of its own. Says at which, and hands on what comes.
///
/// # Errors
/// If there is no port or no thread to be had.
pub fn start_mailboxes() -> io::Result<(SocketAddr, mpsc::Receiver<mailbox::Mail>, Running)> {
    let runtime = runtime()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let (sender, mails) = mpsc::channel(MAILS_UNREAD_MAX);
    let running = Running::start("mailboxes", runtime, async move |stopped| {
        tokio::select! {
            () = mailbox::serve(listener, sender) => {}
            _ = stopped => {}
        }
    })?;
    Ok((address, mails, running))
}

/// More are not taken until some have been read.
const MAILS_UNREAD_MAX: usize = 100;

/// Lets the crowd come, on a thread of its own.
///
/// # Errors
/// If there is no thread to be had.
pub fn start_crowd(crowd: &crowd::Crowd) -> io::Result<Running> {
    let crowd = crowd.clone();
    Running::start("crowd", runtime()?, async move |stopped| {
        tokio::select! {
            () = crowd.run() => {}
            _ = stopped => {}
        }
    })
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_io().enable_time().build()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::crowd::{Crowd, CrowdSettings, Pages};
    use super::site::{Health, Site, SiteSettings};
    use super::*;
    use crate::clock::Clock;
    use crate::models::arrivals::Step;
    use crate::models::random::Span;

    fn site(clock: &Arc<Clock>) -> (Site, SocketAddr, Running) {
        let settings = SiteSettings { service: Duration::from_millis(2), ..SiteSettings::default() };
        let site = Site::new(settings, clock.clone());
        let (address, running) = start_site(&site, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        (site, address, running)
    }

    /// Visitors who come all at once, hardly think, and give up late: a slow machine changes nothing.
    fn hurried(server: SocketAddr, visitors: u64) -> CrowdSettings {
        CrowdSettings {
            schedule: vec![Step { at_s: 0.0, visitors_per_s: 1e6 }],
            visitors: Some(visitors),
            pages: Pages::Fixed(4),
            think: Span::Fixed(Duration::from_millis(1)),
            answer_timeout: Duration::from_secs(60),
            reload_pause: Span::Fixed(Duration::from_millis(1)),
            ..CrowdSettings::of(server)
        }
    }

    #[test]
    fn a_handful_of_visitors_get_what_they_came_for() {
        let clock = Arc::new(Clock::start());
        let (site, address, _running) = site(&clock);
        let crowd = Crowd::new(hurried(address, 12), clock);
        start_crowd(&crowd).unwrap().join();
        let report = crowd.report();
        let counts = report.total.counts;
        assert_eq!((counts.started, counts.completed, counts.pages(), counts.failed), (12, 12, 48, 0));
        assert_eq!((report.first_page.count(), report.total.latency.count(), report.present), (12, 48, 0));
        assert_eq!((site.counts().arrivals, site.counts().completions), (48, 48));
        let by_second: u64 = report.seconds().map(|(_, row)| row.counts.pages()).sum();
        assert_eq!(by_second, 48);
    }

    #[test]
    fn visitors_of_a_site_that_refuses_try_three_times_at_most_and_leave() {
        let clock = Arc::new(Clock::start());
        let (site, address, _running) = site(&clock);
        site.change(|faults| faults.health = Health::Refusing);
        let crowd = Crowd::new(CrowdSettings { reload_probability: 1.0, ..hurried(address, 5) }, clock);
        start_crowd(&crowd).unwrap().join();
        let counts = crowd.report().total.counts;
        assert_eq!((counts.left_failed, counts.left_inside, counts.failed, counts.pages()), (5, 0, 15, 0));
    }

    #[test]
    fn visitors_of_a_site_that_hangs_give_up_and_a_crowd_that_is_stopped_ends() {
        let clock = Arc::new(Clock::start());
        let (site, address, _running) = site(&clock);
        site.change(|faults| faults.health = Health::Hanging);
        let hasty = CrowdSettings { answer_timeout: Duration::from_millis(1), reload_probability: 0.0, ..hurried(address, 5) };
        let crowd = Crowd::new(hasty, clock.clone());
        start_crowd(&crowd).unwrap().join();
        assert_eq!(crowd.report().total.counts.left_failed, 5);

        let crowd = Crowd::new(hurried(address, 5), clock);
        let running = start_crowd(&crowd).unwrap();
        crowd.stop();
        running.join();
        assert_eq!(crowd.report().total.counts.completed, 0);
    }

    #[test]
    fn a_crowd_at_its_limit_leaves_the_others_out() {
        let clock = Arc::new(Clock::start());
        let (site, address, _running) = site(&clock);
        site.change(|faults| faults.health = Health::Hanging);
        let crowd = Crowd::new(CrowdSettings { present_max: 3, ..hurried(address, 1000) }, clock);
        let running = start_crowd(&crowd).unwrap();
        let counts = loop {
            let counts = crowd.report().total.counts;
            if counts.started >= 3 && counts.left_out > 0 {
                break counts;
            }
            std::thread::yield_now();
        };
        crowd.stop();
        running.join();
        assert_eq!((counts.started, crowd.report().total.counts.started), (3, 3));
    }

    #[test]
    fn dropping_a_model_ends_it() {
        let clock = Arc::new(Clock::start());
        let (_, address, running) = site(&clock);
        drop(running);
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}
