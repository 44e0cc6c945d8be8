//! `[drill]`: how restores are rehearsed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::units::duration;
use crate::error::{Error, Result, ResultExt};

/// `[drill]`.
#[derive(Debug, Clone)]
pub struct DrillConfig {
    /// Where restores are rehearsed.
    pub directory: PathBuf,
    /// Which point to restore to.
    pub target: DrillTarget,
    /// How often a drill was promised.
    pub every: Duration,
    /// Signs reports.
    pub signing_key_file: Option<PathBuf>,
    /// Whether every table and index is checked.
    pub amcheck: bool,
    /// Questions that a good restore answers with true.
    pub queries: Vec<DrillQuery>,
}

/// Which point of the recovery window a drill restores to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrillTarget {
    /// Any.
    Random,
    /// The newest.
    Latest,
}

/// A question that a good restore answers with one row, one column, true.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillQuery {
    /// Names it in reports.
    pub name: String,
    /// Where it is asked.
    pub database: String,
    /// What is asked.
    pub sql: String,
    /// Runs as this role; by default one that may read and no more.
    pub role: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    directory: PathBuf,
    target: String,
    every: String,
    signing_key_file: Option<PathBuf>,
    amcheck: bool,
    query: Vec<DrillQuery>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            directory: "/var/lib/walproof/staging".into(),
            target: "random".to_owned(),
            every: "31d".to_owned(),
            signing_key_file: None,
            amcheck: true,
            query: Vec::new(),
        }
    }
}

impl Raw {
    pub(super) fn check(self) -> Result<DrillConfig> {
        let target = match self.target.as_str() {
            "random" => DrillTarget::Random,
            "latest" => DrillTarget::Latest,
            other => {
                return Err(
                    Error::usage(format!("drill.target is \"{other}\"")).hint("use \"random\" or \"latest\"")
                );
            }
        };
        if !self.directory.is_absolute() {
            return Err(Error::usage(format!(
                "drill.directory \"{}\" is not absolute",
                self.directory.display()
            )));
        }
        let every = duration(&self.every).context("drill.every")?;
        if every.is_zero() {
            return Err(
                Error::usage("drill.every is 0").hint("how often were drills promised? such as \"31d\"")
            );
        }
        check_queries(&self.query)?;
        Ok(DrillConfig {
            directory: self.directory,
            target,
            every,
            signing_key_file: self.signing_key_file,
            amcheck: self.amcheck,
            queries: self.query,
        })
    }
}

fn check_queries(queries: &[DrillQuery]) -> Result<()> {
    let mut names = BTreeSet::new();
    for query in queries {
        let DrillQuery { name, database, sql, role } = query;
        if !names.insert(name) {
            return Err(Error::usage(format!("two entries of drill.query have the name \"{name}\"")));
        }
        let texts = [("name", name), ("database", database), ("sql", sql)];
        let texts = texts.into_iter().chain(role.iter().map(|role| ("role", role)));
        for (key, text) in texts {
            if text.trim().is_empty() {
                return Err(Error::usage(format!("drill.query \"{name}\": {key} is empty")));
            }
        }
    }
    Ok(())
}
