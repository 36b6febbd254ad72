//! `${VAR}`, `${VAR:-default}` and `${VAR:?message}` inside string values; `$${` is a plain `${`.

use std::ops::Range;

use super::Code;

/// Longest value after substitution, in bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Why a substitution failed, and which part of the text.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) range: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Substitutes variables; `None` if there are none. What is put in is not looked at again.
pub(crate) fn expand(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, Failure> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(found) = text[at..].find("${") {
        let start = at + found;
        if text[..start].ends_with('$') && start > at {
            out.push_str(&text[at..start - 1]);
            out.push_str("${");
            at = start + 2;
            continue;
        }
        out.push_str(&text[at..start]);
        let Some(length) = text[start..].find('}') else {
            return Err(Failure {
                code: Code::BadSubstitution,
                range: start..text.len(),
                message: "`${` without `}`".into(),
                help: Some("write `$${` for a plain `${`".into()),
            });
        };
        let range = start..start + length + 1;
        out.push_str(&substitute(&text[start + 2..start + length], &range, env)?);
        at = range.end;
        if out.len() > VALUE_BYTES_MAX {
            return Err(Failure {
                code: Code::TooLarge,
                range,
                message: format!("has more than {VALUE_BYTES_MAX} bytes after substitution"),
                help: None,
            });
        }
    }
    out.push_str(&text[at..]);
    Ok(Some(out))
}

fn substitute(
    inner: &str,
    range: &Range<usize>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Failure> {
    let end = inner.find(':').unwrap_or(inner.len());
    let (name, rest) = inner.split_at(end);
    let first_is_letter = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let valid = first_is_letter && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let bad = || Failure {
        code: Code::BadSubstitution,
        range: range.clone(),
        message: format!("cannot read the substitution `${{{inner}}}`"),
        help: Some("write `${NAME}`, `${NAME:-default}` or `${NAME:?message}`".into()),
    };
    if !valid {
        return Err(bad());
    }
    let unset = |message: String, help: Option<String>| Failure {
        code: Code::UnsetVariable,
        range: range.clone(),
        message,
        help,
    };
    match rest.get(..2) {
        None if rest.is_empty() => env(name).ok_or_else(|| {
            let help = format!("set it, or give a default: `${{{name}:-default}}`");
            unset(format!("the variable `{name}` is not set"), Some(help))
        }),
        Some(":-") => Ok(env(name)
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| rest[2..].to_owned())),
        Some(":?") => env(name).filter(|value| !value.is_empty()).ok_or_else(|| {
            unset(
                format!("the variable `{name}` is not set: {}", &rest[2..]),
                None,
            )
        }),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/${USER}".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_defaults_and_escapes_are_substituted_once() {
        for (text, expected) in [
            ("a${HOME}b", "a/home/${USER}b"),
            ("${NONE:-x}${EMPTY:-y}${EMPTY}", "xy"),
            ("${NONE:-}", ""),
            ("$${HOME} $5", "${HOME} $5"),
            ("${HOME:?must be set}", "/home/${USER}"),
        ] {
            assert_eq!(expand(text, &env).unwrap().unwrap(), expected, "{text}");
        }
        assert!(expand("plain $", &env).unwrap().is_none());
    }

    #[test]
    fn a_broken_substitution_names_its_place() {
        for (text, range, code) in [
            ("a${NONE}", 1..8, Code::UnsetVariable),
            ("${EMPTY:?say}", 0..13, Code::UnsetVariable),
            ("ab${HOME", 2..8, Code::BadSubstitution),
            ("${secret:vault/gate}", 0..20, Code::BadSubstitution),
            ("${}", 0..3, Code::BadSubstitution),
            ("${é:é}", 0..8, Code::BadSubstitution),
        ] {
            let failure = expand(text, &env).unwrap_err();
            assert_eq!((failure.range, failure.code), (range, code), "{text}");
        }
    }
}
