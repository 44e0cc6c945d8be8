//! The major version in texts of PostgreSQL.

use crate::error::{Error, Result};
use crate::postgres::Major;

/// The number that `PG_VERSION` and `server_version` start with; what follows is the packager's.
pub(super) fn major_of(text: &str) -> Result<Major> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok().and_then(Major::from_number).ok_or_else(|| {
        Error::server(format!("PostgreSQL {:?} is not a version that walproof knows", text.trim()))
            .hint("is walproof older than the server?")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_off_whatever_packagers_append() {
        for text in ["15\n", "15.20", "15.20 (Debian 15.20-1.pgdg13+1)", "15devel", "15beta2"] {
            assert_eq!(major_of(text).unwrap().get(), 15, "{text}");
        }
    }

    #[test]
    fn an_unknown_one_is_refused() {
        for text in ["", "9.6\n", "8", "70000", "x15"] {
            let message = major_of(text).unwrap_err().to_string();
            assert_eq!(message, format!("PostgreSQL {:?} is not a version that walproof knows", text.trim()));
        }
    }
}
