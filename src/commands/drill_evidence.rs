//! `drill-list`, `drill-report`, `drill-note`, `drill-export`, `drill-verify`, `drill-keygen`: the evidence.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{
    args::Global, args::ReportFormat, args::Trust, context, new_file::write_new, output, start,
};
use crate::cluster::user_name;
use crate::config::Config;
use crate::drill::{
    DrillKey, Entry, Evidence, Memory, Note, Proven, PublicKey, Report, Stored, append, html, open_link, text,
};
use crate::error::{Error, Result};
use crate::format::{Protection, Purpose};
use crate::postgres::PgTime;
use crate::repository::{Lease, Repository};
use crate::store::Policy;

pub(super) fn list(global: &Global, trust: &Trust) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let (_, evidence) = read(&config, trust)?;
    let missed = evidence.missed(config.drill.every, PgTime::now());
    if global.json {
        let drills: Vec<Value> = evidence.drills().map(|(proven, _)| document(proven)).collect();
        let span = |(from, to): &(PgTime, PgTime)| json!({ "from": from, "to": to });
        output::json(&json!({
            "drills": drills,
            "notes": notes(&evidence),
            "missed": missed.iter().map(span).collect::<Vec<_>>(),
            "tampered": evidence.tampered,
        }))?;
    } else {
        output::line(text::list(&evidence, &missed).trim_end())?;
    }
    Ok(u8::from(!evidence.tampered.is_empty()))
}

fn notes(evidence: &Evidence) -> Vec<Value> {
    let note = |proven: &Proven| match &proven.link.entry {
        Entry::Note(note) => Some(json!({
            "sequence": proven.link.sequence, "drill": note.drill, "text": note.text, "at": note.at, "by": note.by,
        })),
        Entry::Drill(_) => None,
    };
    evidence.entries.iter().filter_map(note).collect()
}

pub(super) fn report(global: &Global, id: Option<&str>, format: ReportFormat, trust: &Trust) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let (_, evidence) = read(&config, trust)?;
    let (proven, report) = find(&evidence, id)?;
    match format {
        _ if global.json => output::json(&document(proven))?,
        ReportFormat::Json => output::json(&document(proven))?,
        ReportFormat::Text => output::line(text::report(&evidence, proven, report).trim_end())?,
        ReportFormat::Html => output::line(html::page(&evidence, proven, report))?,
    }
    for tampered in &evidence.tampered {
        tracing::error!("{tampered}");
    }
    Ok(u8::from(!evidence.tampered.is_empty()))
}

pub(super) fn note(global: &Global, id: &str, text: String) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    config.repository.refuse_root()?;
    let key = DrillKey::parse(&config.drill_signing_key()?)?;
    let namespace = config.namespace(Policy::default())?;
    let proven = start::run_large(async {
        let repository = context::open(&config, &namespace, None).await?;
        let lease = Lease::take(&repository, Purpose::Drill, Protection::default()).await?;
        let stored = Stored::read(&repository).await?;
        let memory = Memory::of(&config.drill.directory, &repository);
        let evidence = stored.judge(&[key.public()], memory.recall().as_ref());
        let drill = find(&evidence, Some(id))?.1.id.clone();
        let host = crate::disk::host_name();
        let user = user_name(rustix::process::geteuid().as_raw());
        let note = Note { drill, text, at: PgTime::now(), by: format!("user {user} on {host}") };
        let newest = stored.envelopes.iter().map(|(sequence, ..)| *sequence).max().unwrap_or(0);
        let memory = config.drill.directory.is_dir().then_some(&memory);
        let proven = append(&repository, &key, memory, &evidence, newest, Entry::Note(note)).await?;
        lease.release().await?;
        Ok(proven)
    })?;
    if global.json {
        output::json(&json!({ "sequence": proven.link.sequence, "digest": proven.digest }))?;
    } else {
        output::line(format!("note {} on drill {id} is signed and stored", proven.link.sequence))?;
    }
    Ok(0)
}

pub(super) fn export(global: &Global, id: Option<&str>, to: &Path, trust: &Trust) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let (_, evidence) = read(&config, trust)?;
    let (proven, report) = find(&evidence, id)?;
    write_new(to, &[&proven.envelope], "name a new file")?;
    if global.json {
        output::json(&json!({ "id": report.id, "file": to.to_string_lossy(), "digest": proven.digest }))?;
    } else {
        output::line(format!("drill {} is in {}; SHA-256 {}", report.id, to.display(), proven.digest))?;
    }
    Ok(0)
}

