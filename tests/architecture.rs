//! The house rules that a machine can check: folders are ranks, imports go down only, files stay one idea long.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms by rank, DESIGN 2. A room imports from lower ranks only.
const RANKS: [&[&str]; 16] = [
    &["postgres", "error"],
    &["disk", "encoding", "present", "wal", "problem"],
    &["seal", "store", "cluster"],
    &["format", "signing"],
    &["repository"],
    &["records", "arrivals", "digest_reader", "world"],
    &["catalog"],
    &["window", "snapshot"],
    &["archive", "backup", "restore", "retention", "rotation", "verify"],
    &["ledger"],
    &["archiver", "status", "drill"],
    &["daemon"],
    &["config"],
    &["cli"],
    &["commands"],
    &["lib", "main"],
];
/// Lines of the longest file.
const LONGEST: usize = 450;
/// Rooms that break the rule on circles, until they are rebuilt.
const CIRCULAR: [&str; 0] = [];
/// Lines of the largest room.
const LARGEST: usize = 3000;

fn rank(room: &str) -> usize {
    let found = RANKS.iter().position(|rooms| rooms.contains(&room));
    found.unwrap_or_else(|| panic!("src/{room} has no rank: add it to DESIGN 2, lib.rs and this test"))
}

/// Whether code in the room `from` may name something of the room `to`. Errors are everyone's.
fn may_import(from: &str, to: &str) -> bool {
    from == to || to == "error" || rank(to) < rank(from)
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

/// The files of one room and what they import of each other. What `mod.rs` re-exports belongs to the file that has it.
struct Room<'a> {
    files: BTreeMap<String, &'a Source>,
    /// A name that `mod.rs` re-exports, and the file that has it.
    exports: BTreeMap<String, String>,
}

impl<'a> Room<'a> {
    fn new(name: &str, sources: &'a [Source]) -> Self {
        let of_room = sources.iter().filter(|source| source.room == name && source.path.iter().count() > 1);
        let file = |source: &&Source| {
            let second = Path::new(source.path.iter().nth(1).unwrap()).with_extension("");
            second.to_str().unwrap().to_owned()
        };
        // Files of a folder inside the room are their unit tests.
        let files: BTreeMap<String, &Source> = of_room
            .filter(|source| source.path.iter().count() == 2)
            .map(|source| (file(&source), source))
            .collect();
        let mut room = Self { files, exports: BTreeMap::new() };
        let exported = room.files.get("mod").map(|root| uses(root, &["pub use ", "pub(crate) use "]));
        for path in exported.unwrap_or_default() {
            if let Some((file, item)) =
                path.split_once("::").filter(|(file, _)| room.files.contains_key(*file))
            {
                let item = item.split(" as ").next().unwrap();
                room.exports.insert(item.to_owned(), file.to_owned());
            }
        }
        room
    }

    /// The files of the room that `file` imports.
    fn imports(&self, file: &str, source: &Source) -> BTreeSet<String> {
        let prefix = format!("crate::{}::", source.room);
        let paths = uses(source, &["use ", "pub use ", "pub(super) use "]);
        let inside =
            paths.iter().filter_map(|path| path.strip_prefix("super::").or(path.strip_prefix(&prefix)));
        // A function may be called by its path.
        let named = source.code().flat_map(|(_, line)| {
            line.match_indices("super::")
                .map(|(at, start)| line[at + start.len()..].to_owned())
                .collect::<Vec<_>>()
        });
        let mut found = BTreeSet::new();
        for path in inside.map(ToString::to_string).chain(named) {
            let first: String = path.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let of =
                if self.files.contains_key(&first) { Some(first) } else { self.exports.get(&first).cloned() };
            found.extend(of.filter(|other| other != file));
        }
        found
    }

    /// A way along imports that comes back to where it began.
    fn circle(&self) -> Option<Vec<String>> {
        let imports: BTreeMap<&String, BTreeSet<String>> = self
            .files
            .iter()
            .filter(|(file, _)| *file != "mod")
            .map(|(file, source)| (file, self.imports(file, source)))
            .collect();
        let mut left: BTreeSet<&String> = imports.keys().copied().collect();
        // Files that import nothing that is left are in no circle.
        while let Some(free) =
            left.iter().find(|file| imports[**file].iter().all(|other| !left.contains(other)))
        {
            let free = *free;
            left.remove(free);
        }
        let mut way: Vec<String> = left.first().map(|first| vec![(*first).clone()])?;
        loop {
            let next =
                imports[way.last().unwrap()].iter().find(|other| left.contains(other)).unwrap().clone();
            if let Some(begin) = way.iter().position(|file| *file == next) {
                way.push(next);
                return Some(way.split_off(begin));
            }
            way.push(next);
        }
    }
}

