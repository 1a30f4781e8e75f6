//! The PROXY protocol, versions 1 and 2: what a load balancer that passes connections on says of each before its first byte.
//!
//! After HAProxy's `proxy-protocol.txt` (2020/03/05). A header is taken whole or not at all, and what is not exactly one is refused: half
//! understood, it would name the wrong client. The ports, and who the connection was meant for, are checked and not kept.
//!
//! Absent: whether a peer may say so (`client.trusted_proxies`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crc::{CRC_32_ISCSI, Crc};

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it takes: what follows belongs to the client.
    pub length: usize,
    /// Whom the connection comes from; `None` if the sender made it itself (a health check), or can't say.
    pub source: Option<IpAddr>,
    /// The client came over TLS.
    pub tls: bool,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A whole header, and maybe more.
    Complete(Header),
    /// The beginning of one, and nothing else.
    Incomplete,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Something else altogether, such as a request.
    #[error("no PROXY header")]
    Missing,
    /// Version 1 without an end, or version 2 above [`HEADER_BYTES_MAX`].
    #[error("a PROXY header that is too long")]
    TooLong,
    /// A line of version 1 that is not in the form of one.
    #[error("a PROXY line with a fault in it")]
    Line,
    /// Version 2 with another version, command, family or transport than there are.
    #[error("a PROXY header of an unknown version, command or family")]
    Kind,
    /// Version 2 with less room than its addresses take.
    #[error("a PROXY header that is shorter than its addresses")]
    Addresses,
    /// Version 2 with an extension that does not end where the header does.
    #[error("a PROXY header with an extension that does not fit into it")]
    Extension,
    /// Version 2 with a checksum that is another one.
    #[error("a PROXY header with a wrong checksum")]
    Checksum,
}

/// Reads the first bytes of a connection.
///
/// # Errors
/// They are no header, and will be none whatever follows.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if is_begun(bytes, V1_START) {
        return if bytes.len() < V1_START.len() { Ok(Parsed::Incomplete) } else { line(bytes) };
    }
    if is_begun(bytes, V2_START) {
        return if bytes.len() < V2_HEAD { begun(bytes) } else { block(bytes) };
    }
    Err(Malformed::Missing)
}

/// Whether as many of the bytes as there are agree with this start.
fn is_begun(bytes: &[u8], start: &[u8]) -> bool {
    let common = bytes.len().min(start.len());
    bytes[..common] == start[..common]
}

/// Version 1, from `PROXY ` to the end of its line.
fn line(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let seen = &bytes[..bytes.len().min(V1_MAX)];
    let Some(end) = seen.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if seen.len() < V1_MAX { Ok(Parsed::Incomplete) } else { Err(Malformed::TooLong) };
    };
    match (seen[end], seen.get(end + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) if seen.len() < V1_MAX => return Ok(Parsed::Incomplete),
        _ => return Err(Malformed::Line),
    }
    let said = str::from_utf8(&seen[V1_START.len()..end]).map_err(|_| Malformed::Line)?;
    // whatever else it may say, it is to be ignored
    let source = if said == "UNKNOWN" || said.starts_with("UNKNOWN ") { None } else { Some(named(said).ok_or(Malformed::Line)?) };
    Ok(Parsed::Complete(Header { length: end + 2, source, tls: false }))
}

/// The source of `TCP4 192.0.2.1 192.0.2.2 1111 80`.
fn named(said: &str) -> Option<IpAddr> {
    let mut words = said.split(' ');
    let source = match words.next()? {
        "TCP4" => IpAddr::V4(both::<Ipv4Addr>(&mut words)?),
        "TCP6" => IpAddr::V6(both::<Ipv6Addr>(&mut words)?),
        _ => return None,
    };
    let ports_hold = is_port(words.next()?) && is_port(words.next()?) && words.next().is_none();
    ports_hold.then_some(source)
}

/// The first of two addresses of one family.
fn both<'a, A: FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Option<A> {
    let source = words.next()?.parse().ok()?;
    words.next()?.parse::<A>().ok()?;
    Some(source)
}

