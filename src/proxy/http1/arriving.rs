//! The body of a request, on its way from its connection to who reads it. That is mostly the same task, and another one when the site
//! answers before it has all of it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::upstream::BodyFailure;

/// A body on its way: no more than one piece of it is held.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Arriving(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    piece: Option<Result<Frame<Bytes>, BodyFailure>>,
    /// Nothing comes after that piece.
    is_over: bool,
    /// Bytes that come after it, if that is known.
    left: Option<u64>,
    /// It is waited for.
    is_wanted: bool,
    /// Nobody reads it any more.
    is_left: bool,
    /// Its connection is gone.
    is_gone: bool,
    connection: Waker,
    reader: Option<Waker>,
}

impl Arriving {
    /// A body of so many bytes, if that is known, that comes on the connection of this task.
    pub(super) fn new(left: Option<u64>, connection: &Waker) -> Self {
        let connection = connection.clone();
        let state = State { piece: None, is_over: false, left, is_wanted: false, is_left: false, is_gone: false, connection, reader: None };
        Self(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its next piece is waited for. The task of the connection is woken when it is.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().is_wanted
    }

    /// Whether all of it has been given, or nobody reads it.
    pub(super) fn is_done(&self) -> bool {
        let state = self.lock();
        state.is_over || state.is_left
    }

    /// Gives the next piece, or none; and whether that is the last, or how much is left.
    pub(super) fn give(&self, piece: Option<Result<Frame<Bytes>, BodyFailure>>, is_over: bool, left: Option<u64>) {
        let mut state = self.lock();
        (state.piece, state.is_over, state.left, state.is_wanted) = (piece, is_over, left, false);
        let reader = state.reader.take().filter(|reader| !reader.will_wake(&state.connection));
        drop(state);
        // the connection's own task goes on by itself
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// The next piece.
    pub(in crate::proxy) fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let mut state = self.lock();
        if let Some(piece) = state.piece.take() {
            return Poll::Ready(Some(piece));
        }
        if state.is_over {
            return Poll::Ready(None);
        }
        if state.is_gone {
            state.is_over = true;
            return Poll::Ready(Some(Err(BodyFailure::Io(io::ErrorKind::ConnectionAborted.into()))));
        }
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        let is_news = !state.is_wanted && !state.connection.will_wake(cx.waker());
        state.is_wanted = true;
        let connection = is_news.then(|| state.connection.clone());
        drop(state);
        if let Some(connection) = connection {
            connection.wake();
        }
        Poll::Pending
    }

    /// Whether nothing more comes of it.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        let state = self.lock();
        state.is_over && state.piece.is_none()
    }

    /// What is known of its length.
    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        let state = self.lock();
        let piece = match &state.piece {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) | None => 0,
        };
        state.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + piece))
    }

    /// Its connection is gone: unless all of it has been given, who reads it must not wait any longer, nor take it for whole.
    pub(super) fn is_gone(&self) {
        let mut state = self.lock();
        state.is_gone = true;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Nobody reads it any more.
    pub(in crate::proxy) fn leave(&self) {
        let mut state = self.lock();
        (state.is_left, state.is_wanted, state.piece, state.reader) = (true, false, None, None);
        // a connection that has answered waits for this, unless it has all of the body
        let connection = (!state.is_over).then(|| state.connection.clone());
        drop(state);
        if let Some(connection) = connection {
            connection.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn woken(count: &Arc<Count>) -> usize {
        count.0.swap(0, Ordering::Relaxed)
    }

    fn data(bytes: &'static [u8]) -> Option<Result<Frame<Bytes>, BodyFailure>> {
        Some(Ok(Frame::data(Bytes::from_static(bytes))))
    }

    fn taken(polled: Poll<Option<Result<Frame<Bytes>, BodyFailure>>>) -> Option<Bytes> {
        match polled {
            Poll::Ready(frame) => frame.map(|frame| frame.unwrap().into_data().unwrap()),
            Poll::Pending => panic!("it is there"),
        }
    }

    #[test]
    fn another_task_is_woken_and_wakes_and_its_own_need_not() {
        let (connection, reader) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (own, other) = (Waker::from(Arc::clone(&connection)), Waker::from(Arc::clone(&reader)));
        for (waker, times) in [(&own, 0), (&other, 1)] {
            let (arriving, cx) = (Arriving::new(Some(2), &own), Context::from_waker(waker));
            assert!(!arriving.is_wanted());
            assert!(arriving.poll_frame(&cx).is_pending() && arriving.poll_frame(&cx).is_pending());
            assert_eq!((arriving.is_wanted(), woken(&connection)), (true, times), "told once");
            arriving.give(data(b"a"), false, Some(1));
            assert_eq!((arriving.is_wanted(), woken(&reader)), (false, times));
            assert_eq!(taken(arriving.poll_frame(&cx)).unwrap(), "a");
        }
    }

    #[test]
    fn its_length_is_what_is_not_taken_yet() {
        let cx = Context::from_waker(Waker::noop());
        let arriving = Arriving::new(Some(5), Waker::noop());
        assert_eq!(arriving.size_hint().exact(), Some(5));
        arriving.give(data(b"abc"), false, Some(2));
        assert_eq!(arriving.size_hint().exact(), Some(5));
        drop(arriving.poll_frame(&cx));
        assert_eq!(arriving.size_hint().exact(), Some(2));
        arriving.give(data(b"de"), true, Some(0));
        assert!(arriving.is_done() && !arriving.is_end_stream());
        assert_eq!(taken(arriving.poll_frame(&cx)).unwrap(), "de");
        assert!(arriving.is_end_stream() && arriving.size_hint().exact() == Some(0));
        assert_eq!(taken(arriving.poll_frame(&cx)), None);
        assert_eq!(Arriving::new(None, Waker::noop()).size_hint().exact(), None);
    }

    #[test]
    fn who_reads_what_is_cut_off_is_woken_and_told_so_once_all_before_it_is_taken() {
        let reader = Arc::new(Count::default());
        let (arriving, waker) = (Arriving::new(Some(2), Waker::noop()), Waker::from(Arc::clone(&reader)));
        let cx = Context::from_waker(&waker);
        assert!(arriving.poll_frame(&cx).is_pending());
        arriving.is_gone();
        assert_eq!(woken(&reader), 1);
        assert!(matches!(arriving.poll_frame(&cx), Poll::Ready(Some(Err(BodyFailure::Io(_))))));
        assert!(matches!(arriving.poll_frame(&cx), Poll::Ready(None)));
        for (is_over, is_cut) in [(true, false), (false, true)] {
            let arriving = Arriving::new(Some(2), Waker::noop());
            arriving.give(data(b"a"), is_over, Some(1));
            arriving.is_gone();
            assert_eq!(taken(arriving.poll_frame(&cx)).unwrap(), "a");
            assert_eq!(matches!(arriving.poll_frame(&cx), Poll::Ready(Some(Err(_)))), is_cut);
        }
    }

    #[test]
    fn who_leaves_wants_nothing() {
        let connection = Arc::new(Count::default());
        let arriving = Arriving::new(None, &Waker::from(Arc::clone(&connection)));
        assert!(arriving.poll_frame(&Context::from_waker(Waker::noop())).is_pending() && !arriving.is_done());
        woken(&connection);
        arriving.leave();
        assert_eq!((arriving.is_wanted(), arriving.is_done(), woken(&connection)), (false, true, 1));
    }
}
