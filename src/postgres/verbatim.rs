//! Bytes as PostgreSQL or the operator left them, mostly text: paths, configuration (R33).

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Any bytes. As text, in JSON and in messages, a backslash is written as `\\` and a byte that is
/// not part of UTF-8 as `\xff`, FORMAT.md "Terminology".
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Verbatim(Vec<u8>);

impl Verbatim {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is a relative path that leads nowhere but below its directory.
    pub fn is_inside(&self) -> bool {
        self.0.split(|byte| *byte == b'/').all(|part| !part.is_empty() && part != b"." && part != b"..")
            && !self.0.contains(&0)
    }
}

impl fmt::Display for Verbatim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(&chunk.valid().replace('\\', "\\\\"))?;
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Verbatim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for Verbatim {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('\\');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        while let Some(part) = parts.next() {
            let rest = if part.is_empty() {
                bytes.push(b'\\');
                // What follows the second backslash.
                parts.next()
            } else {
                let digits = part.strip_prefix('x').and_then(|rest| rest.split_at_checked(2));
                let byte = digits.and_then(|(digits, _)| u8::from_str_radix(digits, 16).ok());
                bytes.extend(byte);
                byte.and(digits).map(|(_, rest)| rest)
            };
            let rest = rest.ok_or_else(|| Error::corrupt(format!("\"{text}\" has a backslash too many")))?;
            bytes.extend_from_slice(rest.as_bytes());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Verbatim {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Verbatim> for String {
    fn from(bytes: Verbatim) -> Self {
        bytes.to_string()
    }
}

impl From<Vec<u8>> for Verbatim {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&Path> for Verbatim {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<&str> for Verbatim {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r33_all_bytes_come_back_from_their_text() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"base/1/1259", "base/1/1259"),
            ("Stra\u{df}e\n".as_bytes(), "Stra\u{df}e\n"),
            (b"log/\xff.log", "log/\\xff.log"),
            (b"a\\b\\\\x41", "a\\\\b\\\\\\\\x41"),
            (b"\xe2\x82", "\\xe2\\x82"),
        ] {
            let verbatim = Verbatim::from(bytes.to_vec());
            assert_eq!(verbatim.to_string(), text);
            assert_eq!(text.parse::<Verbatim>().unwrap(), verbatim);
        }
        let mut noise = crate::postgres::noise::noise();
        for _ in 0..2000 {
            let len = noise() % 20;
            let bytes: Vec<u8> = (0..len).map(|_| b"\\x4f\xff\xc3\xa9/"[noise() % 8]).collect();
            let verbatim = Verbatim::from(bytes);
            assert_eq!(verbatim.to_string().parse::<Verbatim>().unwrap(), verbatim);
        }
    }

    #[test]
    fn text_that_no_bytes_have_is_refused() {
        for text in ["\\", "a\\b", "\\x", "\\x4", "\\xg0", "\\\\\\", "\\x\u{e9}"] {
            text.parse::<Verbatim>().unwrap_err();
        }
    }

    #[test]
    fn paths_that_lead_outside_are_told() {
        for path in ["", "/a", "a//b", "a/", "./a", "a/../b", "..", "a\0"] {
            assert!(!Verbatim::from(path).is_inside(), "{path}");
        }
        assert!(Verbatim::from("a/..b/.c").is_inside());
    }
}
