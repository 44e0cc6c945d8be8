//! `explain`: the runbooks, compiled in, for a night without a network.

use include_dir::{Dir, include_dir};

use crate::cli::{args::Global, output::json, output::line, start};
use crate::error::{Error, Result};
use tracing_subscriber::filter::LevelFilter;

/// One file for each code of a problem, and one for each kind of incident.
static RUNBOOKS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/config/monitoring/runbooks");

/// The runbook for `code`, or a list of all.
pub(super) fn explain(global: &Global, code: Option<&str>) -> Result<u8> {
    start::log(global, false, LevelFilter::WARN);
    let Some(code) = code else {
        return list(global);
    };
    let Some((code, text)) = runbooks().find(|(name, _)| *name == code) else {
        return Err(Error::usage(format!("there is no runbook \"{code}\""))
            .hint("`walproof explain` lists them; `walproof status` shows the codes of what is wrong"));
    };
    if global.json {
        json(&serde_json::json!({ "code": code, "title": title(text), "text": text }))?;
    } else {
        line(text.trim_end())?;
    }
    Ok(0)
}

fn list(global: &Global) -> Result<u8> {
    if global.json {
        let all = runbooks().map(|(code, text)| serde_json::json!({ "code": code, "title": title(text) }));
        json(&all.collect::<Vec<_>>())?;
        return Ok(0);
    }
    for (code, text) in runbooks() {
        line(format!("{code:<22} {}", title(text)))?;
    }
    Ok(0)
}

/// Name and text of each, in the order of the names.
fn runbooks() -> impl Iterator<Item = (&'static str, &'static str)> {
    let mut all: Vec<_> = RUNBOOKS
        .files()
        .filter_map(|file| Some((file.path().file_stem()?.to_str()?, file.contents_utf8()?)))
        .collect();
    all.sort_unstable();
    all.into_iter()
}

/// The heading, `# code: what it is`, without the code.
fn title(text: &str) -> &str {
    let heading = text.lines().next().unwrap_or_default();
    heading.split_once(": ").map_or(heading, |(_, title)| title)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    #[test]
    fn each_code_has_a_runbook_that_begins_with_its_name() {
        let known: Vec<&str> = runbooks().map(|(name, _)| name).collect();
        for code in Code::ALL {
            assert!(known.contains(&code.as_str()), "config/monitoring/runbooks/{}.md", code.as_str());
        }
        for (name, text) in runbooks() {
            assert!(text.starts_with(&format!("# {name}: ")), "{name}");
        }
    }
}
