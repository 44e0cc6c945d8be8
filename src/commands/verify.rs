//! `verify`.

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::archive::Request;
use crate::cli::{
    args::Global, args::VerifyArguments, context::Context, context::tell_daemon, output, start,
};
use crate::error::Result;
use crate::postgres::PgTime;
use crate::store::Policy as Deadlines;
use crate::verify::{Finding, LastVerify, Restorable, Verified, Wanted, verify};

pub(super) fn run(global: &Global, arguments: &VerifyArguments) -> Result<u8> {
    let context = Context::of(global, LevelFilter::WARN, Deadlines::default())?;
    let wanted = Wanted {
        window: context.config.retention_window,
        content: arguments.content,
        max_rate: arguments.max_rate,
        max_bytes: arguments.max_bytes,
        again: arguments.again,
    };
    let verified = start::run_large(async {
        let repository = context.repository(None).await?;
        let verified = verify(&repository, wanted).await?;
        if let Err(error) = LastVerify::write(&repository, arguments.content, &verified).await {
            tracing::warn!(%error, "the result cannot be stored in the repository: the daemon will not show it");
        }
        Ok(verified)
    })?;
    tell_daemon(&context.config, &Request::Proven);
    let level = if arguments.content { "content" } else { "listing" };
    if global.json {
        output::json(&json!({
            "level": level,
            "objects": verified.objects,
            "opened": verified.opened,
            "remembered": verified.remembered,
            "left": verified.left,
            "oldest_opened_at": verified.oldest.map(|at| at.to_string()),
            "overdue": verified.overdue,
            "problems": verified.findings.problems,
            "remarks": verified.findings.remarks,
            "restorable": arguments.restorable.then_some(&verified.restorable),
        }))?;
    } else {
        show(&verified, level)?;
        if arguments.restorable {
            show_restorable(&verified.restorable)?;
        }
    }
    let lost = arguments.restorable && !verified.restorable.is_whole();
    Ok(u8::from(lost || verified.overdue > 0 || !verified.findings.problems.is_empty()))
}

fn show(verified: &Verified, level: &str) -> Result<()> {
    for problem in &verified.findings.problems {
        finding("PROBLEM", problem)?;
        output::line(format!("         lost: {}", problem.loses))?;
        output::line(format!("         hint: {}", problem.advice))?;
    }
    for remark in &verified.findings.remarks {
        finding("NOTE   ", remark)?;
        output::line(format!("         hint: {}", remark.advice))?;
    }
    let opened = match level {
        "content" => {
            let Verified { opened, remembered, left, .. } = verified;
            let left = if *left > 0 { format!(", {left} left for the next run") } else { String::new() };
            format!(", {opened} opened, {remembered} recently by earlier runs{left}")
        }
        _ => String::new(),
    };
    let problems = match verified.findings.problems.len() {
        0 => "no problems".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    };
    output::line(format!("{} listed{opened}: {problems}", output::objects(verified.objects)))?;
    let Some(oldest) = verified.oldest.map(PgTime::from) else { return Ok(()) };
    if verified.overdue > 0 {
        output::line(format!(
            "OVERDUE  {} were not opened within the window, the oldest not since {oldest}",
            verified.overdue
        ))?;
        return output::line(
            "         hint: is --max-bytes too small, or is walproof-verify-content.timer not running?",
        );
    }
    output::line(format!("everything stored and sound was opened, or put, at {oldest} or later"))
}

fn finding(word: &str, finding: &Finding) -> Result<()> {
    output::line(format!("{word}  {}: {}", finding.object, finding.problem))
}

fn show_restorable(restorable: &Restorable) -> Result<()> {
    let row = |what: &str, restorable: bool, why: &Option<String>| {
        let word = if restorable { "yes" } else { "NO" };
        vec![what.to_owned(), word.to_owned(), why.clone().unwrap_or_default()]
    };
    let mut rows: Vec<Vec<String>> = restorable
        .backups
        .iter()
        .map(|backup| row(&format!("backup {}", backup.id), backup.restorable, &backup.why))
        .collect();
    rows.extend(restorable.days.iter().map(|day| row(&format!("day {}", day.day), day.restorable, &day.why)));
    output::table(&["WHAT", "RESTORABLE", "WHY NOT"], &rows)
}
