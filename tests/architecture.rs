//! The house rules that a machine can check: folders are ranks, imports go down only, files stay one idea long.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms by rank, DESIGN 2. A room imports from lower ranks only.
const RANKS: [&[&str]; 9] = [
    &["postgres", "error"],
    &["cluster"],
    &["seal", "store"],
    &["repository"],
    &["window"],
    &["archive", "backup", "restore", "retention", "verify"],
    &["drill"],
    &["daemon"],
    &["config", "cli", "lib", "main"],
];
/// Lines of the longest file.
const LONGEST: usize = 450;

fn rank(room: &str) -> usize {
    let found = RANKS.iter().position(|rooms| rooms.contains(&room));
    found.unwrap_or_else(|| panic!("src/{room} has no rank: add it to DESIGN 2, lib.rs and this test"))
}

/// Whether code in the room `from` may name something of the room `to`. Errors are everyone's; in the top rank,
/// commands read the configuration.
fn may_import(from: &str, to: &str) -> bool {
    from == to || to == "error" || rank(to) < rank(from) || (from, to) == ("cli", "config")
}

struct Source {
    /// Below `src`.
    path: PathBuf,
    room: String,
    text: String,
}

impl Source {
    fn read(src: &Path, file: &Path) -> Self {
        let path = file.strip_prefix(src).unwrap().to_owned();
        let room = Path::new(path.iter().next().unwrap()).with_extension("");
        Self { room: room.to_str().unwrap().to_owned(), text: fs::read_to_string(file).unwrap(), path }
    }

    /// The files that it declares as modules for tests only.
    fn test_modules(&self) -> Vec<PathBuf> {
        let is_mod = self.path.ends_with("mod.rs") || self.path.ends_with("lib.rs");
        let folder =
            if is_mod { self.path.parent().unwrap().to_owned() } else { self.path.with_extension("") };
        let lines: Vec<&str> = self.text.lines().collect();
        let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
        let names = pairs.filter_map(|pair| pair[1].split_once("mod ")?.1.strip_suffix(';'));
        names.map(|name| folder.join(name).with_extension("rs")).collect()
    }

    /// Lines outside comments and unit tests, with their numbers. Tests are the last thing in a file.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| *line != "#[cfg(test)]");
        lines
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(at, line)| (at + 1, line))
    }

    /// The rooms that it names as `crate::room`, tests included, and `use crate::{a::.., b::..}` as well.
    fn imports(&self) -> BTreeSet<(usize, String)> {
        let mut found = BTreeSet::new();
        for (at, line) in self.text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for (start, name) in line.match_indices("crate::") {
                let rest = &line[start + name.len()..];
                assert!(
                    !rest.starts_with('{') && !rest.is_empty(),
                    "{}:{}: name one room in a `use crate::` line, so that this test can read it",
                    self.path.display(),
                    at + 1
                );
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                found.insert((at + 1, rest[..end].to_owned()));
            }
        }
        found
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source::read(&root, &path));
            }
        }
    }
    assert!(found.len() > 50, "only {} files were found", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Fail with all that was found, not only the first.
fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn imports_go_down_only() {
    let mut broken = Vec::new();
    for source in sources() {
        for (line, room) in source.imports() {
            if !may_import(&source.room, &room) {
                broken.push(format!("src/{}:{line} names crate::{room}", source.path.display()));
            }
        }
    }
    assert_none("a room imports from lower ranks only", &broken);
}

#[test]
fn the_ranks_say_what_they_should() {
    for (from, to) in [("cli", "config"), ("store", "cluster"), ("seal", "error"), ("drill", "verify")] {
        assert!(may_import(from, to), "{from} may import {to}");
    }
    for (from, to) in [
        ("repository", "config"),
        ("config", "cli"),
        ("archive", "backup"),
        ("seal", "store"),
        ("postgres", "cluster"),
        ("restore", "cli"),
    ] {
        assert!(!may_import(from, to), "{from} must not import {to}");
    }
}

#[test]
fn files_are_short_and_folders_shallow() {
    let mut broken = Vec::new();
    for source in sources() {
        let (path, lines) = (source.path.display(), source.text.lines().count());
        if lines > LONGEST {
            broken.push(format!("src/{path} has {lines} lines, more than {LONGEST}"));
        }
        if source.path.iter().count() > 3 {
            broken.push(format!("src/{path} lies deeper than two folders"));
        }
    }
    assert_none("files are short and folders shallow", &broken);
}

#[test]
fn nothing_is_unwrapped_or_left_to_do_outside_tests() {
    let mut broken = Vec::new();
    let sources = sources();
    let of_tests: Vec<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources.iter().filter(|source| !of_tests.contains(&source.path)) {
        let path = source.path.display();
        for (line, code) in source.code() {
            let found = [".unwrap()", ".expect(", "panic!(", "unreachable!(", "unimplemented!("];
            if let Some(word) = found.into_iter().find(|word| code.contains(word)) {
                broken.push(format!("src/{path}:{line} has {word}"));
            }
        }
        for (at, line) in source.text.lines().enumerate() {
            let found = ["TODO", "FIXME", "XXX", "HACK", "todo!("];
            if let Some(word) = found.into_iter().find(|word| line.contains(word)) {
                broken.push(format!("src/{path}:{} has {word}", at + 1));
            }
        }
    }
    assert_none("no unwrap outside tests, nothing left to do", &broken);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut broken = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//! ") {
            broken.push(format!("src/{} does not begin with what it is for", source.path.display()));
        }
    }
    assert_none("every file says what it is for", &broken);
}
