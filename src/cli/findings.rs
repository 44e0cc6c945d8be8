//! What `check` finds: lines of OK, WARN and FAIL.

use serde::Serialize;

use super::output;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Status {
    #[serde(rename = "OK")]
    Ok,
    #[serde(rename = "WARN")]
    Warn,
    #[serde(rename = "FAIL")]
    Fail,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    status: Status,
    detail: String,
    hint: Option<String>,
}

/// Collects the lines in the order in which they were found out.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Findings {
    lines: Vec<Line>,
}

impl Findings {
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        status: Status,
        detail: impl Into<String>,
        hint: Option<&str>,
    ) {
        self.lines.push(Line { name, status, detail: detail.into(), hint: hint.map(str::to_owned) });
    }

    pub(crate) fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Status::Ok, detail, None);
    }

    pub(crate) fn warn(&mut self, name: &'static str, detail: impl Into<String>, hint: &str) {
        self.add(name, Status::Warn, detail, Some(hint));
    }

    pub(crate) fn error(&mut self, name: &'static str, status: Status, error: &Error) {
        self.add(name, status, error.to_string(), error.hint_text());
    }

    /// Note what came out; the value if it is good.
    pub(crate) fn result<T>(
        &mut self,
        name: &'static str,
        result: Result<T>,
        detail: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.ok(name, detail(&value));
                Some(value)
            }
            Err(error) => {
                self.error(name, Status::Fail, &error);
                None
            }
        }
    }

    /// Note a condition that must hold.
    pub(crate) fn must(&mut self, name: &'static str, holds: bool, detail: impl Into<String>, hint: &str) {
        let status = if holds { Status::Ok } else { Status::Fail };
        self.add(name, status, detail, (!holds).then_some(hint));
    }

    /// Whether a line says this already.
    pub(crate) fn tells(&self, detail: &str) -> bool {
        self.lines.iter().any(|line| line.detail == detail)
    }

    pub(crate) fn failed(&self) -> bool {
        self.lines.iter().any(|line| line.status == Status::Fail)
    }

    pub(crate) fn print(&self) -> Result<()> {
        for line in &self.lines {
            let status = match line.status {
                Status::Ok => "OK  ",
                Status::Warn => "WARN",
                Status::Fail => "FAIL",
            };
            output::line(format!("{status}  {:<18}{}", line.name, line.detail))?;
            if let Some(hint) = &line.hint {
                output::line(format!("      {:<18}hint: {hint}", ""))?;
            }
        }
        Ok(())
    }
}
