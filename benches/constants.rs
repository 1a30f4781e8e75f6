//! Why each constant is what it is: what the simulation comes to with half and with twice of it.
//!
//! The source tree is copied to `target/constants`, and there one line is edited at a time. `constants/list.yaml` says which constants,
//! what each is for, and which figures of which scenarios show it. A constant that is listed is found exactly once in its file, and one
//! that stands there is listed: else it ends with status 1, measures nothing and names it.
//!
//! Runs are compared by seed. A figure differs if the mean difference is beyond what it is at 95 % by Student's t, and beyond what anyone
//! would notice ([`FIGURES`]). Nothing is said of constants that are wrong together.
//!
//! ```text
//! cargo bench --bench constants                          # all, an hour and more while others use the machine
//! cargo bench --bench constants -- --only SETTLE
//! cargo bench --bench constants -- --file concurrency --seeds 10
//! cargo bench --bench constants -- --list
//! cargo bench --bench constants -- --smoke               # does it run at all? a minute
//! ```
#![expect(clippy::print_stdout, reason = "its output is the table")]

#[path = "constants/figures.rs"]
mod figures;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde::Deserialize;
use tidegate::simulate::scenario;

use figures::{Differs, FIGURES, Figure, Found, Run};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut files: Vec<File> = serde_yaml::from_str(include_str!("constants/list.yaml"))?;
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    files.iter().try_for_each(|file| file.check(tree))?;
    files.retain(|file| arguments.file.is_empty() || arguments.file.iter().any(|part| file.file.contains(part)));
    for file in &mut files {
        file.constants.retain(|constant| arguments.only.is_empty() || arguments.only.contains(&constant.name));
    }
    ensure!(files.iter().any(|file| !file.constants.is_empty()), "no such constant is listed");
    if arguments.list {
        for (file, constant) in each(&files) {
            println!("{} {}: {}", file.file, constant.name, constant.about);
        }
    } else if arguments.smoke {
        let constant = Constant { shows: vec![SMOKE.to_owned()], values: vec![], ..files.remove(0).constants.remove(0) };
        sweep(&[File { file: "src/rules/controller.rs".to_owned(), constants: vec![constant] }], 2)?;
    } else if arguments.bench {
        sweep(&files, arguments.seeds)?;
    } else {
        // `cargo test --all-targets` runs every target: an hour of simulation is not a test
        println!("run me with `cargo bench --bench constants`");
    }
    Ok(())
}

#[derive(Parser)]
struct Arguments {
    /// One constant and one short scenario, only to see that everything runs.
    #[arg(long)]
    smoke: bool,
    /// A constant; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only those of files with this in their path; may be given several times.
    #[arg(long)]
    file: Vec<String>,
    /// How many runs of each, with different randomness.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=1000))]
    seeds: u64,
    /// Name the constants and what they are for, and run nothing.
    #[arg(long)]
    list: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A file of the list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    file: String,
    constants: Vec<Constant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Constant {
    name: String,
    #[serde(rename = "for")]
    about: String,
    /// In place of half and twice.
    #[serde(default)]
    values: Vec<String>,
    /// Each a scenario and figures of it.
    #[serde(default)]
    shows: Vec<String>,
    why_not: Option<String>,
}

impl File {
    /// All that it lists is there, and all that is there is listed.
    fn check(&self, tree: &Path) -> anyhow::Result<()> {
        let text = fs::read_to_string(tree.join(&self.file))?;
        for constant in &self.constants {
            let Constant { name, shows, why_not, .. } = constant;
            constant.find(&text).with_context(|| self.file.clone())?;
            ensure!(shows.is_empty() == why_not.is_some(), "{}: {name} is measured, or it is said why it is not", self.file);
            for figure in shows.iter().flat_map(|show| show.split(' ').skip(1)) {
                ensure!(FIGURES.iter().any(|known| known.name == figure), "{}: {name}: there is no figure {figure:?}", self.file);
            }
        }
        match text.lines().filter_map(declared).find(|name| self.constants.iter().all(|constant| constant.name != *name)) {
            Some(name) => bail!("{}: {name} is not in constants/list.yaml", self.file),
            None => Ok(()),
        }
    }
}

impl Constant {
    /// Its line, its type and its value.
    fn find<'t>(&self, text: &'t str) -> anyhow::Result<(&'t str, &'t str, &'t str)> {
        let mut lines = text.lines().filter(|line| declared(line) == Some(&self.name));
        let (Some(line), None) = (lines.next(), lines.next()) else { bail!("{} is not there exactly once", self.name) };
        let (_, rest) = line.split_once(": ").context("a constant without a type")?;
        let (kind, value) = rest.strip_suffix(';').and_then(|rest| rest.split_once(" = ")).context("its value is not on its line")?;
        Ok((line, kind, value))
    }

