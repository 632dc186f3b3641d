//! `crates/README.md` is the map of the house, and a map that is wrong is worse than none.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates that everybody may use.
const EVERYBODYS: [&str; 2] = ["proto-events", "failpoints"];
/// Crates that whoever uses a crate of the right-hand column needs to speak with it.
const COMMON: [&str; 2] = ["proto-events", "projection"];

#[test]
fn the_house_is_built_as_its_map_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let map = fs::read_to_string(root.join("crates/README.md")).unwrap();
    let rows: Vec<Vec<&str>> = map
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|row| row.split(" | ").collect())
        .collect();

    let ours = fs::read_dir(root.join("crates")).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let ours: BTreeSet<String> = ours.map(|entry| entry.file_name().into_string().unwrap()).collect();
    for name in &ours {
        let row = rows.iter().find(|row| row[0] == format!("`crates/{name}/`"));
        let may_use = row.unwrap_or_else(|| panic!("crates/{name} is not on the map"))[2];
        for used in dependencies(&root.join("crates").join(name), &ours) {
            // The fold depends on nothing but the contract; for all others it is a common language.
            let common = COMMON.contains(&used.as_str()) && name != "event-log" && name != "sources";
            assert!(
                may_use == "all" || may_use.contains(&used) || common || EVERYBODYS.contains(&used.as_str()),
                "{name} uses {used}, but may use {may_use}"
            );
        }
    }

    let mut sources = String::new();
    for folder in ["crates", "proto-events", "tests"] {
        read_sources(&root.join(folder), &mut sources);
    }
    let invariants = rows.iter().filter(|row| row.len() == 2 && row[1].starts_with('`'));
    let tests: Vec<&str> = invariants.flat_map(|row| row[1].split(", ")).map(|name| name.trim_matches('`')).collect();
    assert!(tests.len() > 25, "the table of invariants was not found");
    for test in tests {
        assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
    }
}

/// The crates of this workspace that a crate is built with.
fn dependencies(folder: &Path, ours: &BTreeSet<String>) -> Vec<String> {
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap().to_owned();
    let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| ours.contains(*name) || *name == "proto-events").map(str::to_owned).collect()
}

fn read_sources(folder: &Path, text: &mut String) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read_sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
