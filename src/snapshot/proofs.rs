//! What proves that a restore works: verifications and drills.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::postgres::PgTime;

/// The last verification of a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyLine {
    /// `listing` or `content`.
    pub level: String,
    /// When it ended.
    pub finished_at: PgTime,
    /// When the last one ended that found no problem.
    pub last_success_at: Option<PgTime>,
    /// How many it found.
    pub problems: u64,
    /// Objects that a budget left for the next run.
    pub left: u64,
    /// By content: the earliest time at which anything stored and sound was last opened, or put.
    #[serde(default)]
    pub oldest: Option<PgTime>,
    /// By content: from when to when any instant can be restored with nothing but what was opened within the window.
    #[serde(default)]
    pub covered: Vec<(PgTime, PgTime)>,
    /// The first problem.
    pub first: Option<String>,
    /// What a restore loses by that.
    pub loses: Option<String>,
}

/// Verifications, as their results in the repository tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Verifications {
    /// One for each level that was made.
    pub verifications: Vec<VerifyLine>,
    /// Whether they were read: else there may be others.
    pub verifications_read: bool,
}

/// A drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillLine {
    /// Its id.
    pub id: String,
    /// When it began.
    pub started_at: PgTime,
    /// pass, fail or inconclusive.
    pub verdict: String,
    /// Where it restored to.
    pub target: String,
    /// From the command's start to the end of the last check.
    pub rto_seconds: f64,
    /// Age of the last commit when it began, where the newest state was asked for.
    pub rpo_seconds: Option<f64>,
    /// Seconds by phase.
    pub phases: BTreeMap<String, f64>,
    /// What it was thought to take.
    pub estimate_seconds: Option<f64>,
    /// Why it did not pass.
    pub reasons: Vec<String>,
}

/// Drills, as their reports in the repository tell.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Drills {
    /// The last ones, oldest first.
    pub drills: Vec<DrillLine>,
    /// How many there are of each verdict.
    pub drill_counts: Vec<(String, u64)>,
    /// When the last one began that passed.
    pub drill_passed_at: Option<PgTime>,
    /// How long one is overdue, since the repository was made if none counts yet; `None` while that is not known.
    pub drill_overdue_seconds: Option<f64>,
    /// How often a drill was promised, by the last one that counts, else by the configuration at hand.
    pub drill_every_seconds: Option<f64>,
}
