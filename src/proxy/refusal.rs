//! What is said on a connection of HTTP/1 when its head can't be read or does not come: no request is there to be answered yet.

use http::StatusCode;

/// The answer to a head that takes too long.
pub(super) const HEAD_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    connection: close\r\n\
    content-length: 0\r\n\
    cache-control: no-store\r\n\
    proxy-status: tidegate; error=http_request_error; details=\"header timeout\"\r\n\r\n";

/// Writes the answer to a head that can't be read. `date` is a whole line.
pub(super) fn write(out: &mut Vec<u8>, status: StatusCode, date: &[u8]) {
    for part in [
        b"HTTP/1.1 ",
        status.as_str().as_bytes(),
        b" ",
        status.canonical_reason().unwrap_or_default().as_bytes(),
        b"\r\nconnection: close\r\ncontent-length: 0\r\n",
        date,
        b"cache-control: no-store\r\nproxy-status: tidegate; error=http_request_error\r\n\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_whole_answer_and_the_last() {
        let mut out = Vec::new();
        write(&mut out, StatusCode::URI_TOO_LONG, b"date: now\r\n");
        let expected = "HTTP/1.1 414 URI Too Long\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\ncache-control: no-store\r\n\
            proxy-status: tidegate; error=http_request_error\r\n\r\n";
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
    }
}
