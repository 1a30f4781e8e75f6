//! The command line: what it says, and how it ends.

use crate::support::{Gate, Scratch, Upstream, own_ports, run, run_command, tidegate};

const SITE: &str = "upstream: { servers: [http://127.0.0.1:9] }\n";

#[test]
fn the_example_is_valid_and_its_effective_policy_reads_back_the_same() {
    let scratch = Scratch::new();
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("gate.yaml");
    let said = run(&["check"], &example);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    let again = run(&["check"], &scratch.write("effective.yaml", &said.out));
    assert_eq!((again.status, again.err.as_str()), (Some(0), ""));
    assert_eq!(again.out, said.out);
}

#[test]
fn every_error_is_told_at_once_with_its_place() {
    let scratch = Scratch::new();
    let file = scratch
        .write("gate.yaml", "upstream:\n  servers: []\n  max_in_flight: 0\nadmission: { mode: ajar }\nsession: { idle: 20 }\nspeling: 1\n");
    let said = run(&["check"], &file);
    assert_eq!((said.status, said.out.as_str()), (Some(2), ""));
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines.len(), 5, "{}", said.err);
    for (line, place) in lines.iter().zip([
        ":2:12: upstream.servers: ",
        ":3:18: upstream.max_in_flight: ",
        ":4:20: admission.mode: ",
        ":5:18: session.idle: ",
        ":6:1: speling: ",
    ]) {
        assert!(line.starts_with(&format!("{}{place}", file.display())), "{line}");
    }
    // whatever it is asked to do with it
    for command in [&["serve"][..], &["keys", "list"], &["mint", "--for", "1h", "--note", "x"]] {
        let said = run(command, &file);
        assert_eq!(said.status, Some(2), "{command:?}: {}", said.err);
        assert_eq!(said.err.lines().count(), 5, "{command:?}: {}", said.err);
    }
}

#[test]
fn a_repeated_key_and_yaml_that_is_none_are_errors_with_a_place() {
    let scratch = Scratch::new();
    for (yaml, place) in [(format!("{SITE}data: a\ndata: b\n"), ":3:"), ("upstream: [\n".to_owned(), ":"), (String::new(), ":1:1: ")] {
        let file = scratch.write("gate.yaml", &yaml);
        let said = run(&["check"], &file);
        assert_eq!(said.status, Some(2), "{yaml}");
        assert!(said.err.contains(&format!("{}{place}", file.display())), "{}", said.err);
    }
    let missing = scratch.path().join("none.yaml");
    let said = run(&["serve"], &missing);
    assert_eq!(said.status, Some(2));
    assert!(said.err.contains(&missing.display().to_string()), "{}", said.err);
}

#[test]
fn a_password_that_is_not_there_is_told_before_the_mail_server_asks_for_it() {
    let scratch = Scratch::new();
    let invitations = "invitations: { smtp: \"smtp://127.0.0.1:1025\", from: a@example.org, site_url: \"https://www.example.org\", username: a, \
                       password_file: secret }\n";
    let file = scratch.write("gate.yaml", &format!("{SITE}{invitations}"));
    let said = run(&["check"], &file);
    assert_eq!(said.status, Some(2), "{}", said.out);
    assert!(said.err.contains("invitations.password_file: ") && said.err.contains("secret"), "{}", said.err);
    scratch.write("secret", "hunter2\n");
    let said = run(&["check"], &file);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""));
    assert!(!said.out.contains("hunter2"), "{}", said.out);
}

#[test]
fn an_operators_listener_that_all_can_reach_needs_a_token() {
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", &format!("{SITE}admin: {{ listen: \"0.0.0.0:0\" }}\n"));
    let said = run(&["check"], &file);
    assert_eq!(said.status, Some(2));
    assert!(said.err.contains("token_file"), "{}", said.err);
    // and the token must be one
    scratch.write("token", "short\n");
    let file = scratch
        .write("gate.yaml", &format!("{SITE}listen: {{ http: 127.0.0.1:0 }}\nadmin: {{ listen: \"0.0.0.0:0\", token_file: token }}\n"));
    for (command, status) in [("check", 2), ("serve", 1)] {
        let said = run(&[command], &file);
        assert_eq!((said.status, said.out.as_str()), (Some(status), ""), "{}", said.err);
        assert!(
            said.err.contains("admin.token_file: ") && said.err.contains("5 characters") && !said.err.contains("short"),
            "{}",
            said.err
        );
    }
}

#[test]
fn a_wrong_command_line_is_told_how() {
    for arguments in [&[][..], &["srve"], &["mint"], &["mint", "--for", "soon", "--note", "x"], &["keys"]] {
        let mut command = tidegate();
        command.args(arguments);
        let said = run_command(command);
        assert_eq!(said.status, Some(2), "{arguments:?}");
        assert!(said.err.contains("Usage") || said.err.contains("--help"), "{arguments:?}: {}", said.err);
    }
    let mut command = tidegate();
    command.arg("--version");
    assert_eq!(run_command(command).out, concat!("tidegate ", env!("CARGO_PKG_VERSION")));
    let mut command = tidegate();
    command.arg("--help");
    let help = run_command(command).out;
    for name in ["serve", "check", "demo", "mint", "keys", "healthcheck"] {
        assert!(help.contains(name), "{help}");
    }
}

#[test]
fn without_keys_nothing_is_minted_nor_made() {
    let scratch = Scratch::new();
    let file = scratch.write("gate.yaml", SITE);
    for command in [&["mint", "--for", "1h", "--note", "x"][..], &["keys", "list"], &["keys", "rotate"]] {
        let said = run(command, &file);
        assert_eq!(said.status, Some(1), "{command:?}");
        assert!(said.err.contains("there are no keys"), "{}", said.err);
    }
    assert!(!scratch.path().join("data").exists());
}

#[test]
fn a_healthcheck_says_by_its_status_whether_the_gate_takes_traffic() {
    let upstream = Upstream::answering("x");
    let scratch = Scratch::new();
    let gate = Gate::serve(&scratch.write("gate.yaml", &own_ports(&upstream.url())));
    let file = scratch.write("check.yaml", &format!("{SITE}admin: {{ listen: {} }}\n", gate.admin));
    let said = run(&["healthcheck"], &file);
    assert_eq!((said.status, said.out.as_str(), said.err.as_str()), (Some(0), "", ""));
    // a gate serves on while its file has a mistake; that is told, and no reason to end it
    let faulty = scratch.write("faulty.yaml", &format!("upstream: {{ servers: [] }}\nspeling: 1\nadmin: {{ listen: {} }}\n", gate.admin));
    let said = run(&["healthcheck"], &faulty);
    assert_eq!((said.status, said.out.as_str()), (Some(0), ""), "{}", said.err);
    assert!(said.err.contains(":1:22: upstream.servers: ") && said.err.contains(":2:1: speling: "), "{}", said.err);
    gate.end();
    for file in [&file, &faulty] {
        let said = run(&["healthcheck"], file);
        assert_eq!(said.status, Some(1));
        assert!(said.err.contains("/healthz"), "{}", said.err);
    }
}
