//! `keygen`: a new key.

use std::path::Path;

use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{args::Global, new_file::write_new, output, start};
use crate::error::Result;
use crate::seal::MasterKey;

pub(super) fn keygen(global: &Global, to: Option<&Path>) -> Result<u8> {
    start::log(global, false, LevelFilter::WARN);
    let text = MasterKey::generate()?.to_text();
    let Some(path) = to else {
        if global.json {
            output::json(&json!({ "key": text.as_str() }))?;
        } else {
            output::line(text.as_str())?;
        }
        return Ok(0);
    };
    let hint = "a key in use must never be replaced; choose another name for a new one";
    write_new(path, &[text.as_bytes(), b"\n"], hint)?;
    if global.json {
        output::json(&json!({ "file": path.to_string_lossy() }))?;
    } else {
        output::line(format!(
            "a new key is in {}; keep a copy elsewhere: without it nothing can be restored",
            path.display()
        ))?;
    }
    Ok(0)
}
