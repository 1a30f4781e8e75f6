//! What the README shows is what is there.

use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn the_policy_in_the_readme_is_the_example() {
    let readme = read("README.md");
    let block = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(block, read("gate.yaml"), "copy gate.yaml into README.md");
}

#[test]
fn every_picture_and_page_that_the_readme_names_exists() {
    let readme = read("README.md");
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists(), "{target}");
    }
}

#[test]
fn the_scenario_in_the_docs_is_one() {
    let docs = read("docs/simulation.md");
    let block = docs.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let scenarios = tidegate::simulate::scenario::parse(block, "docs/simulation.md").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(scenarios.len(), 1);
}

#[test]
fn every_reason_to_refuse_is_told_in_the_docs() {
    let docs = read("docs/operations.md");
    let told = docs.split("### What is refused, and why\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    for reason in tidegate::metrics::Refusal::ALL {
        assert!(told.contains(&format!("`{}`", reason.label())), "{}", reason.label());
    }
}
