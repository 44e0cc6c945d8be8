//! The window as a picture: a bar of the time that should be restorable, with what can be, the gaps, and the backups; what
//! it costs, and what goes next.

use maud::{Markup, html};

use super::words::UNKNOWN;
use crate::postgres::PgTime;
use crate::present::{age, size, span, utc, when};
use crate::snapshot::{Retention, Snapshot};

/// What the bar shows of a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Any instant of it can be restored.
    Restorable,
    /// It cannot, though what came before it can.
    Gap,
    /// It is before the first backup, or behind the last commit.
    Outside,
}

impl Part {
    const fn class(self) -> &'static str {
        match self {
            Self::Restorable => "reach",
            Self::Gap => "gap",
            Self::Outside => "outside",
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Restorable => '=',
            Self::Gap => 'x',
            Self::Outside => '.',
        }
    }
}

/// Stretches of the bar, each with its end: 0 is the window's start, 1 is now.
fn parts(snapshot: &Snapshot) -> Vec<(Part, f64)> {
    let mut parts: Vec<(Part, f64)> = Vec::new();
    let mut to = |part, at: PgTime| {
        let place = place(snapshot, at);
        if parts.last().map_or(0.0, |(_, end)| *end) < place {
            parts.push((part, place));
        }
    };
    if let Some((start, end)) = snapshot.window.window {
        to(Part::Outside, start);
        for (from, until) in &snapshot.window.window_gaps {
            to(Part::Restorable, *from);
            to(Part::Gap, *until);
        }
        to(Part::Restorable, end);
    }
    to(Part::Outside, snapshot.taken_at);
    parts
}

/// Where an instant lies on the bar.
fn place(snapshot: &Snapshot, at: PgTime) -> f64 {
    let window = snapshot.promises.retention_window.as_secs_f64().max(1.0);
    (1.0 - snapshot.taken_at.seconds_since(at) / window).clamp(0.0, 1.0)
}

/// Stretches of the bar that verification by content covers, each from where to where.
fn verified(snapshot: &Snapshot) -> Vec<(f64, f64)> {
    let lines = snapshot.verifications.verifications.iter().flat_map(|line| &line.covered);
    let places = lines.map(|(from, to)| (place(snapshot, *from), place(snapshot, *to)));
    places.filter(|(from, to)| from < to).collect()
}

/// A backup on the bar: where, whether it is held, and what it is.
fn marks(snapshot: &Snapshot) -> Vec<(f64, bool, String)> {
    let holds = &snapshot.retention.holds;
    let marks = snapshot.backups.finished.iter().map(|backup| {
        let held = holds.iter().any(|hold| hold.backup == backup.id);
        (place(snapshot, backup.finished_at), held, format!("{}, {}", backup.id, utc(backup.finished_at)))
    });
    marks.filter(|(place, ..)| *place > 0.0).collect()
}

/// Backups that are older than the window, in words.
fn older(snapshot: &Snapshot) -> Option<String> {
    let old = snapshot.backups.finished.iter().filter(|backup| place(snapshot, backup.finished_at) <= 0.0);
    match old.count() {
        0 => None,
        1 => Some("1 backup is older than the window".to_owned()),
        count => Some(format!("{count} backups are older than the window")),
    }
}

/// What it costs.
fn costs(snapshot: &Snapshot) -> Vec<(&'static str, u64)> {
    let Some(bytes) = snapshot.store.repository_bytes else { return Vec::new() };
    let kinds = [
        ("backups", bytes.pack),
        ("WAL", bytes.wal),
        ("tails", bytes.tail),
        ("other", bytes.other),
        ("deleted, kept by the bucket", snapshot.retention.old_bytes()),
    ];
    kinds.into_iter().filter(|(_, bytes)| *bytes > 0).collect()
}

