//! What is said on a connection of HTTP/1 when its head can't be read or does not come: no request is there to be answered yet, so it is
//! written by the socket.

use memchr::memmem;

/// The answer to a head that takes too long. hyper would close without a word.
pub(super) const HEAD_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    connection: close\r\n\
    content-length: 0\r\n\
    cache-control: no-store\r\n\
    proxy-status: tidegate; error=http_request_error; details=\"header timeout\"\r\n\r\n";

/// How hyper begins the answers that it gives by itself.
const OF_HYPER: [&[u8]; 3] =
    [b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 414 URI Too Long\r\n", b"HTTP/1.1 431 Request Header Fields Too Large\r\n"];

/// What all answers say that the gate gives by itself, and hyper does not know.
const OWN: &[u8] = b"cache-control: no-store\r\nproxy-status: tidegate; error=http_request_error\r\n\r\n";

/// The answer that hyper gives to a head that it can't read, with what all of the gate's own say, and how much of it hyper says, too;
/// `None` if these bytes are no such answer. Whose they are has to be known: a site may say the same.
pub(super) fn completed(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    if !OF_HYPER.iter().any(|start| bytes.starts_with(start)) {
        return None;
    }
    let lines = bytes.strip_suffix(END)?;
    let is_other = memmem::find(lines, END).is_some() || memmem::find(lines, b"\r\nproxy-status: ").is_some();
    let is_empty = memmem::find(lines, b"\r\ncontent-length: 0\r\n").is_some();
    (is_empty && !is_other).then(|| ([lines, b"\r\n", OWN].concat(), lines.len() + 2))
}

const END: &[u8] = b"\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hyper_says_is_completed() {
        for start in OF_HYPER {
            let said = [start, b"connection: close\r\ncontent-length: 0\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n"].concat();
            let (completed, same) = completed(&said).unwrap();
            assert!(said.starts_with(&completed[..same]) && completed[..same].ends_with(b"GMT\r\n"), "{}", completed.escape_ascii());
            let added = str::from_utf8(&completed[same..]).unwrap();
            assert_eq!(added, "cache-control: no-store\r\nproxy-status: tidegate; error=http_request_error\r\n\r\n");
        }
    }

    #[test]
    fn what_others_say_is_left_as_it_is() {
        let others = [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nproxy-status: tidegate; error=http_request_error\r\ndate: now\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            "",
        ];
        for other in others {
            assert_eq!(completed(other.as_bytes()), None, "{other:?}");
        }
    }
}
