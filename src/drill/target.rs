//! Where a drill restores to: what is asked for, or a random instant of the window, so that over
//! the years every corner of it comes up: its edges, the WAL that was just archived, and moments
//! between backups.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use crate::error::{Error, Kind, Result};
use crate::postgres::{Lsn, PgTime, RecoveryTarget};
use crate::window::{Branch, Chooser, Chosen, Wanted};

/// Draws until one serves.
const DRAWS: u64 = 16;

/// Numbers from a seed, the same on every host.
#[derive(Debug, Clone)]
pub(super) struct Chance(SplitMix64);

impl Chance {
    /// From `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self(SplitMix64::seed_from_u64(seed))
    }

    /// Below `limit`; 0 for 0.
    fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.0.next_u64() % limit }
    }
}

/// A target that was drawn, and from what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drawn {
    /// Where to.
    pub(super) target: RecoveryTarget,
    /// From which corner of the window.
    pub(super) corner: &'static str,
}

/// Draw one target on `branch`; `None` where no backup leads anywhere.
pub(super) fn draw(branch: &Branch, chance: &mut Chance) -> Option<Drawn> {
    let reaches = &branch.reaches;
    let count = u64::try_from(reaches.len()).ok().filter(|count| *count > 0)?;
    let reach = &reaches[usize::try_from(chance.below(count)).ok()?];
    let span = branch.span_of(reach);
    let (first, last) = (reach.backup.finished_at, span.end_time.unwrap_or(reach.backup.finished_at));
    let width = u64::try_from(last.unix_micros().saturating_sub(first.unix_micros())).unwrap_or(0);
    let time = |micros: u64| {
        let micros = i64::try_from(micros).unwrap_or(0);
        RecoveryTarget::Time {
            time: PgTime::from_unix_micros(first.unix_micros() + micros),
            exclusive: false,
        }
    };
    Some(match chance.below(13) {
        0..=3 if width > 2 => Drawn { target: time(1 + chance.below(width - 2)), corner: "any instant" },
        4..=5 if width > 2 => {
            Drawn { target: time(1 + chance.below(width.min(1_000_000) - 1)), corner: "just after a backup" }
        }
        6..=7 if width > 2 => {
            let back = 1 + chance.below(width.min(60_000_000) - 1);
            Drawn { target: time(width - back), corner: "just before the newest commit" }
        }
        8..=9 => {
            let (from, to) = (reach.backup.stop_lsn.get(), span.record_end.get());
            let target = Lsn::new(from + chance.below(to.saturating_sub(from)));
            Drawn { target: RecoveryTarget::Lsn { target, exclusive: false }, corner: "any position" }
        }
        10 => Drawn { target: RecoveryTarget::Immediate, corner: "the end of a backup" },
        _ => Drawn { target: RecoveryTarget::Latest, corner: "the newest state" },
    })
}

/// What is restored to.
#[derive(Debug, Clone)]
pub enum Aim {
    /// Chance decides, with this seed.
    Random(u64),
    /// The newest state.
    Latest,
    /// As asked for.
    Given(Wanted),
}

/// A target with what serves it.
#[derive(Debug, Clone)]
pub(super) struct Aimed {
    /// What was asked of the chooser.
    pub(super) wanted: Wanted,
    /// Why this target, in words.
    pub(super) choice: String,
    /// What serves it.
    pub(super) chosen: Chosen,
}

/// Find what serves `aim`.
pub(super) async fn take_aim(chooser: &mut Chooser<'_>, aim: &Aim) -> Result<Aimed> {
    let of = |target| Wanted { target, timeline: None, backup: None };
    let (wanted, choice) = match aim {
        Aim::Latest => (of(RecoveryTarget::Latest), "latest".to_owned()),
        Aim::Given(wanted) => (wanted.clone(), "given".to_owned()),
        Aim::Random(seed) => return by_chance(chooser, *seed).await,
    };
    let chosen = chooser.choose(&wanted).await?;
    Ok(Aimed { wanted, choice, chosen })
}

async fn by_chance(chooser: &mut Chooser<'_>, seed: u64) -> Result<Aimed> {
    let mut chance = Chance::new(seed);
    let branch = chooser.window.default_branch()?;
    let mut last = Error::impossible("no backup can be restored");
    for draw_number in 0..DRAWS {
        let Some(drawn) = draw(branch, &mut chance) else { break };
        // Mostly the first one serves; an LSN behind the last record, for one, does not.
        let wanted = Wanted { target: drawn.target.clone(), timeline: None, backup: None };
        match chooser.choose(&wanted).await {
            Ok(chosen) => {
                let choice = format!("random: {} (seed {seed}, draw {})", drawn.corner, draw_number + 1);
                return Ok(Aimed { wanted, choice, chosen });
            }
            Err(error) if error.kind() == Kind::Impossible => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
