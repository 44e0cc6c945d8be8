//! What a failed request means: an answer, a refusal, or a fault that may pass.

use std::error::Error as _;

use crate::error::{Error, Kind};

/// Whether it is worth trying again.
pub(super) enum Failure {
    Final(Error),
    Passing(Error),
}

/// Sort out an error of the library by what the caller can do about it.
pub(super) fn classify(cause: &object_store::Error) -> Failure {
    use object_store::Error as Cause;
    let text = cause.to_string();
    match cause {
        Cause::NotFound { .. } if text.contains("NoSuchBucket") => Failure::Final(no_bucket()),
        Cause::NotFound { .. } => Failure::Final(Error::new(Kind::NotFound, "there is no such object")),
        Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => Failure::Final(denied(&text)),
        // 409 comes as "already exists" for any verb, also while another request on the key is under way.
        Cause::AlreadyExists { .. } | Cause::Precondition { .. } | Cause::NotModified { .. } => {
            Failure::Passing(unreachable(&text))
        }
        Cause::Generic { .. } => generic(cause, &text),
        _ => Failure::Final(Error::new(Kind::Other, text)),
    }
}

fn generic(cause: &object_store::Error, text: &str) -> Failure {
    // A local file and S3 say in different ways that the object ends before the range begins.
    if text.contains("Requested range was invalid") || status(text) == Some(416) {
        return Failure::Final(Error::corrupt(
            "the object is truncated: it ends before what is wanted of it",
        ));
    }
    if let Some(local) = local_cause(cause) {
        return Failure::Final(local);
    }
    if text.contains("NoSuchBucket") {
        return Failure::Final(no_bucket());
    }
    if text.contains("incorrectly configured region") {
        return Failure::Final(
            Error::new(Kind::Denied, "the store redirects us elsewhere").hint(REGION_HINT),
        );
    }
    if let Some(code) = delete_code(text) {
        return deletion(code, text);
    }
    match status(text) {
        // Request timeout, conflict, too many requests: these pass.
        Some(408 | 409 | 429) => Failure::Passing(unreachable(text)),
        // S3's own "request timeout": too little came of the body in time. Or it came mangled.
        Some(400) if PASSING.iter().any(|code| element(text, "Code").as_deref() == Some(code)) => {
            Failure::Passing(unreachable(text))
        }
        Some(501) => Failure::Final(denied(text)),
        None => Failure::Passing(unreachable(&with_innermost(cause, text))),
        Some(code) if code >= 500 => Failure::Passing(unreachable(text)),
        Some(_) => Failure::Final(denied(text)),
    }
}

/// Codes of S3 that pass although their status is 400.
const PASSING: [&str; 4] = ["RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"];

/// The code of one object's failure within the answer to a request that deletes many; the library puts it at the end.
fn delete_code(text: &str) -> Option<&str> {
    let (_, code) = text
        .strip_suffix(')')
        .filter(|text| text.contains("DeleteObjects request failed for key"))?
        .rsplit_once("(code: ")?;
    Some(code)
}

fn deletion(code: &str, text: &str) -> Failure {
    match code {
        "NoSuchKey" | "NoSuchVersion" => {
            Failure::Final(Error::new(Kind::NotFound, "there is no such object"))
        }
        "AccessDenied" | "InvalidRequest" | "ObjectLocked" | "MethodNotAllowed" | "NotImplemented" => {
            let message = text.split_once("failed for key ").map_or(text, |(_, rest)| rest);
            Failure::Final(Error::new(Kind::Denied, format!("the store refuses: {message}")).hint(
                "may these credentials delete here, and does an Object Lock or a retention rule hold the object?",
            ))
        }
        _ => Failure::Passing(unreachable(text)),
    }
}

const REGION_HINT: &str =
    "does repository.region belong to the endpoint (OVH's are lower case, such as gra)?";

fn no_bucket() -> Error {
    Error::new(Kind::Denied, "the bucket does not exist").hint("is its name in repository.url right?")
}

fn denied(text: &str) -> Error {
    let error = Error::new(Kind::Denied, format!("the store refuses: {}", answer(text)));
    if text.contains("RequestTimeTooSkewed") {
        error.hint("is this host's clock right?")
    } else if text.contains("AuthorizationHeaderMalformed") {
        error.hint(REGION_HINT)
    } else {
        error.hint("are the credentials right, and may this user do that in the bucket?")
    }
}

fn unreachable(text: &str) -> Error {
    let error = Error::new(Kind::Unreachable, answer(text));
    if text.contains("certificate") || text.contains("UnknownIssuer") {
        error.hint("does the store need repository.ca_file?")
    } else if text.contains("Connection refused") || text.contains("dns error") {
        error.hint("is repository.endpoint right, and does this host reach it?")
    } else {
        error
    }
}

