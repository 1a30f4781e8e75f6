//! The pieces of a body that are held in memory, in order: small ones are put together.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http_body::Frame;

/// A piece of fewer bytes is not kept by itself: the room that each takes, and the buffer that it was read into and keeps, would be many
/// times what is counted for it. Chunks of one byte took a hundred times as much.
const SMALL: usize = 2048;

/// The largest piece that small ones make.
const TOGETHER: usize = 16 * 1024;

/// Pieces of a body.
#[derive(Debug, Default)]
pub struct Pieces {
    frames: VecDeque<Frame<Bytes>>,
    /// Small pieces put together, behind all frames.
    small: BytesMut,
}

impl Pieces {
    /// Adds what has come next. Returns how many bytes of data it is.
    pub fn push(&mut self, frame: Frame<Bytes>) -> usize {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => {
                self.put_together();
                self.frames.push_back(trailers);
                return 0;
            }
        };
        let bytes = data.len();
        // the first may be the only one, as of most forms
        if bytes >= SMALL || self.is_empty() {
            self.put_together();
            self.frames.push_back(Frame::data(data));
        } else {
            self.small.extend_from_slice(&data);
            if self.small.len() >= TOGETHER {
                self.put_together();
            }
        }
        bytes
    }

    /// Takes what has come first, and how many bytes of data it is.
    pub fn pop(&mut self) -> Option<(Frame<Bytes>, usize)> {
        if self.frames.is_empty() {
            self.put_together();
        }
        let frame = self.frames.pop_front()?;
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        Some((frame, bytes))
    }

    /// Takes the only piece, if it is one of data.
    pub fn take_only(&mut self) -> Option<Bytes> {
        let is_only = self.small.is_empty() && self.frames.len() == 1 && self.frames.iter().all(Frame::is_data);
        if is_only { self.frames.pop_front()?.into_data().ok() } else { None }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.small.is_empty()
    }

    /// Bytes of data.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.iter().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>() + self.small.len()
    }

    /// Whether there are trailers.
    #[must_use]
    pub fn has_trailers(&self) -> bool {
        self.frames.iter().any(Frame::is_trailers)
    }

    fn put_together(&mut self) {
        if !self.small.is_empty() {
            self.frames.push_back(Frame::data(std::mem::take(&mut self.small).freeze()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(pieces: impl IntoIterator<Item = &'static [u8]>) -> Pieces {
        let mut kept = Pieces::default();
        for piece in pieces {
            assert_eq!(kept.push(Frame::data(Bytes::from_static(piece))), piece.len());
        }
        kept
    }

    fn taken(mut pieces: Pieces) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| pieces.pop()).map(|(frame, _)| frame.into_data().map(|data| data.to_vec()).unwrap_or_default()).collect()
    }

    #[test]
    fn small_pieces_are_kept_together_and_in_order() {
        let pieces = kept((0..100_000).map(|at| if at % 2 == 0 { &b"a"[..] } else { b"b" }));
        assert_eq!(pieces.bytes(), 100_000);
        let taken = taken(pieces);
        assert!(taken.len() <= 2 + 100_000 / TOGETHER, "{} pieces", taken.len());
        assert!(taken.concat() == b"ab".repeat(50_000));
    }

    #[test]
    fn large_pieces_stay_as_they_came() {
        static LARGE: [u8; SMALL] = [b'l'; SMALL];
        let taken = taken(kept([&b"first"[..], &LARGE, b"a", b"b", &LARGE, b"c"]));
        assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [5, SMALL, 2, SMALL, 1]);
        assert_eq!(taken.concat(), [b"first", &LARGE[..], b"ab", &LARGE, b"c"].concat());
    }

    #[test]
    fn what_is_taken_in_between_is_not_taken_again() {
        let mut pieces = kept([&b"a"[..], b"b"]);
        assert_eq!(pieces.pop().map(|(_, bytes)| bytes), Some(1));
        pieces.push(Frame::data(Bytes::from_static(b"c")));
        assert_eq!((taken(pieces).concat(), Pieces::default().pop().is_none()), (b"bc".to_vec(), true));
    }

    #[test]
    fn trailers_come_last() {
        let mut pieces = kept([&b"a"[..], b"b"]);
        assert_eq!(pieces.push(Frame::trailers(http::HeaderMap::new())), 0);
        assert!(pieces.has_trailers());
        assert_eq!(taken(pieces), [b"a".to_vec(), b"b".to_vec(), Vec::new()]);
    }

    #[test]
    fn only_data_is_taken_as_the_only_piece() {
        assert_eq!(kept([&b"a"[..]]).take_only(), Some(Bytes::from_static(b"a")));
        assert_eq!(kept([&b"a"[..], b"b"]).take_only(), None);
        let mut trailers = Pieces::default();
        trailers.push(Frame::trailers(http::HeaderMap::new()));
        assert_eq!(trailers.take_only(), None);
        assert!(!trailers.is_empty());
    }
}
