//! Problems as they are found.

use crate::problem::{Code, Problem, Severity, Trouble};

/// Problems in the order in which they were found.
pub(super) struct Found(pub(super) Vec<Problem>);

impl Found {
    pub(super) fn add(
        &mut self,
        severity: Severity,
        code: Code,
        text: impl Into<String>,
        hint: Option<&str>,
    ) {
        self.0.push(Problem { code, severity, text: text.into(), hint: hint.map(str::to_owned) });
    }

    pub(super) fn critical(&mut self, code: Code, text: impl Into<String>, hint: &str) {
        self.add(Severity::Critical, code, text, Some(hint));
    }

    pub(super) fn warning(&mut self, code: Code, text: impl Into<String>, hint: &str) {
        self.add(Severity::Warning, code, text, Some(hint));
    }

    pub(super) fn trouble(
        &mut self,
        severity: Severity,
        prefix: &str,
        trouble: &Trouble,
        hint: Option<&str>,
    ) {
        let text = format!("{prefix}{}", trouble.text);
        self.add(severity, trouble.code, text, trouble.hint.as_deref().or(hint));
    }
}
