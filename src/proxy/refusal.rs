//! What is said on a connection of HTTP/1 when its head can't be read or does not come: no request is there to be answered yet.

use http::StatusCode;

/// Writes the answer to a head that can't be read, or is late. `details` say what of it; `date` is a whole line.
pub(super) fn write(out: &mut Vec<u8>, status: StatusCode, details: Option<&str>, date: &[u8]) {
    let (before, details, after) = details.map_or(("", "", ""), |details| ("; details=\"", details, "\""));
    for part in [
        b"HTTP/1.1 ",
        status.as_str().as_bytes(),
        b" ",
        status.canonical_reason().unwrap_or_default().as_bytes(),
        b"\r\nconnection: close\r\ncontent-length: 0\r\n",
        date,
        b"cache-control: no-store\r\nproxy-status: tidegate; error=http_request_error",
        before.as_bytes(),
        details.as_bytes(),
        after.as_bytes(),
        b"\r\n\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_whole_answer_and_the_last() {
        for (status, details, first, last) in [
            (StatusCode::URI_TOO_LONG, None, "414 URI Too Long", ""),
            (StatusCode::REQUEST_TIMEOUT, Some("header timeout"), "408 Request Timeout", "; details=\"header timeout\""),
        ] {
            let mut out = Vec::new();
            write(&mut out, status, details, b"date: now\r\n");
            let expected = format!(
                "HTTP/1.1 {first}\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\ncache-control: no-store\r\n\
                 proxy-status: tidegate; error=http_request_error{last}\r\n\r\n"
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
