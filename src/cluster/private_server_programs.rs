//! PostgreSQL's own programs on this host, of the major version that a restored cluster needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::version::major_of;
use crate::error::{Error, Result};
use crate::postgres::Major;

/// The programs of one installed PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPrograms {
    directory: PathBuf,
    /// As `postgres --version` says it.
    pub version: String,
}

impl ServerPrograms {
    /// The PostgreSQL of this major version: on `PATH`, or where Debian and Red Hat put it.
    pub fn find(major: Major) -> Result<Self> {
        let number = major.get();
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let usual = [
            format!("/usr/lib/postgresql/{number}/bin"),
            format!("/usr/pgsql-{number}/bin"),
            format!("/usr/libexec/postgresql{number}"),
            "/usr/local/pgsql/bin".to_owned(),
            "/usr/local/bin".to_owned(),
        ];
        let places = std::env::split_paths(&on_path).chain(usual.into_iter().map(PathBuf::from));
        let found = places.into_iter().find_map(|directory| Self::at(&directory, major));
        found.ok_or_else(|| {
            Error::impossible(format!("PostgreSQL {number} is not installed on this host")).hint(format!(
                "install its server, such as the package postgresql-{number}, or put its bin directory on PATH"
            ))
        })
    }

    fn at(directory: &Path, major: Major) -> Option<Self> {
        // What is on `PATH` may be a link, with the other programs beside the file itself (as find_my_exec() has it).
        let postgres = directory.join("postgres").canonicalize().ok()?;
        let directory = postgres.parent()?.to_owned();
        let output = Command::new(postgres).arg("--version").stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"
        let version = text.split_whitespace().nth(2)?.to_owned();
        (major_of(&version).ok()? == major).then_some(Self { directory, version })
    }

    /// The path of one of them.
    pub fn path(&self, program: &str) -> PathBuf {
        self.directory.join(program)
    }

    /// To start one of them, without what the environment says to libpq and to servers: it could name another server.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        command
    }

    /// One of them that this host must have for what was asked.
    pub fn require(&self, program: &str, hint: &str) -> Result<PathBuf> {
        let path = self.path(program);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::impossible(format!("{} is not installed", Path::new(&path).display())).hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn programs_are_looked_for_beside_the_server_that_a_link_leads_to() {
        let root = tempfile::tempdir().unwrap();
        let (real, links) = (root.path().join("real"), root.path().join("links"));
        for directory in [&real, &links] {
            std::fs::create_dir(directory).unwrap();
        }
        let postgres = real.join("postgres");
        std::fs::write(&postgres, "#!/bin/sh\necho 'postgres (PostgreSQL) 15.14 (Debian)'\n").unwrap();
        std::fs::set_permissions(&postgres, std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&postgres, links.join("postgres")).unwrap();
        let major = Major::from_wal_magic(0xD110).unwrap();
        let found = ServerPrograms::at(&links, major).unwrap();
        assert_eq!(found.path("pg_amcheck"), real.canonicalize().unwrap().join("pg_amcheck"));
        assert_eq!(found.version, "15.14");
    }
}
