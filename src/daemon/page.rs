//! The status page: one HTML document, rendered here, that asks the browser for nothing else.

use std::fmt;

use super::snapshot::{BackupLine, PushLine, Severity, Snapshot};
use super::words::{self, Reading, State};
use crate::postgres::Lsn;

const STYLE: &str = include_str!("page.css");

/// Text as HTML shows it, whatever it holds. Everything that is not a constant of this file goes through it.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                letter => fmt::Write::write_char(f, letter)?,
            }
        }
        Ok(())
    }
}

/// The page.
pub(super) fn render(snapshot: &Snapshot) -> String {
    let parts = [
        head(snapshot),
        header(snapshot),
        "<main>\n".to_owned(),
        state(snapshot),
        cards(snapshot),
        wal(snapshot),
        recent(snapshot),
        backups(snapshot),
        server(snapshot),
        "</main>\n".to_owned(),
        footer(snapshot),
        "</body>\n</html>\n".to_owned(),
    ];
    parts.concat()
}

fn head(snapshot: &Snapshot) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"refresh\" content=\"10\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>{} {}: walproof</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        Escaped(&snapshot.cluster),
        words::state(snapshot).as_str(),
    )
}

fn header(snapshot: &Snapshot) -> String {
    format!(
        "<header><p class=\"name\">{}</p><p>{}</p><p>backups by walproof</p></header>\n",
        Escaped(&snapshot.cluster),
        Escaped(words::server(snapshot)),
    )
}

const fn class(state: State) -> &'static str {
    match state {
        State::Healthy => "good",
        State::NeedsAttention => "warn",
        State::Failing => "bad",
    }
}

