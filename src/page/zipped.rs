//! The waiting page as gzip (RFC 1952): compressed once for all who see it, and put together for each.
//!
//! What is one visitor's own stands between two compressed parts as it is, in stored blocks (RFC 1951, 3.2.4). So a visitor costs no
//! compression; and the length of an answer tells nothing of what stands in it, as a page does that is compressed together with what its
//! reader has put there (BREACH): neither part refers to the visitor's own, nor to the other.
//!
//! Absent: other codings. Every browser takes this one.

use std::io::{self, Write};
use std::mem;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use hyper::body::Bytes;

/// Above this, a page is sent as it is: to compress it takes milliseconds, for which a worker answers nobody.
const PAGE_BYTES_MAX: usize = 128 * 1024;

/// Deflated, no time, no name, made on no system in particular.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The most that a stored block holds.
const STORED_BYTES_MAX: usize = u16::MAX as usize;

/// What a stored block begins with: that it is one and not the last, its length, and its length with all bits turned.
const STORED_HEAD_BYTES: usize = 5;

/// Checksum and length of the page.
const END_BYTES: usize = 8;

/// A page, but for what is one visitor's own.
#[derive(Debug)]
pub(super) struct Zipped {
    before: Bytes,
    after: Bytes,
    /// What `after` holds.
    after_plain: Bytes,
    /// Of what `before` holds.
    checksum: u32,
    /// What both hold.
    bytes: u32,
}

impl Zipped {
    /// Compresses what stands before a visitor's own, and what after; `None` if the page is too large, or so small that it would grow.
    pub(super) fn new(before: &[u8], after: &Bytes) -> Option<Self> {
        let plain = before.len() + after.len();
        if plain > PAGE_BYTES_MAX {
            return None;
        }
        let zipped_before = deflate(HEAD.to_vec(), before, Ends::Aligned).ok()?;
        let zipped_after = deflate(Vec::new(), after, Ends::Last).ok()?;
        if zipped_before.len() + zipped_after.len() + STORED_HEAD_BYTES + END_BYTES >= plain {
            return None;
        }
        Some(Self {
            before: zipped_before.into(),
            after: zipped_after.into(),
            after_plain: after.clone(),
            checksum: crc32fast::hash(before),
            bytes: u32::try_from(plain).ok()?,
        })
    }

    /// The page with what is one visitor's own, in pieces of which the first and the third are shared.
    pub(super) fn with(&self, own: &[u8]) -> [Bytes; 4] {
        let blocks = own.chunks(STORED_BYTES_MAX);
        let mut stored = Vec::with_capacity(own.len() + STORED_HEAD_BYTES * blocks.len());
        for block in blocks {
            let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
            stored.push(0);
            stored.extend_from_slice(&length.to_le_bytes());
            stored.extend_from_slice(&(!length).to_le_bytes());
            stored.extend_from_slice(block);
        }
        let mut checksum = crc32fast::Hasher::new_with_initial(self.checksum);
        checksum.update(own);
        checksum.update(&self.after_plain);
        // the format has no room for more, either
        let bytes = u32::try_from(own.len()).unwrap_or(u32::MAX).wrapping_add(self.bytes);
        let end = [checksum.finalize().to_le_bytes(), bytes.to_le_bytes()].concat();
        [self.before.clone(), stored.into(), self.after.clone(), end.into()]
    }
}

/// How a compressed part ends.
enum Ends {
    /// At a whole byte; more follows.
    Aligned,
    Last,
}

/// Appends a part to what there is.
fn deflate(to: Vec<u8>, part: &[u8], ends: Ends) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(to, Compression::default());
    encoder.write_all(part)?;
    match ends {
        Ends::Last => encoder.finish(),
        Ends::Aligned => {
            encoder.flush()?;
            // it still ends the stream when it is dropped, into nothing
            Ok(mem::take(encoder.get_mut()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;

    fn unzipped(zipped: &[u8]) -> Vec<u8> {
        let mut decoder = GzDecoder::new(zipped);
        let mut plain = Vec::new();
        decoder.read_to_end(&mut plain).unwrap();
        assert!(decoder.into_inner().is_empty(), "it ends where its last block does");
        plain
    }

    fn long(word: &str) -> Bytes {
        word.repeat(100).into()
    }

    #[test]
    fn a_page_comes_out_as_it_went_in() {
        let lengths = [0, 1, 249, STORED_BYTES_MAX - 1, STORED_BYTES_MAX, STORED_BYTES_MAX + 1, 3 * STORED_BYTES_MAX];
        for (before, after) in [(long("before"), long("after")), (long("before"), Bytes::new()), (Bytes::new(), long("after"))] {
            for length in lengths {
                let own: Vec<u8> = (0..length).map(|at| (at % 251).to_le_bytes()[0]).collect();
                let zipped = Zipped::new(&before, &after).unwrap().with(&own).concat();
                assert!(unzipped(&zipped) == [&before[..], &own, &after].concat(), "{length} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_page(before in "[a-z<>]{0,300}", own in proptest::collection::vec(any::<u8>(), 0..300), after in "[ab]{64,300}") {
            let zipped = Zipped::new(before.as_bytes(), &after.clone().into());
            let page = [before.as_bytes(), &own, after.as_bytes()].concat();
            prop_assert!(zipped.is_none_or(|zipped| unzipped(&zipped.with(&own).concat()) == page));
        }
    }

    #[test]
    fn its_length_tells_how_long_it_is_and_not_what_stands_in_it() {
        let zipped = Zipped::new(&long("secret=17 "), &long("check=42 ")).unwrap();
        let length = |own: &[u8]| zipped.with(own).concat().len();
        assert_eq!(length(b"secret=17 check=42 "), length(b"rkshbf9d7nc2iq8we4a"));
        assert_eq!(length(b"secret=17 check=42 "), length(b"") + STORED_HEAD_BYTES + 19);
        let other = Zipped::new(&long("secret=17 "), &long("secret=17 ")).unwrap();
        assert_eq!(other.before.len(), zipped.before.len());
        assert_eq!(other.after, Zipped::new(&long("x"), &long("secret=17 ")).unwrap().after, "nor does one part know the other");
    }

    #[test]
    fn one_too_small_or_too_large_stays_as_it_is() {
        assert!(Zipped::new(b"<p>wait</p>", &Bytes::from_static(b"<p>here</p>")).is_none());
        let page = |bytes: usize| Zipped::new(&vec![b'a'; bytes - 10], &Bytes::from_static(b"0123456789"));
        assert!(page(PAGE_BYTES_MAX).is_some());
        assert!(page(PAGE_BYTES_MAX + 1).is_none());
    }
}
