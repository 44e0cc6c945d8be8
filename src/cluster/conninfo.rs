//! The connection string of the configuration, and what of it may be shown.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::server_error;
use crate::error::{Error, Result};

const HINT: &str = "is conninfo of the form 'host=/var/run/postgresql user=postgres dbname=postgres'?";

/// libpq's `key=value` or URL form. Of libpq's defaults only the user applies, that of the operating system.
pub(super) fn parse(conninfo: &str) -> Result<Config> {
    let mut config: Config = conninfo.parse().map_err(|cause: tokio_postgres::Error| {
        // The parser quotes what it stumbles over, which may be a part of the password.
        let secret = conninfo.contains("password") || conninfo.contains("://");
        let reason = if secret { "invalid connection string".to_owned() } else { server_error::text(&cause) };
        Error::usage(format!("read conninfo: {reason}")).hint(HINT)
    })?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Error::usage("conninfo names no host").hint(HINT));
    }
    config.keepalives_idle(Duration::from_mins(1)).keepalives_interval(Duration::from_secs(10));
    Ok(config)
}

/// Where to and as whom, for messages: never the password, nor options that could hold one.
pub(super) fn target(config: &Config) -> String {
    let ports = config.get_ports();
    let mut target = String::new();
    for (index, host) in config.get_hosts().iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let port = ports.get(index).or(ports.first()).unwrap_or(&5432);
        let host = match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        };
        // Writing to a string cannot fail.
        let _ = write!(target, "{separator}{host} port {port}");
    }
    if target.is_empty() {
        target.push_str("the server");
    }
    if let Some(user) = config.get_user() {
        let _ = write!(target, " as {user}");
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_it_has_no_password() {
        let shown = |conninfo| target(&parse(conninfo).unwrap());
        assert_eq!(
            shown("host=/run/postgresql user=backup password=hunter2"),
            "/run/postgresql port 5432 as backup"
        );
        assert_eq!(shown("postgresql://backup:hunter2@db:5433/app"), "db port 5433 as backup");
        assert_eq!(shown("host=a,b port=1,2 user=u"), "a port 1, b port 2 as u");
        assert_eq!(shown("hostaddr=127.0.0.1 user=u"), "the server as u");
    }

    #[test]
    fn a_bad_one_is_refused_without_quoting_a_password() {
        for conninfo in ["password=hunter2 hunter3", "postgres://u:hunter2@h:hunter3/x", "password='hunter2"]
        {
            let error = parse(conninfo).unwrap_err();
            assert_eq!(error.to_string(), "read conninfo: invalid connection string");
        }
        let error = parse("hots=x").unwrap_err();
        assert_eq!(error.to_string(), "read conninfo: invalid connection string: unknown option `hots`");
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert_eq!(parse("user=postgres").unwrap_err().to_string(), "conninfo names no host");
    }
}