pub(super) fn verify(global: &Global, file: &Path, public_key: &Path) -> Result<u8> {
    start::log(global, false, LevelFilter::WARN);
    let envelope =
        std::fs::read(file).map_err(|cause| Error::usage(format!("read {}: {cause}", file.display())))?;
    let key = public_key_of(public_key)?;
    let link = open_link(&envelope, std::slice::from_ref(&key))?;
    // An envelope ends with a brace: a line feed behind it came with a copy.
    let signed = envelope.strip_suffix(b"\n").unwrap_or(&envelope);
    let proven = Proven { link, digest: crate::drill::hex_digest(signed), envelope };
    if global.json {
        output::json(&document(&proven))?;
        return Ok(0);
    }
    let what = match &proven.link.entry {
        Entry::Drill(report) => format!(
            "drill {} of cluster {} ({}): {}, RTO {:.1} s, {}",
            report.id,
            report.cluster,
            report.system_identifier,
            report.verdict.as_str(),
            report.rto_seconds,
            report.started_at
        ),
        Entry::Note(note) => format!("note on drill {}: {}", note.drill, note.text),
    };
    output::line(format!("genuine: signed with key {}", key.id()))?;
    output::line(format!("report {}: {what}", proven.link.sequence))?;
    Ok(0)
}

pub(super) fn keygen(global: &Global, to: Option<&Path>) -> Result<u8> {
    start::log(global, false, LevelFilter::WARN);
    let key = DrillKey::generate()?;
    let (private, public) = (key.to_pem(), key.public());
    if let Some(to) = to {
        write_new(to, &[private.as_bytes()], "a key in use must never be replaced; name a new file")?;
    }
    if global.json {
        let mut document = json!({ "key_id": public.id(), "public_key": public.to_pem() });
        match to {
            Some(to) => document["file"] = json!(to.to_string_lossy()),
            None => document["private_key"] = json!(private.as_str()),
        }
        output::json(&document)?;
    } else {
        if to.is_none() {
            output::line(private.trim_end())?;
        }
        output::line(public.to_pem().trim_end())?;
    }
    Ok(0)
}

fn public_key_of(path: &Path) -> Result<PublicKey> {
    let text = std::fs::read_to_string(path)
        .map_err(|cause| Error::usage(format!("read {}: {cause}", path.display())))?;
    PublicKey::parse(&text)
}

/// The keys that count.
fn trusted(config: &Config, paths: &[PathBuf]) -> Result<Vec<PublicKey>> {
    if paths.is_empty() {
        let own = config.drill_signing_key().map_err(|error| {
            error.context("whose signatures count?").hint("name the public key with --public-key FILE")
        })?;
        return Ok(vec![DrillKey::parse(&own)?.public()]);
    }
    paths.iter().map(|path| public_key_of(path)).collect()
}

fn read(config: &Config, trust: &Trust) -> Result<(Repository, Evidence)> {
    let keys = trusted(config, &trust.public_key)?;
    let namespace = config.namespace(Policy::default())?;
    start::run_large(async {
        let repository = context::open(config, &namespace, None).await?;
        let evidence = judged(config, &repository, &keys).await?;
        Ok((repository, evidence))
    })
}

async fn judged(config: &Config, repository: &Repository, keys: &[PublicKey]) -> Result<Evidence> {
    let memory = Memory::of(&config.drill.directory, repository);
    Ok(Stored::read(repository).await?.judge(keys, memory.recall().as_ref()))
}

fn find<'a>(evidence: &'a Evidence, id: Option<&str>) -> Result<(&'a Proven, &'a Report)> {
    let found = match id {
        Some(id) => evidence.drills().find(|(_, report)| report.id == id),
        None => evidence.drills().next_back(),
    };
    found.ok_or_else(|| match (id, evidence.tampered.first()) {
        (_, Some(tampered)) => {
            Error::corrupt(format!("there is no such drill with evidence that holds; {tampered}"))
        }
        (Some(id), None) => Error::impossible(format!("there is no drill {id}"))
            .hint("`walproof drill-list` lists the existing ones"),
        (None, None) => Error::impossible("there has been no drill yet").hint("`walproof drill` makes one"),
    })
}

/// A report as the contract's JSON has it.
fn document(proven: &Proven) -> Value {
    let mut document = match serde_json::to_value(&proven.link) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    document.insert("digest".to_owned(), json!(proven.digest));
    Value::Object(document)
}

pub(super) fn show(global: &Global, proven: &Proven) -> Result<()> {
    if global.json {
        return output::json(&document(proven));
    }
    let Entry::Drill(report) = &proven.link.entry else { return Ok(()) };
    output::line(text::summary(proven, report).trim_end())
}
