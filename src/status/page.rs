//! The status page: one HTML document, rendered here, that asks the browser for nothing else.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::words::{self, Reading, State};
use crate::postgres::Lsn;
use crate::present::{self, age, seconds, size, utc, when_known};
use crate::problem::{Problem, Severity};
use crate::snapshot::{BackupLine, PushLine, Snapshot};

const STYLE: &str = include_str!("page.css");

/// The page.
pub fn render(snapshot: &Snapshot) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            (head(snapshot))
            body {
                header {
                    p class="name" { (snapshot.cluster) }
                    p { (words::server(snapshot)) }
                    p { "backups by walproof" }
                }
                main {
                    (state(snapshot))
                    (cards(snapshot))
                    (super::picture::section(snapshot))
                    (wal(snapshot))
                    (recent(snapshot))
                    (backups(snapshot))
                    (super::drills::section(&snapshot.drills, snapshot.taken_at))
                    (server(snapshot))
                }
                (footer(snapshot))
            }
        }
    };
    page.into_string()
}

fn head(snapshot: &Snapshot) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta http-equiv="refresh" content="10";
            meta name="robots" content="noindex";
            title { (snapshot.cluster) " " (words::state(snapshot).as_str()) ": walproof" }
            style { (PreEscaped(present::STYLE)) (PreEscaped(STYLE)) }
        }
    }
}

const fn class(state: State) -> &'static str {
    match state {
        State::Healthy => "good",
        State::NeedsAttention => "warn",
        State::Failing => "bad",
    }
}