/// The state at one glance: a sign, a word, a colour, and why.
fn state(snapshot: &Snapshot) -> String {
    let state = words::state(snapshot);
    let sign = match state {
        State::Healthy => "✓",
        State::NeedsAttention => "!",
        State::Failing => "✕",
    };
    format!(
        "<section class=\"state {}\"><h1><span aria-hidden=\"true\">{sign} </span>{}</h1>\n<p>{}.</p>\n{}</section>\n",
        class(state),
        capital(state.as_str()),
        Escaped(capital(&words::reason(snapshot))),
        problems(snapshot),
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn problems(snapshot: &Snapshot) -> String {
    if snapshot.problems.is_empty() {
        return String::new();
    }
    let items = snapshot.problems.iter().map(|problem| {
        let (class, kind) = match problem.severity {
            Severity::Failure => ("bad", "Failure"),
            Severity::Warning => ("warn", "Warning"),
        };
        let hint =
            problem.hint.as_ref().map(|hint| format!("<span class=\"hint\">Hint: {}</span>", Escaped(hint)));
        format!(
            "<li><span class=\"kind {class}\">{kind}</span><b>{}</b>{}</li>\n",
            Escaped(capital(&problem.text)),
            hint.unwrap_or_default()
        )
    });
    format!("<ul class=\"problems\">\n{}</ul>\n", items.collect::<String>())
}

fn cards(snapshot: &Snapshot) -> String {
    let mut window = words::window(snapshot);
    if let Some((start, end)) = snapshot.window {
        window.note = format!("{}. From {} to {}", window.note, words::utc(start), words::utc(end));
    }
    let cards = [
        card("Would be lost now (RPO)", &words::rpo(snapshot)),
        card("Recovery window", &window),
        card("Last backup", &words::last_backup(snapshot)),
        card("A restore takes about (RTO)", &words::rto(snapshot)),
    ];
    format!("<dl class=\"cards\">\n{}</dl>\n", cards.concat())
}

fn card(title: &str, reading: &Reading) -> String {
    let class = if reading.state == State::Healthy { "" } else { class(reading.state) };
    format!(
        "<div><dt>{title}</dt><dd><span class=\"value {class}\">{}</span><span class=\"note\">{}</span></dd></div>\n",
        Escaped(capital(&reading.value)),
        Escaped(capital(&reading.note)),
    )
}

fn facts(rows: &[(&str, String)]) -> String {
    let rows = rows.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", Escaped(value)));
    format!("<dl class=\"facts\">\n{}</dl>\n", rows.collect::<String>())
}

fn wal(snapshot: &Snapshot) -> String {
    let now = snapshot.taken_at;
    let lsn = |lsn: Option<Lsn>| lsn.map_or_else(|| words::UNKNOWN.to_owned(), |lsn| format!("up to {lsn}"));
    let rows = [
        ("On the server's disk", lsn(snapshot.flushed)),
        ("Stored, tail included", lsn(snapshot.stored)),
        ("Archived segments", lsn(snapshot.archived)),
        ("Tail", words::tail(snapshot)),
        ("Waiting", words::waiting(snapshot)),
        ("Gaps", words::gaps(snapshot)),
        ("Last archived", words::when_known(snapshot.last_push, now, words::UNKNOWN)),
    ];
    format!("<section><h2>WAL</h2>\n{}</section>\n", facts(&rows))
}

/// A table in a box of its own, which scrolls where the screen is narrow.
fn table(id: &str, title: &str, columns: &[(&str, bool)], rows: impl Iterator<Item = String>) -> String {
    let head = columns.iter().map(|(name, number)| {
        let class = if *number { " class=\"number\"" } else { "" };
        format!("<th scope=\"col\"{class}>{name}</th>")
    });
    format!(
        "<section><h2 id=\"{id}\">{title}</h2>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}\"><table>\n\
         <thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div></section>\n",
        head.collect::<String>(),
        rows.collect::<String>(),
    )
}

fn empty(title: &str, why: &str) -> String {
    format!("<section><h2>{title}</h2>\n<p class=\"empty\">{}.</p></section>\n", Escaped(capital(why)))
}

fn recent(snapshot: &Snapshot) -> String {
    let title = "Recent archiving";
    if snapshot.recent.is_empty() {
        return empty(title, "nothing was archived since the daemon started");
    }
    let columns =
        [("File", false), ("Result", false), ("When", false), ("Took", true), ("Size → stored", true)];
    let row = |push: &PushLine| {
        let (result, stored, why) = match &push.error {
            None => ("<td>stored</td>", words::size(push.stored_bytes), String::new()),
            Some(error) => {
                ("<td class=\"bad\">failed</td>", "nothing".to_owned(), explanation(columns.len(), error))
            }
        };
        format!(
            "<tr><th scope=\"row\">{}</th>{result}<td>{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{} → {}</td></tr>\n{why}",
            Escaped(&push.name),
            Escaped(words::age(push.at, snapshot.taken_at)),
            Escaped(words::seconds(push.seconds)),
            Escaped(words::size(push.raw_bytes)),
            Escaped(stored),
        )
    };
    table("recent", title, &columns, snapshot.recent.iter().map(row))
}

/// A row below the one that it explains. It stays in sight where the table scrolls.
fn explanation(columns: usize, text: &str) -> String {
    format!("<tr class=\"why\"><td colspan=\"{columns}\"><span>{}</span></td></tr>\n", Escaped(text))
}

fn backups(snapshot: &Snapshot) -> String {
    let title = "Backups";
    if snapshot.backups.is_empty() {
        return empty(title, words::NO_BACKUP);
    }
    let columns = [
        ("Backup", false),
        ("Finished", false),
        ("Took", true),
        ("Data", true),
        ("Stored", true),
        ("Added", true),
        ("Pages", false),
    ];
    let row = |backup: &BackupLine| {
        let took = backup.finished_at.seconds_since(backup.started_at).max(0.0);
        let (pages, why) = match backup.page_errors {
            0 => ("<td>no error</td>".to_owned(), String::new()),
            errors => {
                let why = "pages failed their checksum: the data on the server's disk is damaged";
                (format!("<td class=\"bad\">{errors} bad</td>"), explanation(columns.len(), why))
            }
        };
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{}</td>{pages}</tr>\n{why}",
            Escaped(&backup.id),
            Escaped(words::age(backup.finished_at, snapshot.taken_at)),
            Escaped(words::seconds(took)),
            Escaped(words::size(backup.size_bytes)),
            Escaped(words::size(backup.stored_bytes)),
            Escaped(words::size(backup.new_bytes)),
        )
    };
    table("backups", title, &columns, snapshot.backups.iter().rev().map(row))
}

fn server(snapshot: &Snapshot) -> String {
    let rows = [
        ("Server", words::server(snapshot)),
        ("System identifier", snapshot.system_identifier.clone()),
        ("Repository", snapshot.repository.clone()),
        ("Store", words::store(snapshot).to_owned()),
        ("Repository size", words::repository_size(snapshot)),
    ];
    format!("<section><h2>Server and repository</h2>\n{}</section>\n", facts(&rows))
}

fn footer(snapshot: &Snapshot) -> String {
    let daemon = words::when_known(snapshot.daemon_since, snapshot.taken_at, "it does not run");
    format!(
        "<footer>State of {}; the page asks again every 10 s. The daemon runs since: {}. \
         In a terminal: <code>walproof status</code>.</footer>\n",
        Escaped(words::utc(snapshot.taken_at)),
        Escaped(daemon),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::samples;

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
            assert!(page.starts_with("<!DOCTYPE html>\n<html lang=\"en\">"), "{name}");
            assert!(page.ends_with("</html>\n"), "{name}");
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
        let evil = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;";
        assert!(page.matches(evil).count() >= 20, "{}", page.matches(evil).count());
        assert!(!page.contains("alert('") && !page.contains("</script"), "{page}");
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
        snapshot.backups[0].page_errors = 2;
        assert!(render(&snapshot).contains(">2 bad<"));
    }
}
