//! Messages of HTTP/1.1: the heads of both sides, and bodies.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use tidegate::rules::headers::check::check_request;
use tidegate::rules::http1::body::{BadBody, Decoded, Decoder, Framing};
use tidegate::rules::http1::chunks::{CHUNK_END, write_chunk_size, write_last_chunk};
use tidegate::rules::http1::names::Names;
use tidegate::rules::http1::to_client::{Known, Terms, write_head};
use tidegate::rules::http1::{from_client, from_site, to_site};

const MOST: usize = 4096;

pub(super) fn head_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "GET /a?b=c HTTP/1.1\r\nHost: a\r\nCookie: a=b; c\r\nX-Empty:\r\n\r\nGET /next HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\nbody",
        "POST http://a:1/b#c HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "\r\nOPTIONS * HTTP/1.0\nConnection: Keep-Alive, close\nConnection: x\n\n",
        "HEAD / HTTP/1.1\r\na: \u{fc}\r\nhost: b\r\nHost:c\r\nX-a: \t1 \r\n\r\n",
    ])
}

/// It is the same however it is cut; what is passed on reads as the same; and there is one framing.
pub(super) fn check_head(bytes: &[u8]) {
    let read = |bytes: &[u8]| from_client::read(&Bytes::copy_from_slice(bytes), MOST, HeaderMap::new, &mut Names::default());
    let Ok(Some((head, taken))) = read(bytes) else { return };
    assert!(taken <= bytes.len().min(MOST));
    for end in (0..taken).rev().take(40).chain(0..taken.min(40)) {
        assert!(matches!(read(&bytes[..end]), Ok(None)), "at {end} it was something");
    }
    let (again, _) = read(&bytes[..taken]).expect("a head").expect("all of it");
    assert_eq!((&again.method, &again.uri, &again.headers, again.framing), (&head.method, &head.uri, &head.headers, head.framing));
    let lengths: Vec<_> = head.headers.get_all("content-length").iter().collect();
    let codings = head.headers.get_all("transfer-encoding").iter().count();
    assert!(lengths.len() <= 1 && (codings == 0 || lengths.is_empty()), "framed in two ways");
    assert_eq!(head.framing == Some(Framing::Chunked), codings > 0);
    assert!(head.version == Version::HTTP_11 || head.framing != Some(Framing::Chunked));
    // names that were read before make no difference
    let mut names = Names::default();
    for _ in 0..2 {
        let (known, _) = from_client::read(&Bytes::copy_from_slice(bytes), MOST, HeaderMap::new, &mut names).expect("a head").expect("one");
        assert_eq!(known.headers, head.headers);
    }
    if check_request(&head.method, &head.uri, head.version, &head.headers).is_err() {
        return;
    }
    let mut out = Vec::new();
    to_site::write_head(&mut out, &head.method, &head.uri, &head.headers);
    let (method, uri, headers) = to_site::read_back(&out).expect("what was written is read");
    assert_eq!((&method, uri.path(), uri.query(), &headers), (&head.method, head.uri.path(), head.uri.query(), &head.headers));
}

pub(super) fn site_head_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\nSet-Cookie: a=b\r\n\r\nbody",
        "HTTP/1.1 404 Fehlt\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nDate: now\r\n\r\n",
        "HTTP/1.0 304\nConnection: close\nContent-Length: 4, 4\n\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01",
    ])
}

/// It is the same however it is cut; and a client reads it with one framing, the one that was meant.
pub(super) fn check_site_head(bytes: &[u8]) {
    let read = |bytes: &[u8]| from_site::read(&Bytes::copy_from_slice(bytes), HeaderMap::new(), &mut Names::default());
    let Ok(Some((head, taken))) = read(bytes) else { return };
    for end in (0..taken).rev().take(40).chain(0..taken.min(40)) {
        assert!(matches!(read(&bytes[..end]), Ok(None)), "at {end} it was something");
    }
    for is_head in [false, true] {
        let Ok(framing) = head.framing(is_head) else { continue };
        let body = match framing {
            Framing::Length(0) => Known::Nothing,
            Framing::Length(length) => Known::Length(length),
            Framing::Chunked | Framing::Close => Known::Unknown,
        };
        for version in [Version::HTTP_10, Version::HTTP_11] {
            let terms = Terms { is_head, version, keeps_alive: true, takes_trailers: true };
            let mut out = Vec::new();
            let written = write_head(&mut out, head.status, head.reason.as_deref(), &head.headers, body, terms, b"date: now\r\n");
            let (taken, length) = read(&out).expect("what was written is a head").expect("all of it");
            assert_eq!((length, taken.status, taken.version), (out.len(), head.status, version), "{}", out.escape_ascii());
            if taken.status.as_u16() != 101 {
                assert_eq!(taken.framing(is_head), Ok(written.framing), "{}", out.escape_ascii());
                assert!(version == Version::HTTP_10 || taken.keeps_alive() == written.keeps_alive, "{}", out.escape_ascii());
            }
        }
    }
}

pub(super) fn body_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "4\r\nbody\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
        "001;a=\"b\"\r\na\r\nA \t\r\n0123456789\r\n0\r\nX-Sum: 1\r\nx-sum:2\r\n\r\n",
        "ffffffffffffffff\r\nx",
        "3\r\nabc\r\n0\r\nx: y\nz: q\r\n\r\n",
    ])
}

/// What a body in chunks comes to: its data, its trailers, and what is left.
type Made = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

fn decoded(bytes: &[u8], at_a_time: usize) -> Result<Made, BadBody> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let (mut data, mut trailers) = (Vec::new(), None);
    for (number, piece) in bytes.chunks(at_a_time).enumerate() {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut input)? {
                Decoded::Data(piece) => data.extend_from_slice(&piece),
                Decoded::Trailers(fields) => trailers = Some(fields),
                Decoded::Over => {
                    let rest = [&input[..], bytes.get((number + 1) * at_a_time..).unwrap_or_default()].concat();
                    return Ok((data, trailers, rest));
                }
                Decoded::More => break,
            }
        }
    }
    decoder.end()?;
    Ok((data, trailers, Vec::new()))
}

/// It is the same however it is cut; and what is written of it reads as the same.
pub(super) fn check_body(bytes: &[u8]) {
    let whole = decoded(bytes, bytes.len().max(1));
    for at_a_time in [1, 2, 5] {
        assert_eq!(decoded(bytes, at_a_time), whole, "by {at_a_time}");
    }
    let Ok((data, trailers, rest)) = whole else { return };
    assert!(bytes.ends_with(&rest));
    let mut out = Vec::new();
    for piece in data.chunks(7) {
        write_chunk_size(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(CHUNK_END);
    }
    let names: Vec<HeaderName> = trailers.iter().flat_map(HeaderMap::keys).cloned().collect();
    write_last_chunk(&mut out, trailers.as_ref().map(|trailers| (trailers, &names[..])));
    out.extend_from_slice(&rest);
    let (data_again, trailers_again, rest_again) = decoded(&out, 3).expect("what was written is a body");
    assert_eq!((data_again, rest_again), (data, rest));
    // but for those that frame a message
    let framing = |name: &str| ["content-length", "transfer-encoding", "trailer", "host"].contains(&name);
    let listed = |trailers: Option<HeaderMap>| -> Vec<(HeaderName, HeaderValue)> {
        trailers
            .into_iter()
            .flat_map(|trailers| trailers.iter().map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>())
            .collect()
    };
    let again = listed(trailers_again);
    assert!(again.iter().all(|(name, _)| !framing(name.as_str())));
    assert!(again.iter().all(|line| listed(trailers.clone()).contains(line)));
}