/// What a client cannot be made of.
pub(super) fn of_settings(cause: &object_store::Error) -> Error {
    let text = with_innermost(cause, &cause.to_string());
    let error = Error::usage(format!("repository: {text}"));
    if text.contains("certificate") {
        error.hint(
            "install the authorities that this system trusts (ca-certificates), or name the store's in repository.ca_file",
        )
    } else {
        error
    }
}

/// The library says "error sending request"; what was wrong, only the innermost cause tells.
fn with_innermost(cause: &object_store::Error, text: &str) -> String {
    let causes = std::iter::successors(cause.source(), |error: &&dyn std::error::Error| (*error).source());
    let innermost =
        causes.last().map(ToString::to_string).filter(|innermost| !text.contains(innermost.as_str()));
    innermost.map_or_else(|| text.to_owned(), |innermost| format!("{text}: {innermost}"))
}

/// A fault of the local disk below the library: it does not pass within seconds.
fn local_cause(cause: &object_store::Error) -> Option<Error> {
    if !matches!(cause, object_store::Error::Generic { store: "LocalFileSystem", .. }) {
        return None;
    }
    let mut next = cause.source();
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(local_io(io));
        }
        next = error.source();
    }
    Some(Error::new(Kind::Unreachable, cause.to_string()))
}

fn local_io(io: &std::io::Error) -> Error {
    match io.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            Error::new(Kind::Denied, io.to_string())
                .hint("does this command run as the user that owns the repository's directory?")
        }
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::new(Kind::Unreachable, io.to_string()).hint("is the repository's file system full?")
        }
        _ => Error::new(Kind::Unreachable, io.to_string()),
    }
}

/// The HTTP status that the library puts into its message; it exposes it nowhere else.
fn status(text: &str) -> Option<u16> {
    let rest = text.split("status code: ").nth(1)?;
    rest.get(..3)?.parse().ok()
}

/// The content of an XML element of S3's answer.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value.trim().to_owned())
}

/// The library's message without its address and nesting: the status and S3's own code and message.
fn answer(text: &str) -> String {
    match (status(text), element(text, "Code"), element(text, "Message")) {
        (Some(status), Some(code), Some(message)) => format!("{status} {code}: {message}"),
        (Some(status), Some(code), None) => format!("{status} {code}"),
        (Some(status), _, _) => format!("the store answered {status}"),
        (None, _, _) => {
            let tail = text.rsplit(" - ").next().unwrap_or(text);
            tail.trim_start_matches("HTTP error: ").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Failure {
        classify(&object_store::Error::Generic { store: "S3", source: text.into() })
    }

    #[test]
    fn servers_faults_pass_and_refusals_do_not() {
        for code in [500, 502, 503, 504, 429, 408, 409] {
            let text = format!(
                "Error performing PUT http://x in 1ms - Server returned non-2xx status code: {code} X: "
            );
            assert!(
                matches!(of(&text), Failure::Passing(error) if error.kind() == Kind::Unreachable),
                "{code}"
            );
        }
        for code in ["RequestTimeout", "IncompleteBody"] {
            let text = format!("status code: 400 Bad Request: <Error><Code>{code}</Code></Error>");
            assert!(
                matches!(of(&text), Failure::Passing(error) if error.kind() == Kind::Unreachable),
                "{code}"
            );
        }
        let text = "Server returned non-2xx status code: 400 Bad Request: <Error><Code>AuthorizationHeaderMalformed</Code><Message>region 'x' is wrong</Message></Error>";
        let Failure::Final(error) = of(text) else { panic!("400 passes") };
        assert_eq!(
            error.to_string(),
            "the store refuses: 400 AuthorizationHeaderMalformed: region 'x' is wrong"
        );
        assert_eq!(error.hint_text(), Some(REGION_HINT));
    }

    #[test]
    fn what_may_not_be_deleted_is_told_from_what_could_not_be() {
        let of_code = |code: &str| {
            of(&format!("DeleteObjects request failed for key a/b: Access Denied (code: {code})"))
        };
        assert!(matches!(of_code("AccessDenied"), Failure::Final(error) if error.kind() == Kind::Denied));
        assert!(matches!(of_code("NoSuchKey"), Failure::Final(error) if error.kind() == Kind::NotFound));
        for code in ["InternalError", "SlowDown"] {
            assert!(matches!(of_code(code), Failure::Passing(error) if error.kind() == Kind::Unreachable));
        }
    }

    #[test]
    fn a_range_behind_the_end_is_a_truncated_object() {
        for text in [
            "Requested range was invalid",
            "Server returned non-2xx status code: 416 Range Not Satisfiable: ",
        ] {
            assert!(matches!(of(text), Failure::Final(error) if error.kind() == Kind::Corrupt), "{text}");
        }
    }

    #[test]
    fn a_missing_bucket_is_no_missing_object() {
        let cause =
            object_store::Error::NotFound { path: "a".into(), source: "<Code>NoSuchBucket</Code>".into() };
        assert!(matches!(classify(&cause), Failure::Final(error) if error.kind() == Kind::Denied));
    }
}