    /// What it is tried with: a word for the table, and the text in place of its value.
    fn others(&self, kind: &str, value: &str) -> Vec<(String, String)> {
        if !self.values.is_empty() {
            return self.values.iter().map(|other| (other.clone(), other.clone())).collect();
        }
        let (half, twice) = match kind {
            "Duration" => (format!("Duration::from_millis(({value}).as_millis() as u64 / 2)"), format!("({value}).saturating_mul(2)")),
            _ => (
                format!("({value}) / 2{}", if kind == "f64" { ".0" } else { "" }),
                format!("2{} * ({value})", if kind == "f64" { ".0" } else { "" }),
            ),
        };
        vec![("half".to_owned(), half), ("twice".to_owned(), twice)]
    }

    /// Its scenarios.
    fn scenarios(&self) -> impl Iterator<Item = &str> {
        self.shows.iter().filter_map(|show| show.split(' ').next())
    }

    /// Its figures, each with its scenario.
    fn figures(&self) -> impl Iterator<Item = (&str, &'static Figure)> {
        self.shows.iter().flat_map(|show| {
            let (scenario, figures) = show.split_once(' ').unwrap_or((show, ""));
            figures
                .split(' ')
                .flat_map(move |name| FIGURES.iter().filter(move |figure| figure.name == name).map(move |figure| (scenario, figure)))
        })
    }
}

/// The name of a constant of the file itself, and not of a test or a type, if this is its line.
fn declared(line: &str) -> Option<&str> {
    let line = ["pub ", "pub(super) "].iter().find_map(|visible| line.strip_prefix(visible)).unwrap_or(line);
    let (name, _) = line.strip_prefix("const ")?.split_once(": ")?;
    // `const fn` is none
    (!name.contains(' ')).then_some(name)
}

fn each(files: &[File]) -> impl Iterator<Item = (&File, &Constant)> {
    files.iter().flat_map(|file| file.constants.iter().map(move |constant| (file, constant)))
}

fn sweep(files: &[File], seeds: u64) -> anyhow::Result<()> {
    let copy = Copy::make(seeds)?;
    let committed = copy.run(each(files).flat_map(|(_, constant)| constant.scenarios()))?;
    println!("{HEADING}");
    for (File { file, .. }, constant) in each(files) {
        let Constant { name, about, why_not, .. } = constant;
        let path = copy.path.join(file);
        let text = fs::read_to_string(&path)?;
        let (line, kind, value) = constant.find(&text)?;
        let shown: Vec<String> = constant.figures().map(|(scenario, figure)| figure.shown(scenario, &committed)).collect();
        println!("| `{name}`: {about} | {value} | {} |  |", why_not.clone().unwrap_or_else(|| shown.join(", ")));
        let mut neighbours = Vec::new();
        for (word, other) in constant.others(kind, value).into_iter().filter(|_| why_not.is_none()) {
            fs::write(&path, text.replacen(line, &line.replacen(&format!(" = {value};"), &format!(" = {other};"), 1), 1))?;
            let found = copy.run(constant.scenarios());
            fs::write(&path, &text)?;
            let found = found.with_context(|| format!("{name} = {other}"))?;
            let compared = constant.figures().map(|(scenario, figure)| figure.compare(scenario, &committed, &found));
            let (differ, cells): (Vec<Differs>, Vec<String>) = compared.unzip();
            println!("| | {word} | {} | {} |", cells.join(", "), Differs::all(&differ).name());
            neighbours.push(Differs::all(&differ));
        }
        if why_not.is_none() {
            println!("| | | `{name}` is | **{}** |", Differs::committed(&neighbours));
        }
    }
    Ok(())
}