fn is_port(word: &str) -> bool {
    // a sign or a zero in front would be read by some
    word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0')) && word.parse::<u16>().is_ok()
}

/// Version 2 before its length is known.
fn begun(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let kind_holds = bytes.get(12).is_none_or(|&byte| command(byte).is_some());
    if kind_holds { Ok(Parsed::Incomplete) } else { Err(Malformed::Kind) }
}

/// Version 2, from its signature on.
fn block(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let command = command(bytes[12]).ok_or(Malformed::Kind)?;
    let length = V2_HEAD + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > HEADER_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::Incomplete) };
    let (source, tls) = match command {
        // the sender's own connection: all that it says besides is to be skipped
        Command::Local => (None, false),
        Command::Proxy => relayed(header)?,
    };
    Ok(Parsed::Complete(Header { length, source, tls }))
}

enum Command {
    Local,
    Proxy,
}

fn command(byte: u8) -> Option<Command> {
    match byte {
        0x20 => Some(Command::Local),
        0x21 => Some(Command::Proxy),
        _ => None,
    }
}

/// Who is behind a relayed connection, and whether it is over TLS.
fn relayed(header: &[u8]) -> Result<(Option<IpAddr>, bool), Malformed> {
    let (family, transport) = (header[13] >> 4, header[13] & 0x0f);
    if family > 3 || transport > 2 {
        return Err(Malformed::Kind);
    }
    let addresses = match (family, transport) {
        // unspecified: whatever is said of it is to be ignored
        (0, _) | (_, 0) => return Ok((None, false)),
        (1, _) => 12,
        (2, _) => 36,
        _ => 216,
    };
    let rest = header.get(V2_HEAD + addresses..).ok_or(Malformed::Addresses)?;
    let source = match (family, transport) {
        (1, 1) => first::<4>(&header[V2_HEAD..]).map(IpAddr::from),
        (2, 1) => first::<16>(&header[V2_HEAD..]).map(IpAddr::from),
        // a socket of the sender's machine, or datagrams, which no connection is made of
        _ => None,
    };
    let tls = extensions(header, rest)?;
    Ok((source, tls))
}

fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.first_chunk::<N>().copied()
}

/// Goes through the extensions: whether the client came over TLS. Those that say something else are skipped.
fn extensions(header: &[u8], mut rest: &[u8]) -> Result<bool, Malformed> {
    let mut tls = false;
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = after.split_at_checked(length).ok_or(Malformed::Extension)?;
        match *kind {
            CRC32C => {
                let at = header.len() - after.len();
                check(header, at, value)?;
            }
            SSL => {
                let [client, _, _, _, _, ..] = value else { return Err(Malformed::Extension) };
                tls |= client & CLIENT_SSL != 0;
            }
            _ => {}
        }
        rest = next;
    }
    if rest.is_empty() { Ok(tls) } else { Err(Malformed::Extension) }
}