fn next(retention: &Retention, now: PgTime) -> String {
    let Some(next) = &retention.expires_next else {
        return "nothing: what is stored is needed until newer backups take its place".to_owned();
    };
    let what = match next.backups.as_slice() {
        [] => "WAL".to_owned(),
        [one] => format!("backup {one} and WAL that only it needs"),
        [one, more @ ..] => format!("backup {one}, {} more and WAL that only they need", more.len()),
    };
    format!("{what}, about {}, {}", size(next.bytes), age(next.at, now))
}

fn enforced(retention: &Retention, now: PgTime) -> String {
    let Some(expiry) = &retention.expiry else { return UNKNOWN.to_owned() };
    let last =
        expiry.completed_at.map_or_else(|| "never completed".to_owned(), |at| when(PgTime::from(at), now));
    format!("{last}; objects deleted so far: {}", expiry.deleted_objects)
}

fn held(hold: &crate::snapshot::HoldLine) -> String {
    let reason = if hold.reason.is_empty() { "no reason given" } else { &hold.reason };
    format!("{}: {reason}; up to {} once it is older than the window", hold.backup, size(hold.bytes))
}

/// The rows of `status` for a bar of `width` letters.
pub(super) fn rows(snapshot: &Snapshot, width: usize) -> Vec<(&'static str, String)> {
    let now = snapshot.taken_at;
    let mut rows = vec![
        ("window", letters(snapshot, width)),
        ("", "# restorable, all of it opened by verify, = restorable, x gap, . outside, B backup, H held; left: its start, right: now".to_owned()),
    ];
    let costs: Vec<String> =
        costs(snapshot).iter().map(|(kind, bytes)| format!("{kind} {}", size(*bytes))).collect();
    rows.push(("costs", if costs.is_empty() { UNKNOWN.to_owned() } else { costs.join(", ") }));
    rows.extend(snapshot.retention.holds.iter().map(|hold| ("held", held(hold))));
    rows.push(("expires next", next(&snapshot.retention, now)));
    rows.push(("last expiry", enforced(&snapshot.retention, now)));
    rows
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a bar"
)]
fn letters(snapshot: &Snapshot, width: usize) -> String {
    let column = |place: f64| ((place * width as f64) as usize).min(width - 1);
    let (parts, verified) = (parts(snapshot), verified(snapshot));
    let of = |at: usize| {
        let middle = (at as f64 + 0.5) / width as f64;
        let part = parts.iter().find(|(_, end)| middle <= *end).map_or(Part::Outside, |(part, _)| *part);
        let is_verified = verified.iter().any(|(from, to)| *from <= middle && middle <= *to);
        if part == Part::Restorable && is_verified { '#' } else { part.letter() }
    };
    let mut letters: Vec<char> = (0..width).map(of).collect();
    for (place, held, _) in marks(snapshot) {
        let letter = &mut letters[column(place)];
        *letter = if held || *letter == 'H' { 'H' } else { 'B' };
    }
    letters.into_iter().collect()
}

/// The section of the page.
pub(super) fn section(snapshot: &Snapshot) -> Markup {
    let now = snapshot.taken_at;
    let told = format!(
        "The last {}: {}",
        span(snapshot.promises.retention_window),
        snapshot.window.window.map_or_else(
            || "nothing can be restored, as far as is known".to_owned(),
            |(start, end)| format!(
                "restorable from {} to {}, {} gaps",
                utc(start),
                utc(end),
                snapshot.window.window_gaps.len()
            ),
        )
    );
    html! {
        section {
            h2 { "Recovery window" }
            (bar(snapshot, &told))
            div class="verified" aria-hidden="true" {
                @for (from, to) in verified(snapshot) {
                    div style=(format!("left:{:.3}%;width:{:.3}%", from * 100.0, (to - from) * 100.0)) {}
                }
            }
            div class="ends" {
                span { (span(snapshot.promises.retention_window)) " ago" }
                span { "now" }
                @if let Some(older) = older(snapshot) { span class="older" { (older) } }
            }
            ul class="legend" aria-hidden="true" {
                li { span class="key reach" {} "can be restored" }
                li { span class="key opened" {} "opened by verify" }
                li { span class="key gap" {} "gap" }
                li { span class="key outside" {} "not covered" }
                li { span class="key mark" {} "backup" }
                li { span class="key mark held" {} "held backup" }
            }
            dl class="facts" {
                dt { "It costs" }
                dd { (paid(snapshot)) }
                @for hold in &snapshot.retention.holds { dt { "Held" } dd { (held(hold)) } }
                dt { "Expires next" }
                dd { (next(&snapshot.retention, now)) }
                dt { "Last expiry" }
                dd { (enforced(&snapshot.retention, now)) }
            }
        }
    }
}

