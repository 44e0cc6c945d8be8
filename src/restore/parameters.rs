//! Whether the settings that the restored server will find let it recover: with less of some of them than the primary
//! had, PostgreSQL aborts recovery (R19, CheckRequiredParameterValues).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::plan::Plan;
use crate::cluster::DataDir;
use crate::error::Result;
use crate::postgres::ControlFile;

/// Files that include one another deeper than this are not followed (CONF_FILE_MAX_DEPTH).
const DEEPEST: u32 = 10;

/// The parameters that are lower than the primary's, each in words. What the command line will set is not known.
pub fn too_low(plan: &Plan) -> Result<Vec<String>> {
    let control = DataDir::open(&plan.to)?.control()?;
    let Some(main) = main_file(plan) else { return Ok(Vec::new()) };
    let mut settings = Settings::default();
    settings.read(&main, 0);
    settings.read(&plan.to.join("postgresql.auto.conf"), 0);
    Ok(settings.too_low(&control, &main))
}

/// postgresql.conf: in the data directory, or where it lay outside of it, if it is there on this host.
fn main_file(plan: &Plan) -> Option<PathBuf> {
    let outside = plan.backup.outside_files.iter().map(|file| file.path.as_path().to_owned());
    let outside = outside.filter(|path| path.file_name().is_some_and(|name| name == "postgresql.conf"));
    std::iter::once(plan.to.join("postgresql.conf")).chain(outside).find(|path| path.is_file())
}

/// Settings by lower-case name: value, and the file that sets it.
#[derive(Debug, Default)]
struct Settings(BTreeMap<String, (String, PathBuf)>);

impl Settings {
    /// A file that cannot be read changes nothing: it is the server that will complain.
    fn read(&mut self, path: &Path, depth: u32) {
        let Ok(bytes) = std::fs::read(path) else { return };
        if depth > DEEPEST {
            return;
        }
        let beside = path.parent().unwrap_or(Path::new("/"));
        for (name, value) in String::from_utf8_lossy(&bytes).lines().filter_map(setting) {
            match name.as_str() {
                "include" | "include_if_exists" => self.read(&beside.join(value), depth + 1),
                "include_dir" => self.read_directory(&beside.join(value), depth + 1),
                _ => drop(self.0.insert(name, (value, path.to_owned()))),
            }
        }
    }

    fn read_directory(&mut self, path: &Path, depth: u32) {
        let Ok(entries) = std::fs::read_dir(path) else { return };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        let hidden = |file: &Path| file.file_name().is_none_or(|name| name.as_encoded_bytes()[0] == b'.');
        files.retain(|file| !hidden(file) && file.extension().is_some_and(|extension| extension == "conf"));
        files.sort();
        for file in &files {
            self.read(file, depth);
        }
    }

    fn too_low(&self, control: &ControlFile, main: &Path) -> Vec<String> {
        // With PostgreSQL's defaults.
        let required = [
            ("max_connections", control.max_connections, 100),
            ("max_worker_processes", control.max_worker_processes, 8),
            ("max_wal_senders", control.max_wal_senders, 10),
            ("max_prepared_transactions", control.max_prepared_transactions, 0),
            ("max_locks_per_transaction", control.max_locks_per_transaction, 64),
        ];
        let words = |(name, primary, default): (&str, u32, u32)| {
            let (value, place) = match self.0.get(name) {
                Some((value, file)) => (value.parse().ok()?, format!("in {}", file.display())),
                None => (default, format!("by default, because {} does not set it", main.display())),
            };
            (value < primary).then(|| {
                format!(
                    "{name} is {value} {place}, and the primary had {primary}: with less than that PostgreSQL \
                     aborts recovery"
                )
            })
        };
        required.into_iter().filter_map(words).collect()
    }
}

/// `name = value`, where the equals sign may be missing and the value be quoted (guc-file.l).
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| c.is_whitespace() || c == '=')?;
    let name = line[..end].to_ascii_lowercase();
    if name.is_empty() || name.starts_with('#') {
        return None;
    }
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next()?,
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?,
    };
    Some((name, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_setting_of_included_files_counts() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("postgresql.conf");
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(
            &main,
            "#max_wal_senders = 1\nMax_Connections=300 # many\nmax_worker_processes 4\n\
             include_dir = 'conf.d'\ninclude_if_exists 'absent'\n",
        )
        .unwrap();
        std::fs::write(dir.path().join("conf.d/b.conf"), "max_connections = '20'\n").unwrap();
        std::fs::write(dir.path().join("conf.d/a.conf"), "max_connections = 50\n").unwrap();
        std::fs::write(dir.path().join("conf.d/c.conf.old"), "max_connections = 7\n").unwrap();
        let mut settings = Settings::default();
        settings.read(&main, 0);
        assert_eq!(settings.0["max_connections"].0, "20");
        assert_eq!(settings.0["max_worker_processes"].0, "4");
        assert!(!settings.0.contains_key("max_wal_senders"));
        // PostgreSQL refuses a file that includes itself; here it must only end.
        std::fs::write(dir.path().join("conf.d/d.conf"), "include 'd.conf'\nwork_mem = 1\n").unwrap();
        settings.read(&main, 0);
        assert!(settings.0.contains_key("work_mem"));
    }

    #[test]
    fn lines_are_settings() {
        let is = |line: &str| setting(line).map(|(name, value)| format!("{name}|{value}"));
        assert_eq!(is("  A.b = 'c d' # e").as_deref(), Some("a.b|c d"));
        assert_eq!(is("x=1").as_deref(), Some("x|1"));
        assert_eq!(is("x 1 # 2").as_deref(), Some("x|1"));
        for nothing in ["", "  ", "# x = 1", "#x = 1", "x"] {
            assert_eq!(is(nothing), None, "{nothing}");
        }
    }
}
