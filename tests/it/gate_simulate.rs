//! `tidegate simulate`: what it writes, and how it ends.

use crate::support::{Said, Scratch, run_command, tidegate};

const SMALL: &str = "\
- name: rush
  about: Three times what a small site can do.
  length: 3m
  measure: { from: 1m, to: 3m }
  site: { workers: 4, service: 80ms }
  crowd: { pages: 6, think: 4s, arrivals: [{ at: 0s, load: 0.5 }, { at: 30s, load: 3 }] }
";

fn simulate(arguments: &[&str]) -> Said {
    let mut command = tidegate();
    command.arg("simulate").args(arguments);
    run_command(command)
}

#[test]
fn it_writes_a_table_a_page_and_all_figures_and_the_same_each_time() {
    let scratch = Scratch::new();
    let file = scratch.write("rush.yaml", SMALL);
    let file = file.to_str().unwrap();
    let (page, all) = (scratch.path().join("report.html"), scratch.path().join("all.json"));
    let outputs = ["--html", page.to_str().unwrap(), "--json", all.to_str().unwrap()];
    let options = ["--scenarios", file, "--seeds", "2", "--without-gate"];
    let said = simulate(&[&options[..], &outputs].concat());
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{}", said.out);
    let rows: Vec<&str> = said.out.lines().skip(2).collect();
    assert_eq!(rows.len(), 2, "{}", said.out);
    assert!(rows[0].starts_with("| rush | yes | 2 |") && rows[1].starts_with("| rush | no | 2 |"), "{}", said.out);
    assert_eq!(simulate(&options).out, said.out);

    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Three times what a small site can do.") && page.contains("<svg"));
    let runs: serde_json::Value = serde_json::from_slice(&std::fs::read(all).unwrap()).unwrap();
    let goodput = |run: usize| runs[run]["figures"]["goodput"].as_f64().unwrap();
    assert!(goodput(0) > 0.9 && goodput(2) < 0.3, "{} {}", goodput(0), goodput(2));
    assert_eq!(runs[0]["seconds"].as_array().unwrap().len(), 180);
}

#[test]
fn what_does_not_come_out_as_expected_is_named() {
    let scratch = Scratch::new();
    let file = scratch.write("rush.yaml", &format!("{SMALL}  expect: {{ waited: 3 }}\n"));
    let said = simulate(&["--scenarios", file.to_str().unwrap()]);
    assert_eq!(said.status, Some(1), "{}", said.out);
    assert!(said.out.contains("not as expected: rush, seed 1: waited is ") && said.out.contains(", above 3"), "{}", said.out);
}

#[test]
fn an_operator_can_try_a_policy_of_their_own() {
    let scratch = Scratch::new();
    let file = scratch.write("rush.yaml", &format!("{SMALL}  expect: {{ goodput: 0.9 }}\n"));
    let policy = |slots: u32| scratch.write("gate.yaml", &format!("upstream: {{ servers: [http://site], max_in_flight: {slots} }}\n"));
    let with = |slots| simulate(&["--scenarios", file.to_str().unwrap(), "--policy", policy(slots).to_str().unwrap()]).status;
    assert_eq!(with(4), Some(0));
    assert_eq!(with(1), Some(1), "a quarter of the workers is not enough");
}

#[test]
fn what_can_not_be_read_is_refused_with_its_place() {
    let scratch = Scratch::new();
    let file = scratch.write("rush.yaml", "- name: rush\n  length: 3m\n  site:\n    workers: none\n");
    let said = simulate(&["--scenarios", file.to_str().unwrap()]);
    assert_eq!(said.status, Some(2));
    assert!(said.err.starts_with(&format!("{}:4:14: ", file.display())), "{}", said.err);
    let said = simulate(&["--only", "no-such"]);
    assert_eq!(said.status, Some(2));
    assert!(said.err.contains("\"no-such\"") && said.err.contains("--list"), "{}", said.err);
    assert!(simulate(&["--list"]).out.contains("x3: Three times as many as usual."));
    let said = simulate(&["--policy", scratch.write("gate.yaml", "upstream: 3\n").to_str().unwrap()]);
    assert_eq!(said.status, Some(2));
    assert!(said.err.contains("gate.yaml:1:11: upstream: "), "{}", said.err);
}