fn bar(snapshot: &Snapshot, told: &str) -> Markup {
    let mut begin = 0.0;
    html! {
        div class="bar" role="img" aria-label=(told) {
            @for (part, end) in parts(snapshot) {
                @let width = (end - std::mem::replace(&mut begin, end)) * 100.0;
                div class=(part.class()) style=(format!("width:{width:.3}%")) {}
            }
            @for (place, held, title) in marks(snapshot) {
                div class=(if held { "mark held" } else { "mark" }) style=(format!("left:{:.3}%", place * 100.0)) title=(title) {}
            }
        }
    }
}

fn paid(snapshot: &Snapshot) -> Markup {
    let costs = costs(snapshot);
    let all: u64 = costs.iter().map(|(_, bytes)| *bytes).sum();
    html! {
        @if costs.is_empty() { (UNKNOWN) } @else {
            (size(all)) ": "
            @for (at, (kind, bytes)) in costs.iter().enumerate() {
                @if at > 0 { ", " }
                (kind) " " (size(*bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    #[test]
    fn the_bar_shows_backups_gaps_and_holds_where_they_are() {
        let busy = letters(&samples::busy(), 60);
        assert_eq!(busy.chars().count(), 60);
        assert!(busy.starts_with('=') && !busy.contains('x'), "{busy}");
        assert_eq!(busy.matches('B').count(), 7, "{busy}");
        let mut covered = samples::busy();
        covered.verifications.verifications = vec![samples::opened(6, 2)];
        let opened = letters(&covered, 70);
        assert!(
            opened.starts_with('=') && opened.ends_with('=') && opened.matches('#').count() > 30,
            "{opened}"
        );
        assert!(section(&covered).into_string().contains("<div style=\"left:14.286%;width:57.143%\"></div>"));
        let mut snapshot = samples::store_down();
        snapshot.verifications.verifications.clear();
        let gap = letters(&snapshot, 70);
        assert!(gap.contains('x') && gap.find('x') > gap.find('='), "{gap}");
        snapshot.retention.holds[0].backup = snapshot.backups.finished[3].id.clone();
        assert_eq!(letters(&snapshot, 70).matches('H').count(), 1);
        assert_eq!(letters(&samples::brand_new(), 10), "..........");
    }

    #[test]
    fn what_goes_next_and_what_is_paid_is_said() {
        let rows = rows(&samples::busy(), 60);
        let of = |name: &str| rows.iter().find(|(of, _)| *of == name).unwrap().1.clone();
        assert_eq!(of("costs"), "backups 181.0 GiB, WAL 64.0 GiB, tails 5.0 MiB, other 3.0 MiB");
        assert!(of("expires next").ends_with("about 41.0 GiB, in 18 h"), "{}", of("expires next"));
        assert!(of("held").contains("audit of 2026"));
        let mut snapshot = samples::filled();
        let paid = super::paid(&snapshot).into_string();
        assert!(paid.contains("deleted, kept by the bucket 500 B"), "{paid}");
        snapshot.retention.expiry = None;
        assert_eq!(enforced(&snapshot.retention, snapshot.taken_at), UNKNOWN);
    }
}
