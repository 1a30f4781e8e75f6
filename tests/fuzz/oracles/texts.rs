//! Texts that people write: gate.yaml, durations and sizes in it, codes of invitations, email addresses.

use std::path::Path;
use std::time::Duration;

use tidegate::config::{effective, needs_restart, parse};
use tidegate::rules::email::{ADDRESS_BYTES_MAX, Address, fold};
use tidegate::rules::invites::Code;
use tidegate::rules::policy::Policy;
use tidegate::rules::units::{parse_duration, parse_size, print_duration, print_size};

pub(super) fn config_seeds() -> Vec<Vec<u8>> {
    let mut seeds = super::owned(&[
        include_str!("../../../gate.yaml"),
        "upstream: { servers: [http://127.0.0.1:3000] }\n",
        "upstream: { servers: [\"https://[::1]:3001\", http://app:80/] }\nadmission: { mode: fixed, probability: 0.25 }\n",
        "upstream: { servers: [https://a], tls: { ca: a.pem, server_name: A.b, certificate: c.pem, key: c.key } }\nlog: { access: 0.01, format: json }\n",
        "upstream: { servers: [http://a] }\nroutes: [{ path: \"/a\\\"{b,c}*\", gate: open }, { path: /ü/**, signal: false }]\n",
        "upstream: { servers: [http://a], max_in_flight: 7, queue: { deadline: 1500ms } }\nsession: { not_before: 2026-01-31T06:00:00.25Z, domain: Example.org }\n",
        "upstream: { servers: [http://a] }\ninvitations: { smtp: \"smtp://m:25\", username: u, password_file: p, from: \"B <a@b.org>\", site_url: \"https://w/\" }\n",
        "upstream: { servers: [http://a] }\nbypass: { revoked: [\"0000000000000001\", batch-0000000f], not_before: \"2026-02-28T23:59:59+01:00\" }\n",
        "upstream: { servers: [http://a] }\nclient: { trusted_proxies: [10.0.0.0/8, \"2001:db8::/32\"] }\nlimits: { header_bytes: 8192, buffer_memory: 3MiB }\n",
    ]);
    // what is printed has every key
    let printed: Vec<_> =
        seeds.iter().filter_map(|seed| policy(str::from_utf8(seed).ok()?).map(|policy| effective(&policy).into_bytes())).collect();
    seeds.extend(printed);
    seeds
}

fn policy(text: &str) -> Option<Policy> {
    parse(text, "gate.yaml", Path::new("/etc/gate")).ok()
}

/// Every fault has a place and a text, and what is taken and printed is read as the same.
pub(super) fn check_config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let policy = match parse(text, "gate.yaml", Path::new("/etc/gate")) {
        Ok(policy) => policy,
        Err(errors) => {
            assert!(!errors.problems().is_empty());
            // YAML ends a line at either of them
            let lines = text.split(['\r', '\n']).count() as u64;
            for problem in errors.problems() {
                assert!(problem.place.is_some_and(|place| (1..=lines).contains(&place.line) && place.column > 0), "{problem:?}");
                assert!(!problem.text.is_empty(), "{problem:?}");
            }
            return;
        }
    };
    let printed = effective(&policy);
    let again = parse(&printed, "printed", Path::new("/")).unwrap_or_else(|errors| panic!("{errors}\nof:\n{printed}"));
    assert_eq!(effective(&again), printed);
    assert_eq!(needs_restart(&policy, &again), [""; 0]);
    let Policy { listen, admin, data, upstream, admission, session, routes, waiting_room, .. } = &policy;
    assert_eq!((listen, admin, data, upstream), (&again.listen, &again.admin, &again.data, &again.upstream));
    assert_eq!((admission, session, waiting_room), (&again.admission, &again.session, &again.waiting_room));
    assert_eq!(routes.list(), again.routes.list());
    let Policy { email_queue, invitations, bypass, client, limits, shutdown, log, .. } = &policy;
    assert_eq!((email_queue, invitations, bypass), (&again.email_queue, &again.invitations, &again.bypass));
    assert_eq!((client, limits, shutdown, log), (&again.client, &again.limits, &again.shutdown, &again.log));
}