/// The paths that the code of a file names in lines (or groups) that begin with one of `keywords`, groups spelt out.
fn uses(source: &Source, keywords: &[&str]) -> Vec<String> {
    let code: String = source.code().flat_map(|(_, line)| [line.trim(), "\n"]).collect();
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let statement = statement.rsplit("\n\n").next().unwrap_or_default().trim_start();
        let statement = statement.trim_start_matches(|c: char| c == '}' || c.is_whitespace());
        let Some(path) = keywords.iter().find_map(|keyword| statement.strip_prefix(keyword)) else {
            continue;
        };
        let path = path.replace('\n', " ");
        match path.split_once('{') {
            None => paths.push(path.trim().to_owned()),
            Some((stem, group)) => {
                // Nested groups are cut at their own stem, which is what counts here.
                let items = group.trim_end_matches([' ', '}']).split(',').map(str::trim);
                paths.extend(
                    items.filter(|item| !item.is_empty()).map(|item| format!("{}{item}", stem.trim())),
                );
            }
        }
    }
    paths
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
    for (from, to) in [("cli", "config"), ("store", "disk"), ("seal", "error"), ("drill", "verify")] {
        assert!(may_import(from, to), "{from} may import {to}");
    }
    for (from, to) in [
        ("repository", "config"),
        ("config", "cli"),
        ("archive", "backup"),
        ("seal", "store"),
        ("postgres", "cluster"),
        ("restore", "cli"),
        ("status", "archiver"),
        ("archiver", "status"),
    ] {
        assert!(!may_import(from, to), "{from} must not import {to}");
    }
}

#[test]
fn no_circle_inside_a_room() {
    let sources = sources();
    let rooms: BTreeSet<&str> = sources.iter().map(|source| source.room.as_str()).collect();
    let rooms = rooms.into_iter().filter(|room| !CIRCULAR.contains(room));
    let circles = rooms.filter_map(|name| {
        let circle = Room::new(name, &sources).circle()?;
        Some(format!("src/{name}: {}", circle.join(" -> ")))
    });
    assert_none("files of a room import each other in one direction", &circles.collect::<Vec<_>>());
}

#[test]
fn a_circle_is_seen() {
    let source = |path: &str, text: &str| Source {
        path: PathBuf::from(path),
        room: "room".to_owned(),
        text: text.to_owned(),
    };
    let circle = |texts: [&str; 3]| {
        let names = ["room/a.rs", "room/b.rs", "room/c.rs"];
        let mut sources: Vec<Source> =
            names.iter().zip(texts).map(|(name, text)| source(name, text)).collect();
        sources.push(source("room/mod.rs", "mod a;\nmod b;\nmod c;\n\npub use a::{Apple, Plum};\n"));
        Room::new("room", &sources).circle()
    };
    assert_eq!(circle(["use super::b::B;", "use super::c::{C, D};", "//! use super::a::A;"]), None);
    let way = |names: [&str; 3]| Some(names.map(str::to_owned).to_vec());
    assert_eq!(circle(["use super::b::B;", "use super::{\n    a::A,\n    c,\n};", ""]), way(["a", "b", "a"]));
    assert_eq!(circle(["use super::b;", "use crate::room::Plum;", ""]), way(["a", "b", "a"]));
    assert_eq!(circle(["", "fn f() { super::c::g() }", "use super::{x, b::B};"]), way(["b", "c", "b"]));
    assert_eq!(circle(["", "#[cfg(test)]\nuse super::c::C;", "use super::b::B;"]), None);
}

#[test]
fn rooms_are_small() {
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for source in sources() {
        *lines.entry(source.room).or_default() += source.text.lines().count();
    }
    let large = lines.into_iter().filter(|(_, count)| *count > LARGEST);
    let broken: Vec<String> = large.map(|(room, count)| format!("src/{room} has {count} lines")).collect();
    assert_none("a room has at most 3000 lines", &broken);
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
    // A module for tests may have modules of its own.
    let is_of_tests = |source: &&Source| {
        of_tests.iter().any(|test| source.path == *test || source.path.starts_with(test.with_extension("")))
    };
    for source in sources.iter().filter(|source| !is_of_tests(source)) {
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