/// The state at one glance: a sign, a word, a colour, and why.
fn state(snapshot: &Snapshot) -> Markup {
    let state = words::state(snapshot);
    let sign = match state {
        State::Healthy => "✓",
        State::NeedsAttention => "!",
        State::Failing => "✕",
    };
    html! {
        section class={ "state " (class(state)) } {
            h1 { span aria-hidden="true" { (sign) " " } (capital(state.as_str())) }
            p { (capital(&words::reason(snapshot))) "." }
            @if !snapshot.problems.is_empty() {
                ul class="problems" {
                    @for problem in &snapshot.problems { (item(problem)) }
                }
            }
        }
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn item(problem: &Problem) -> Markup {
    let (class, kind) = match problem.severity {
        Severity::Critical => ("bad", "Failure"),
        Severity::Warning => ("warn", "Warning"),
    };
    html! {
        li {
            span class={ "kind " (class) } { (kind) }
            b { (capital(&problem.text)) }
            " "
            code { (problem.code.as_str()) }
            @if let Some(hint) = &problem.hint { span class="hint" { "Hint: " (hint) } }
        }
    }
}

fn cards(snapshot: &Snapshot) -> Markup {
    let mut window = words::window(snapshot);
    if let Some((start, end)) = snapshot.window.window {
        window.note = format!("{}. From {} to {}", window.note, utc(start), utc(end));
    }
    html! {
        dl class="cards" {
            (card("Would be lost now (RPO)", &words::rpo(snapshot)))
            (card("Recovery window", &window))
            (card("Last backup", &words::last_backup(snapshot)))
            (card("A restore takes about (RTO)", &words::rto(snapshot)))
        }
    }
}

fn card(title: &str, reading: &Reading) -> Markup {
    let class = if reading.state == State::Healthy { "" } else { class(reading.state) };
    html! {
        div {
            dt { (title) }
            dd {
                span class={ "value " (class) } { (capital(&reading.value)) }
                span class="note" { (capital(&reading.note)) }
            }
        }
    }
}

fn facts(title: &str, rows: &[(&str, String)]) -> Markup {
    html! {
        section {
            h2 { (title) }
            dl class="facts" {
                @for (name, value) in rows { dt { (name) } dd { (value) } }
            }
        }
    }
}

fn wal(snapshot: &Snapshot) -> Markup {
    let now = snapshot.taken_at;
    let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| words::UNKNOWN.to_owned(), |lsn| format!("up to {lsn}"));
    let rows = [
        ("On the server's disk", lsn(snapshot.wal.flushed)),
        ("Stored, tail included", lsn(snapshot.wal.stored)),
        ("Archived segments", lsn(snapshot.wal.archived)),
        ("Tail", words::tail(snapshot)),
        ("Waiting", words::waiting(snapshot)),
        ("Gaps", words::gaps(snapshot)),
        ("Last archived", when_known(snapshot.wal.last_push, now, words::UNKNOWN)),
    ];
    facts("WAL", &rows)
}

/// A column's name, and whether it holds numbers.
type Column = (&'static str, bool);

/// A table in a box of its own, which scrolls where the screen is narrow.
fn table(id: &str, title: &str, columns: &[Column], rows: &Markup) -> Markup {
    html! {
        section {
            h2 id=(id) { (title) }
            div class="scroll" tabindex="0" role="region" aria-labelledby=(id) {
                table {
                    thead {
                        tr {
                            @for (name, number) in columns {
                                th scope="col" class=[number.then_some("number")] { (name) }
                            }
                        }
                    }
                    tbody { (rows) }
                }
            }
        }
    }
}

fn empty(title: &str, why: &str) -> Markup {
    html! { section { h2 { (title) } p class="empty" { (capital(why)) "." } } }
}

/// A row below the one that it explains. It stays in sight where the table scrolls.
fn explanation(columns: &[Column], text: &str) -> Markup {
    html! { tr class="why" { td colspan=(columns.len()) { span { (text) } } } }
}

const RECENT: [Column; 5] =
    [("File", false), ("Result", false), ("When", false), ("Took", true), ("Size → stored", true)];

fn recent(snapshot: &Snapshot) -> Markup {
    let title = "Recent archiving";
    if snapshot.wal.recent.is_empty() {
        return empty(title, "nothing has been archived since the daemon started");
    }
    let row = |push: &PushLine| {
        let stored = push.error.as_ref().map_or_else(|| size(push.stored_bytes), |_| "nothing".to_owned());
        html! {
            tr {
                th scope="row" { (push.name) }
                @if push.error.is_some() { td class="bad" { "failed" } } @else { td { "stored" } }
                td { (age(push.at, snapshot.taken_at)) }
                td class="number" { (seconds(push.seconds)) }
                td class="number" { (size(push.raw_bytes)) " → " (stored) }
            }
            @if let Some(error) = &push.error { (explanation(&RECENT, error)) }
        }
    };
    table("recent", title, &RECENT, &html! { @for push in &snapshot.wal.recent { (row(push)) } })
}

const BACKUPS: [Column; 7] = [
    ("Backup", false),
    ("Finished", false),
    ("Took", true),
    ("Data", true),
    ("Stored", true),
    ("Added", true),
    ("Pages", false),
];

fn backups(snapshot: &Snapshot) -> Markup {
    let title = "Backups";
    if snapshot.backups.finished.is_empty() {
        let known = words::has_no_backup(snapshot);
        return empty(title, if known { words::NO_BACKUP } else { words::UNKNOWN });
    }
    let damage = "pages failed their checksum: the data on the server's disk is damaged";
    let row = |backup: &BackupLine| {
        let errors = backup.page_errors;
        html! {
            tr {
                th scope="row" { (backup.id) }
                td { (age(backup.finished_at, snapshot.taken_at)) }
                td class="number" { (seconds(backup.finished_at.seconds_since(backup.started_at).max(0.0))) }
                td class="number" { (size(backup.size_bytes)) }
                td class="number" { (size(backup.stored_bytes)) }
                td class="number" { (size(backup.new_bytes)) }
                @if errors > 0 { td class="bad" { (errors) " bad" } } @else { td { "no error" } }
            }
            @if errors > 0 { (explanation(&BACKUPS, damage)) }
        }
    };
    let newest_first = snapshot.backups.finished.iter().rev();
    html! {
        (table("backups", title, &BACKUPS, &html! { @for backup in newest_first { (row(backup)) } }))
        @if let Some(early) = words::early_backup(snapshot) {
            p class="note" { "The daemon's own backup, ahead of the timer: " (early) "." }
        }
    }
}

fn server(snapshot: &Snapshot) -> Markup {
    let rows = [
        ("Server", words::server(snapshot)),
        ("System identifier", snapshot.server.system_identifier.clone()),
        ("Repository", snapshot.store.repository.clone()),
        ("Store", words::store(snapshot).to_owned()),
        ("Repository size", words::repository_size(snapshot)),
    ];
    facts("Server and repository", &rows)
}

fn footer(snapshot: &Snapshot) -> Markup {
    let daemon = when_known(snapshot.teller.daemon_since, snapshot.taken_at, "not running");
    html! {
        footer {
            "State of " (utc(snapshot.taken_at)) "; the page reloads every 10 s. Daemon started: " (daemon)
            ". In a terminal: " code { "walproof status" } "."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples;

    fn all() -> [(&'static str, Snapshot); 5] {
        [
            ("busy", samples::busy()),
            ("store_down", samples::store_down()),
            ("brand_new", samples::brand_new()),
            ("standby", samples::standby()),
            ("hostile", samples::hostile()),
        ]
    }

    /// With WALPROOF_TEST_PAGES=DIR the pages are left there, to look at in a browser.
    #[test]
    fn a_page_is_whole_and_asks_for_nothing_else() {
        for (name, snapshot) in all() {
            let page = render(&snapshot);
            if let Some(folder) = std::env::var_os("WALPROOF_TEST_PAGES") {
                std::fs::write(std::path::Path::new(&folder).join(format!("{name}.html")), &page).unwrap();
            }
            assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{name}");
            assert!(page.ends_with("</html>"), "{name}");
            for word in ["http://", "https://", "<script", "<link", "<img", "@import", "url(", "onload="] {
                assert!(!page.contains(word), "{name} has {word}");
            }
            for tag in ["section", "dl", "table", "div", "span", "ul", "h1", "h2", "dd", "th", "td", "tr"] {
                let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
                let opened =
                    page.matches(&format!("{open}>")).count() + page.matches(&format!("{open} ")).count();
                assert_eq!(opened, page.matches(&close).count(), "{name}: {tag}");
            }
            assert_eq!(page.matches("<h1>").count(), 1, "{name}");
        }
    }

    #[test]
    fn whatever_a_text_holds_it_stays_text() {
        let page = render(&samples::hostile());
        let evil = "&lt;script&gt;alert('x')&lt;/script&gt;&quot;&amp;";
        assert!(page.matches(evil).count() >= 20, "{}", page.matches(evil).count());
        assert!(!page.contains("<script") && !page.contains("</script"), "{page}");
    }

    #[test]
    fn each_state_says_what_it_is() {
        let says = |snapshot: &Snapshot, texts: &[&str]| {
            let page = render(snapshot);
            for text in texts {
                assert!(page.contains(text), "{text} is missing in {page}");
            }
        };
        says(
            &samples::busy(),
            &["</span>Healthy</h1>", ">3.4 s<", "Within the objective", "9 s ago", "timeline 1"],
        );
        let failing =
            ["</span>Failing</h1>", ">23 min 4 s<", "Beyond the objective", "DOWN", "94 files", ">failed<"];
        says(&samples::store_down(), &failing);
        says(
            &samples::brand_new(),
            &["No backup yet: nothing can be restored", "not known yet", "not asked yet"],
        );
        says(&samples::standby(), &["Not claimed here", "is a standby"]);
        let mut warned = samples::store_down();
        warned.problems.retain(|problem| problem.severity == Severity::Warning);
        says(&warned, &["</span>Needs attention</h1>", ">Warning<"]);
    }

    #[test]
    fn a_backup_with_bad_pages_does_not_pass_silently() {
        let mut snapshot = samples::busy();
        snapshot.backups.finished[0].page_errors = 2;
        assert!(render(&snapshot).contains(">2 bad<"));
    }
}
