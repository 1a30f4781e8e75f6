//! A word with the gate that runs, by its admin listener.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

use crate::rules::policy::Admin;

/// Longer than a gate that lives ever takes.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of an answer that are read: `/status` with its history has some tens of thousands.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// What the gate has answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) status: String,
    pub(super) body: String,
}

/// Asks for a path; with the admin token, if there is one that can be read.
pub(super) fn get(admin: &Admin, path: &str) -> anyhow::Result<Answer> {
    let address = reachable(admin.listen);
    let url = format!("http://{address}{path}");
    let token = admin.token_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let authorization = token.map(|token| format!("Authorization: Bearer {}\r\n", token.trim())).unwrap_or_default();
    let answer = ask(address, path, &authorization).with_context(|| url.clone())?;
    let status = answer.split(' ').nth(1).with_context(|| format!("{url}: what answers there is not HTTP"))?.to_owned();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok(Answer { url, status, body })
}

/// Where a listener on every address can be reached from here.
const fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), listen.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => listen,
    }
}

fn ask(address: SocketAddr, path: &str, authorization: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n{authorization}\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:9090".parse().unwrap()), "127.0.0.1:9090".parse().unwrap());
        assert_eq!(reachable("[::]:9090".parse().unwrap()), "[::1]:9090".parse().unwrap());
        assert_eq!(reachable("10.1.2.3:9090".parse().unwrap()), "10.1.2.3:9090".parse().unwrap());
    }
}