pub(super) fn unit_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "200ms",
        "1.5h",
        "30d",
        "0.000001ms",
        "213503d",
        "18446744073709551615",
        "32KiB",
        "0.5MiB",
        "17179869183GiB",
        "007s",
        "1.500000000000000000h",
    ])
}

/// What is read is what is written, to the nanosecond and the byte, and prints as what reads the same.
pub(super) fn check_unit(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let end = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let about = |value: f64, unit: f64| {
        let written = text[..end].parse::<f64>().unwrap() * unit;
        assert!((value - written).abs() <= written * 1e-9 + 1e-9, "{text} is read as {value}");
    };
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let (_, millis) = units.into_iter().find(|(name, _)| *name == &text[end..]).unwrap();
        about(duration.as_secs_f64(), Duration::from_millis(millis).as_secs_f64());
    }
    if let Ok(size) = parse_size(text) {
        assert_eq!(parse_size(&print_size(size)), Ok(size));
        let units = [("", 1.0), ("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)];
        let (_, unit) = units.into_iter().find(|(name, _)| *name == &text[end..]).unwrap();
        about(size as f64, unit);
    }
}

pub(super) fn code_seeds() -> Vec<Vec<u8>> {
    let codes = [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123 << 48].map(Code::from_first_bits);
    let mut seeds: Vec<Vec<u8>> = codes.iter().map(|code| code.to_string().into_bytes()).collect();
    seeds.extend(codes.iter().map(|code| code.to_string().replace('-', " \u{2013} ").to_lowercase().into_bytes()));
    seeds
}

/// What is taken for a code is one, whatever stands between its characters.
pub(super) fn check_code(bytes: &[u8]) {
    let typed = String::from_utf8_lossy(bytes);
    let Ok(code) = Code::parse(&typed) else { return };
    assert!(code.bits() >> Code::BITS == 0);
    let written = code.to_string();
    assert!(Code::parse(&written) == Ok(code));
    let like = |char: char| match char.to_ascii_uppercase() {
        'I' | 'L' => '1',
        'O' => '0',
        other => other,
    };
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).map(like).collect::<String>();
    assert_eq!(plain(&typed), plain(&written));
}

pub(super) fn address_seeds() -> Vec<Vec<u8>> {
    super::owned(&[
        "ann@example.org",
        " Ann.O'Neil+tag@Sub.Example.ORG ",
        "ann@b\u{fc}cher.example",
        "\u{f6}@xn--bcher-kva.example",
        "\"a b\"@example.org",
        "a@[127.0.0.1]",
        "a@b@c.org",
        "a..b@example.org",
        "!#$%&'*/=?^_`{|}~-@a-b.co",
        "ann@example.org\r\nBcc: eve@example.org",
        "ann@\u{ff45}xample.org",
        "<ann@example.org>",
        "ann@example.org.",
    ])
}

/// What is taken for an address is one line with one address in it, to which a message can be written, and it reads as itself.
pub(super) fn check_address(bytes: &[u8]) {
    let typed = String::from_utf8_lossy(bytes);
    let Ok(address) = Address::parse(&typed) else { return };
    let text = address.as_str();
    assert!(text.len() <= ADDRESS_BYTES_MAX);
    assert!(!text.chars().any(|char| char.is_control() || char.is_whitespace()));
    let (local, domain) = text.split_once('@').unwrap();
    assert!(!local.is_empty() && domain.contains('.') && !domain.contains('@'), "{text}");
    assert!(domain.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')), "{text}");
    assert!(!text.contains(['"', '<', '>', ',', ';', ':', '(', ')', '\\']), "{text}");
    assert_eq!(Address::parse(text).map(String::from), Ok(text.to_owned()));
    assert_eq!(fold(&address.folded()), address.folded());
    assert!(text.parse::<lettre::Address>().is_ok(), "no message can be written to {text}");
}
