//! What a verification finds.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::format::{BackupId, ObjectKey};

/// Something about one object, or about several that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its key, or the name of what is missing.
    pub object: String,
    /// What is wrong with it, or what is to be known.
    pub problem: String,
    /// What a restore loses by it.
    pub loses: String,
    /// What to do.
    pub advice: String,
}

/// All that was found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// What a restore would trip over.
    pub problems: Vec<Finding>,
    /// What costs space or attention, and no restore: the next expiry, or the next lease that is taken, removes it.
    pub remarks: Vec<Finding>,
    /// Backups that cannot be restored, with why: for their data, not for their WAL.
    pub(super) lost: BTreeMap<BackupId, String>,
    /// Objects that are to blame for that, with those that are lost by each.
    pub(super) blamed: BTreeMap<String, BTreeSet<BackupId>>,
    /// Objects that waited in vain for their key: of what is in them nothing is known here.
    pub(super) unopened: BTreeSet<String>,
    /// Segments that may be sound, and do not follow the WAL before them: a backup that begins in one leads on from it.
    pub(super) parted: BTreeSet<String>,
    named: BTreeSet<String>,
}

impl Findings {
    /// Note a problem; of one object only the first.
    pub(super) fn problem(
        &mut self,
        object: impl Into<String>,
        problem: impl Into<String>,
        loses: impl Into<String>,
        advice: impl Into<String>,
    ) {
        let object = object.into();
        if self.named.insert(object.clone()) {
            let (problem, loses, advice) = (problem.into(), loses.into(), advice.into());
            self.problems.push(Finding { object, problem, loses, advice });
        }
    }

    /// Note an object that cannot be opened or does not say what it should.
    pub(super) fn damaged(&mut self, object: impl Into<String>, error: &Error, loses: impl Into<String>) {
        let advice = error.hint_text().unwrap_or(RESTORE_OBJECT).to_owned();
        let object = object.into();
        self.of_object(&object, error);
        self.problem(object, error.to_string(), loses, advice);
    }

    /// Whether an error is the object's fault, or this host's.
    pub(super) fn of_object(&mut self, object: &str, error: &Error) {
        if error.kind() == Kind::KeyMissing {
            self.unopened.insert(object.to_owned());
        } else {
            self.parted.remove(object);
        }
    }

    pub(super) fn remark(&mut self, object: impl Into<String>, what: impl Into<String>, advice: &str) {
        self.remarks.push(Finding {
            object: object.into(),
            problem: what.into(),
            loses: "nothing".to_owned(),
            advice: advice.to_owned(),
        });
    }

    /// A backup cannot be restored, for the sake of an object.
    pub(super) fn loses(&mut self, id: &BackupId, object: &ObjectKey, why: &str) {
        self.blamed.entry(object.to_string()).or_default().insert(id.clone());
        self.lost.entry(id.clone()).or_insert_with(|| why.to_owned());
    }

    /// Keep the problems that `later` has as well: the others were an object that was being put, or deleted.
    pub(super) fn confirmed_by(self, later: Self) -> Self {
        let known: BTreeSet<(&str, &str)> =
            self.problems.iter().map(|found| (found.object.as_str(), found.problem.as_str())).collect();
        let mut confirmed = later;
        confirmed.problems.retain(|found| known.contains(&(found.object.as_str(), found.problem.as_str())));
        confirmed.lost.retain(|id, why| self.lost.get(id) == Some(why));
        confirmed
    }
}

/// Advice for an object that is gone or damaged.
pub(super) const RESTORE_OBJECT: &str =
    "bring the object back if the bucket keeps versions or there is a copy; otherwise take a new backup now";
