//! `status`
use super::args::Global;
use crate::error::Result;
pub(super) fn status(_global: &Global) -> Result<u8> {
    Ok(0)
}