/// The copy of the source tree.
struct Copy {
    path: PathBuf,
    target: PathBuf,
    seeds: u64,
}

impl Copy {
    fn make(seeds: u64) -> anyhow::Result<Self> {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        // target/release/deps/constants-…
        let target = std::env::current_exe()?.ancestors().nth(3).context("no target directory")?.to_owned();
        let path = target.join("constants");
        fs::create_dir_all(&path)?;
        for part in ["Cargo.toml", "Cargo.lock", "src", "benches", "tests"] {
            copy(&tree.join(part), &path.join(part))?;
        }
        let manifest = fs::read_to_string(tree.join("Cargo.toml"))?;
        // the binary of the tree itself stays as it is; what both depend on is built once
        let manifest =
            manifest.replace("name = \"tidegate\"\npath = \"src/main.rs\"", &format!("name = \"{BINARY}\"\npath = \"src/main.rs\""));
        write(
            &path.join("Cargo.toml"),
            format!("{manifest}\n[profile.release.package.tidegate]\ncodegen-units = 256\ndebug = false\n").as_bytes(),
        )?;
        let scenarios = format!("{}\n{}", scenario::BUILT_IN, include_str!("constants/scenarios.yaml"));
        fs::write(path.join("scenarios.yaml"), scenarios)?;
        Ok(Self { path, target, seeds })
    }

    /// Builds it as it is now, and runs these scenarios.
    fn run<'a>(&self, scenarios: impl Iterator<Item = &'a str>) -> anyhow::Result<Found> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--quiet", "--bin", BINARY, "--target-dir"]).arg(&self.target).current_dir(&self.path);
        cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_INCREMENTAL", "true");
        ensure!(cargo.status()?.success(), "it can't be built");
        let (auto, told): (Vec<&str>, Vec<&str>) = scenarios.partition(|scenario| scenario.starts_with(AUTO));
        let mut found = Found::new();
        for (names, slots) in [(told, None), (auto, Some("auto"))] {
            if names.is_empty() {
                continue;
            }
            let json = self.path.join("found.json");
            let mut simulate = Command::new(self.target.join("release").join(BINARY));
            simulate.args(["simulate", "--scenarios"]).arg(self.path.join("scenarios.yaml")).arg("--json").arg(&json);
            simulate.args(["--seeds", &self.seeds.to_string()]).args(slots.iter().flat_map(|slots| ["--slots", slots]));
            simulate.args(names.iter().flat_map(|name| ["--only", name.trim_start_matches(AUTO)]));
            // what does not come out as expected is what is looked for
            let status = simulate.stdout(Stdio::null()).status()?;
            ensure!(matches!(status.code(), Some(0 | 1)), "{names:?}: {status}");
            let runs: Vec<Run> = serde_json::from_slice(&fs::read(&json)?)?;
            for run in &runs {
                let scenario = format!("{}{}", slots.map_or("", |_| AUTO), run.scenario);
                for figure in FIGURES {
                    found.entry((scenario.clone(), figure.name)).or_default().push(figure.read(run));
                }
            }
        }
        Ok(found)
    }
}

/// Files that are the same are left alone, so that little is built anew.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if to.ends_with("constants/Cargo.toml") { Ok(()) } else { write(to, &fs::read(from)?) }
}

fn write(to: &Path, content: &[u8]) -> anyhow::Result<()> {
    if fs::read(to).ok().as_deref() != Some(content) {
        fs::write(to, content)?;
    }
    Ok(())
}

/// In front of a scenario: the gate is not told the number of workers.
const AUTO: &str = "auto:";

const BINARY: &str = "tidegate-constants";

/// The shortest that has a crowd.
const SMOKE: &str = "tiny goodput";

/// Of the committed value its figures, means over the seeds; of others the mean difference from it and its standard error, bold if it is
/// one. *same*: to the last digit. The last line of each says what the committed value is: *best*, all others are worse; *bound*, one is
/// worse and the rest within noise; *trade*, one is better in one figure and worse in another; *noise*; *worse*, one is better; *idle*, it makes no
/// difference at all.
const HEADING: &str = "\
| constant | value | figures | |
|---|---|---|---|";
