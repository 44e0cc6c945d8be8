//! What a drill found: a value. Its verdict follows from its checks.

use serde::{Deserialize, Serialize};

use crate::postgres::{Lsn, PgTime, TimelineId};

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckVerdict {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// Neither can be said.
    CouldNotVerify,
    /// Nobody asked for it, or it has no meaning here.
    Skipped,
}

/// What came of a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The restore is good.
    Pass,
    /// It is not.
    Fail,
    /// Neither could be said: this was no drill.
    Inconclusive,
}

impl Verdict {
    /// As reports, metrics and pages name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// Every verdict.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Fail, Self::Inconclusive];

    /// The exit code of `drill`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Fail => 1,
            Self::Inconclusive => 10,
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What came of it.
    pub verdict: CheckVerdict,
    /// In words.
    pub detail: String,
    /// How long it took.
    pub seconds: f64,
}

/// Seconds by phase. They add up to the RTO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Which backup and which WAL.
    pub lookup: f64,
    /// The backup's data.
    pub fetch: f64,
    /// WAL, up to the target.
    pub replay: f64,
    /// The first connections, and making the databases safe to ask.
    pub open: f64,
    /// Everything that is checked.
    pub checks: f64,
}

impl Phases {
    /// By name, in order.
    pub const fn all(&self) -> [(&'static str, f64); 5] {
        [
            ("lookup", self.lookup),
            ("fetch", self.fetch),
            ("replay", self.replay),
            ("open", self.open),
            ("checks", self.checks),
        ]
    }

    /// All of them.
    pub fn total(&self) -> f64 {
        self.all().iter().map(|(_, seconds)| seconds).sum()
    }
}

/// What was promised, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objectives {
    /// How much may be lost.
    pub rpo_seconds: f64,
    /// How long a restore may take.
    pub rto_seconds: f64,
    /// How often a drill was promised.
    pub every_seconds: f64,
}

/// With what it was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// This program.
    pub walproof: String,
    /// The server that recovered.
    pub postgresql: String,
    /// The server that the backup was taken of.
    pub backup_postgresql: String,
}

/// A drill's report, or a note on one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// What a drill found.
    Drill(Box<Report>),
    /// What was done about it.
    Note(Note),
}

/// What was done about a failed drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The drill's id.
    pub drill: String,
    /// What was done.
    pub text: String,
    /// When that was written down.
    pub at: PgTime,
    /// By whom.
    pub by: String,
}

/// The report of a drill. The fields that scripts may rely on are in the README.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Its id: when it began, and a few random digits.
    pub id: String,
    /// The cluster's name.
    pub cluster: String,
    /// A decimal text, since JSON numbers lose digits.
    pub system_identifier: String,
    /// When it began, by the clock of the host that ran it.
    pub started_at: PgTime,
    /// When its last check ended.
    pub finished_at: PgTime,
    /// Who ran it, from where.
    pub ran_by: String,
    /// In words.
    pub target: String,
    /// Why this target: "latest", "given", or what was drawn with which seed.
    pub target_choice: String,
    /// The backup that it began from.
    pub backup: Option<String>,
    /// SHA-256 of its manifest as JSON.
    pub backup_digest: Option<String>,
    /// The timeline that it followed.
    pub timeline: Option<TimelineId>,
    /// The branch that leads on from there.
    pub branch: Option<TimelineId>,
    /// The end of the last record that was replayed.
    pub reached_lsn: Option<Lsn>,
    /// The last commit that was replayed.
    pub reached_time: Option<PgTime>,
    /// Age of the last commit when the drill began, where the newest state was asked for.
    pub rpo_seconds: Option<f64>,
    /// From the command's start to the end of the last check.
    pub rto_seconds: f64,
    /// The same by phase.
    pub phases: Phases,
    /// Bytes of data that were restored.
    pub bytes: u64,
    /// Segments that were replayed.
    pub wal_segments: u64,
    /// Everything that was checked.
    pub checks: Vec<Check>,
    /// What was promised.
    pub objectives: Objectives,
    /// What it would take, by the drills before.
    pub estimate_seconds: Option<f64>,
    /// What came of it.
    pub verdict: Verdict,
    /// Why it is not pass.
    pub reasons: Vec<String>,
    /// With what.
    pub versions: Versions,
    /// How the rehearsal was kept apart from production.
    pub isolation: Vec<String>,
}

/// Verdict and reasons of these checks.
pub fn judge(checks: &[Check]) -> (Verdict, Vec<String>) {
    let told = |verdict| {
        let of = checks.iter().filter(move |check| check.verdict == verdict);
        of.map(|check| format!("{}: {}", check.name, check.detail)).collect::<Vec<_>>()
    };
    let (failed, unknown) = (told(CheckVerdict::Fail), told(CheckVerdict::CouldNotVerify));
    let verdict = match (failed.is_empty(), unknown.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, false) => Verdict::Inconclusive,
        (true, true) => Verdict::Pass,
    };
    (verdict, [failed, unknown].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    use CheckVerdict::{CouldNotVerify, Fail, Pass, Skipped};

    #[test]
    fn a_failure_weighs_more_than_what_could_not_be_verified() {
        let check = |verdict| Check { name: "a".into(), verdict, detail: "b".into(), seconds: 0.0 };
        for (verdicts, expected) in [
            (vec![Pass, Skipped], Verdict::Pass),
            (vec![], Verdict::Pass),
            (vec![Pass, CouldNotVerify], Verdict::Inconclusive),
            (vec![CouldNotVerify, Fail, Pass], Verdict::Fail),
        ] {
            let checks: Vec<Check> = verdicts.iter().map(|verdict| check(*verdict)).collect();
            let (verdict, reasons) = judge(&checks);
            assert_eq!(verdict, expected);
            assert_eq!(reasons.is_empty(), expected == Verdict::Pass);
        }
    }
}