/// Compares the checksum, which stands at `at`, with that of the header with zeros in its place.
fn check(header: &[u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let said = value.try_into().map(u32::from_be_bytes).map_err(|_| Malformed::Extension)?;
    let mut digest = CHECKSUM.digest();
    digest.update(&header[..at]);
    digest.update(&[0; 4]);
    digest.update(&header[at + 4..]);
    if digest.finalize() == said { Ok(()) } else { Err(Malformed::Checksum) }
}

/// The longest header of version 2 that is taken, in bytes: certificates have been put into one. nginx takes as many.
pub const HEADER_BYTES_MAX: usize = 4096;

/// The longest line of version 1, its end included (section 2.1).
const V1_MAX: usize = 107;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, command, family and length.
const V2_HEAD: usize = 16;

/// Extensions (section 2.2).
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;

/// The client came over TLS.
const CLIENT_SSL: u8 = 0x01;

/// CRC32c.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn complete(bytes: &[u8]) -> Header {
        match parse(bytes) {
            Ok(Parsed::Complete(header)) => header,
            other => panic!("{other:?} of {}", bytes.escape_ascii()),
        }
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [V2_START, &[command, family], &length, content].concat()
    }

    fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[kind], &length[..], value].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xd4, 0x31, 0, 80];

    #[test]
    fn lines_of_version_1() {
        for (line, source) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.7 54321 80\r\n", Some("192.0.2.1")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255")),
            ("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", Some("0.0.0.0")),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Some("2001:db8::1")),
            (
                "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
                Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Some("::ffff:192.0.2.1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", None),
            ("PROXY UNKNOWN 192.0.2.1 nonsense\r\n", None),
        ] {
            let expected = Header { length: line.len(), source: source.map(ip), tls: false };
            assert_eq!(complete(line.as_bytes()), expected, "{line}");
            assert_eq!(complete(format!("{line}GET / HTTP/1.1\r\n").as_bytes()), expected, "{line}");
            for end in 0..line.len() {
                assert_eq!(parse(&line.as_bytes()[..end]), Ok(Parsed::Incomplete), "{}", &line[..end]);
            }
        }
    }

    #[test]
    fn lines_with_a_fault_in_them() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 \r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4\t192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY tcp4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY unknown\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.02.1 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2 198.51.100.7 1 2\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n",
            "PROXY TCP4 0x7f.0.0.1 198.51.100.7 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP6 [::1] ::1 1 2\r\n",
            "PROXY TCP6 1::2::3 ::1 1 2\r\n",
            "PROXY TCP6 00000::1 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 00\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 -1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\r\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2\rx",
            "PROXY UNKNOWN \n\r\n",
            "PROXY TCP4 192.0.2.1\0 198.51.100.7 1 2\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed::Line), "{line:?}");
        }
        assert_eq!(parse(b"PROXY UNKNOWN \xff\r\n"), Err(Malformed::Line));
    }

    #[test]
    fn a_line_without_an_end_is_too_long() {
        let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert_eq!(complete(line(107).as_bytes()).length, 107);
        assert!(parse(line(108).as_bytes()).is_err());
        assert_eq!(parse(&line(108).as_bytes()[..106]), Ok(Parsed::Incomplete));
        assert_eq!(parse(line(5000).as_bytes()), Err(Malformed::TooLong));
    }

    #[test]
    fn what_is_no_header_is_known_by_its_first_bytes() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], b"POST / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\nGET /", b"PROXYTCP4", b"proxy TCP4", b"\0", b"PUT"]
        {
            assert_eq!(parse(bytes), Err(Malformed::Missing), "{}", bytes.escape_ascii());
        }
        for bytes in [&b""[..], b"P", b"PROXY", b"PROXY ", b"\r", b"\r\n\r\n\0\r\nQUIT\n"] {
            assert_eq!(parse(bytes), Ok(Parsed::Incomplete), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn blocks_of_version_2() {
        let v6: Vec<u8> = [&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 15], &[1, 0, 1, 0, 2]].concat();
        let unix = [b'/'; 216];
        for (header, source) in [
            (v2(0x21, 0x11, V4), Some("192.0.2.1")),
            (v2(0x21, 0x21, &v6), Some("2001:db8::1")),
            (v2(0x21, 0x31, &unix), None),
            (v2(0x21, 0x32, &unix), None),
            (v2(0x21, 0x12, V4), None),
            (v2(0x21, 0x22, &v6), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x00, &[1, 2, 3]), None),
            (v2(0x21, 0x01, &[]), None),
            (v2(0x21, 0x10, &[]), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, V4), None),
            (v2(0x20, 0x11, &[]), None),
            (v2(0x20, 0xff, &[9; 99]), None),
        ] {
            let expected = Header { length: header.len(), source: source.map(ip), tls: false };
            assert_eq!(complete(&header), expected, "{}", header.escape_ascii());
            assert_eq!(complete(&[&header[..], b"GET /"].concat()), expected, "{}", header.escape_ascii());
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]), Ok(Parsed::Incomplete), "{}", header[..end].escape_ascii());
            }
        }
    }

    #[test]
    fn blocks_with_a_fault_in_them() {
        let too_long = [V2_START, &[0x20, 0, 0xff, 0xff]].concat();
        let just_too_long = [V2_START, &[0x21, 0x11, 0x0f, 0xf1]].concat();
        for (header, fault) in [
            (v2(0x11, 0x11, V4), Malformed::Kind),
            (v2(0x31, 0x11, V4), Malformed::Kind),
            (v2(0x22, 0x11, V4), Malformed::Kind),
            (v2(0x2f, 0x11, V4), Malformed::Kind),
            (v2(0x21, 0x41, V4), Malformed::Kind),
            (v2(0x21, 0x13, V4), Malformed::Kind),
            (v2(0x21, 0x11, &V4[..11]), Malformed::Addresses),
            (v2(0x21, 0x11, &[]), Malformed::Addresses),
            (v2(0x21, 0x21, V4), Malformed::Addresses),
            (v2(0x21, 0x31, &[0; 215]), Malformed::Addresses),
            (too_long, Malformed::TooLong),
            (just_too_long, Malformed::TooLong),
        ] {
            assert_eq!(parse(&header), Err(fault), "{}", header.escape_ascii());
        }
        let longest = [V2_START, &[0x21, 0x11, 0x0f, 0xf0], &[0; 100]].concat();
        assert_eq!(parse(&longest), Ok(Parsed::Incomplete), "more of it has to come");
        assert_eq!(parse(&[V2_START, &[0x33]].concat()), Err(Malformed::Kind), "known before the rest has come");
        let mut broken = v2(0x21, 0x11, V4);
        broken[11] = b'\r';
        assert_eq!(parse(&broken), Err(Malformed::Missing));
    }

    #[test]
    fn extensions_are_skipped_and_stay_within_the_header() {
        let with = |extensions: &[u8]| v2(0x21, 0x11, &[V4, extensions].concat());
        let alpn = extension(0x01, b"h2");
        let padding = extension(0x04, &[]);
        let unknown = extension(0xea, &[7; 300]);
        let header = with(&[alpn.as_slice(), &padding, &unknown].concat());
        assert_eq!(complete(&header), Header { length: header.len(), source: Some(ip("192.0.2.1")), tls: false });
        for faulty in [&b"\x01"[..], b"\x01\x00", b"\x01\x00\x01", b"\x04\x00\x00\x04", b"\x01\xff\xffx", b"\x20\x00\x04\x01\x00\x00\x00"] {
            assert_eq!(parse(&with(faulty)), Err(Malformed::Extension), "{}", faulty.escape_ascii());
            // bytes of the client's that would complete it are not part of it
            assert_eq!(parse(&[with(faulty), vec![0; 70_000]].concat()), Err(Malformed::Extension), "{}", faulty.escape_ascii());
        }
    }

    #[test]
    fn a_client_that_came_over_tls() {
        let with = |client: u8| {
            let version = extension(0x21, b"TLSv1.3");
            let ssl = extension(0x20, &[&[client, 0, 0, 0, 0][..], &version].concat());
            complete(&v2(0x21, 0x11, &[V4, &ssl].concat())).tls
        };
        assert!(with(0x01) && with(0x07));
        assert!(!with(0x00) && !with(0x06), "a certificate alone is said of nobody");
        // said of the sender's own connection, it is ignored with all the rest
        let ssl = extension(0x20, &[1, 0, 0, 0, 0]);
        assert!(!complete(&v2(0x20, 0x11, &[V4, &ssl].concat())).tls);
        assert!(complete(&v2(0x21, 0x31, &[&[0; 216][..], &ssl].concat())).tls);
    }

    #[test]
    fn a_checksum_is_verified() {
        // the check value of the algorithm: RFC 3720, appendix B.4 has the same polynomial
        assert_eq!(CHECKSUM.checksum(b"123456789"), 0xe306_9283);
        let mut header = v2(0x21, 0x11, &[V4, &extension(0x03, &[0; 4]), &extension(0x04, b"x")].concat());
        let at = 16 + 12 + 3;
        let sum = CHECKSUM.checksum(&header).to_be_bytes();
        header[at..at + 4].copy_from_slice(&sum);
        assert_eq!(complete(&header).source, Some(ip("192.0.2.1")));
        for byte in [16, 19, at, at + 3, header.len() - 1] {
            let mut changed = header.clone();
            changed[byte] ^= 1;
            assert_eq!(parse(&changed), Err(Malformed::Checksum), "byte {byte}");
        }
        for length in [0, 3, 5] {
            let header = v2(0x21, 0x11, &[V4, &extension(0x03, &vec![0; length])].concat());
            assert_eq!(parse(&header), Err(Malformed::Extension));
        }
    }

    /// What a sender writes, and what is to be read of it.
    fn written() -> impl Strategy<Value = (Vec<u8>, Option<IpAddr>, bool)> {
        let v4 = any::<([u8; 4], [u8; 4], u16, u16)>();
        let v6 = any::<([u8; 16], [u8; 16], u16, u16)>();
        let extensions = proptest::collection::vec((0x30..=0xef_u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..4);
        let block = |v6: bool, addresses: Vec<u8>, source: IpAddr, extensions: Vec<(u8, Vec<u8>)>, tls: bool| {
            let ssl = extension(0x20, &[u8::from(tls), 0, 0, 0, 1]);
            let rest: Vec<u8> = extensions.iter().flat_map(|(kind, value)| extension(*kind, value)).chain(ssl).collect();
            (v2(0x21, if v6 { 0x21 } else { 0x11 }, &[addresses, rest].concat()), Some(source), tls)
        };
        prop_oneof![
            v4.prop_map(|(from, to, port, at)| {
                let line = format!("PROXY TCP4 {} {} {port} {at}\r\n", Ipv4Addr::from(from), Ipv4Addr::from(to));
                (line.into_bytes(), Some(IpAddr::from(from)), false)
            }),
            v6.prop_map(|(from, to, port, at)| {
                let line = format!("PROXY TCP6 {} {} {port} {at}\r\n", Ipv6Addr::from(from), Ipv6Addr::from(to));
                (line.into_bytes(), Some(IpAddr::from(from)), false)
            }),
            (v4, extensions.clone(), any::<bool>()).prop_map(move |((from, to, port, at), extensions, tls)| {
                let addresses = [&from[..], &to, &port.to_be_bytes(), &at.to_be_bytes()].concat();
                block(false, addresses, IpAddr::from(from), extensions, tls)
            }),
            (v6, extensions, any::<bool>()).prop_map(move |((from, to, port, at), extensions, tls)| {
                let addresses = [&from[..], &to, &port.to_be_bytes(), &at.to_be_bytes()].concat();
                block(true, addresses, IpAddr::from(from), extensions, tls)
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read((header, source, tls) in written(), after in proptest::collection::vec(any::<u8>(), 0..50)) {
            let length = header.len();
            prop_assert_eq!(parse(&[header.clone(), after].concat()), Ok(Parsed::Complete(Header { length, source, tls })));
            for end in 0..length {
                prop_assert_eq!(parse(&header[..end]), Ok(Parsed::Incomplete));
            }
        }

        #[test]
        fn no_bytes_are_too_much(
            start in proptest::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", V2_START, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]),
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [start, &rest].concat();
            match parse(&bytes) {
                Ok(Parsed::Complete(header)) => prop_assert!(header.length <= bytes.len() && header.length > 14),
                // who reads on never waits for more than is taken
                Ok(Parsed::Incomplete) => prop_assert!(bytes.len() < HEADER_BYTES_MAX),
                Err(_) => {}
            }
        }

        #[test]
        fn a_changed_byte_is_refused_or_read_as_what_it_says((header, ..) in written(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut header = header;
            let at = at.index(header.len());
            header[at] = byte;
            if let Ok(Parsed::Complete(read)) = parse(&header) {
                prop_assert!(read.length <= header.len());
            }
        }
    }
}
