//! [`clean`]: what stores and clients say, without the secrets that they repeat.
//!
//! It is better to lose a word of an explanation than to show a key, so a value is cut by the name before it, whatever
//! the value looks like:
//! * after `=`, `:`, `>` or `%3D`, on the same line or the next, where the name before it speaks of a token, a signature, a
//!   key to something, a password: a word, all of a quoted text, or all that brackets hold;
//! * the rest of the line after `Authorization`, and the word after `Bearer` and its like;
//! * of a URL the user, the password and the query.

/// Longest text that is kept, in characters: a server may answer with a page of HTML.
const CHARS_MAX: usize = 400;

/// What stands for a value that was cut.
const REMOVED: &str = "[removed]";

/// Parts of names, in lower case and without `_` and `-`, whose values are not shown.
const SECRET_NAMES: [&str; 13] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "signature",
    "credential",
    "accesskey",
    "accountkey",
    "sharedkey",
    "apikey",
    "privatekey",
    "xamz",
];

/// Ways to authenticate, whose next word is the proof.
const SCHEMES: [&str; 4] = ["bearer", "basic", "negotiate", "sharedkey"];

/// Cuts secrets, joins lines, limits the length.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::new();
    for word in without_secrets(text).split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    match out.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &out[..end]),
        None => out,
    }
}

fn without_secrets(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let name_len = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_len);
        out.push_str(name);
        rest = after;
        if name.is_empty() {
            let next = rest.chars().next().map_or(0, char::len_utf8);
            out.push_str(&rest[..next]);
            rest = &rest[next..];
        } else if let Some(url) = rest.strip_prefix("://") {
            out.push_str("://");
            rest = copy_url(url, &mut out);
        } else {
            rest = cut_value(name, rest, &mut out);
        }
    }
    out
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Copies host and path of what follows `://`, and gives what follows the URL.
fn copy_url<'a>(url: &'a str, out: &mut String) -> &'a str {
    let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`');
    let (url, after) = url.split_at(url.find(ends).unwrap_or(url.len()));
    // A password that was not encoded may hold anything, so the last `@` counts, even where it belongs to the path.
    let without_user = url.rfind('@').map_or(url, |at| &url[at + 1..]);
    let shown = without_user.split(['?', '#']).next().unwrap_or("");
    out.push_str(shown);
    if without_user.len() > shown.len() {
        // Brackets that close around the URL.
        let closing = url.trim_end_matches([')', ']', '}', ',', ';', '.']);
        out.push_str(&url[closing.len()..]);
    }
    after
}

/// Called with what follows `name`: copies the separator and cuts the value where the name asks for it. Gives the rest.
fn cut_value<'a>(name: &str, after: &'a str, out: &mut String) -> &'a str {
    let plain: String = name
        .chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    if plain == "authorization" || plain == "proxyauthorization" {
        return cut_header(after, out);
    }
    let secret = plain == "sig"
        // The last two: after an encoded `&` and `?`.
        || [".sig", "26sig", "3fsig"].iter().any(|end| plain.ends_with(end))
        || SECRET_NAMES.iter().any(|secret| plain.contains(secret));
    if secret && let Some((separator, value)) = split_separator(after) {
        // Prose: "loading credential: file not found".
        if !(plain == "credential" && separator == ": " && !value.starts_with(['"', '\\', '\''])) {
            out.push_str(separator);
            return cut_one(value, out);
        }
    }
    if SCHEMES.contains(&plain.as_str()) {
        let value = after.trim_start();
        if value.len() < after.len() && !value.is_empty() {
            out.push(' ');
            return cut_one(value, out);
        }
    }
    after
}

/// The separator with the quotes and blanks around it, and the value; `None` where no separator follows.
fn split_separator(after: &str) -> Option<(&str, &str)> {
    let around = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ']' | '`');
    let separator = after.trim_start_matches(around);
    let value = match separator.strip_prefix([':', '=', '>']) {
        Some(value) => value,
        None => after_encoded(separator)?,
    };
    // `=>`, and what Debug puts there.
    let value = value.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '=' | '>'));
    Some((&after[..after.len() - value.len()], value))
}

/// What follows a percent-encoded `=` or `:`, encoded once or more often.
fn after_encoded(text: &str) -> Option<&str> {
    let code = text.strip_prefix('%')?.trim_start_matches("25");
    ["3D", "3d", "3A", "3a"]
        .iter()
        .find_map(|separator| code.strip_prefix(separator))
}

/// Cuts one value, quoted, in brackets or neither, and gives what follows it.
fn cut_one<'a>(value: &'a str, out: &mut String) -> &'a str {
    out.push_str(REMOVED);
    // A name before it: `b"…"`, `Some(…)`, `Secret { … }`.
    let name_len = value.find(|c| !is_name_char(c)).unwrap_or(value.len());
    let inner = &value[name_len..];
    if let Some(after) = after_quoted(inner) {
        return after;
    }
    let body = inner.strip_prefix(' ').filter(|body| body.starts_with('{'));
    let inner = body.unwrap_or(inner);
    if inner.starts_with(['(', '[', '{']) {
        return after_brackets(inner);
    }
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '&' | '<' | '"' | '}' | ')');
    &value[value.find(ends).unwrap_or(value.len())..]
}

/// What follows the quoted text that `text` begins with, if it does.
fn after_quoted(text: &str) -> Option<&str> {
    // Debug shows a string inside a string with a backslash before each quote; an inner quote then has more of them.
    let depth = text.len() - text.trim_start_matches('\\').len();
    let quote = text[depth..].chars().next()?;
    if !matches!(quote, '"' | '\'' | '`') {
        return None;
    }
    let text = &text[depth + 1..];
    let mut slashes = 0;
    for (at, c) in text.char_indices() {
        if c == quote && slashes <= depth {
            return Some(&text[at + 1..]);
        }
        slashes = if c == '\\' { slashes + 1 } else { 0 };
    }
    Some("")
}

/// What follows the bracket that closes the one that `text` begins with; nothing where none does.
fn after_brackets(text: &str) -> &str {
    let mut rest = text;
    let mut depth = 0;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = after_quoted(rest) {
            rest = after;
            continue;
        }
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        rest = &rest[c.len_utf8()..];
        if depth == 0 {
            return rest;
        }
    }
    ""
}

/// Cuts the value of an authorization header: a quoted one to its end, any other to the end of its line.
fn cut_header<'a>(after: &'a str, out: &mut String) -> &'a str {
    let value = match split_separator(after) {
        Some((separator, value)) => {
            out.push_str(separator);
            if value.starts_with(['"', '\'', '\\', '[', '(', '{']) {
                return cut_one(value, out);
            }
            value
        }
        None => {
            out.push(' ');
            after.trim_start()
        }
    };
    if !value.is_empty() {
        out.push_str(REMOVED);
    }
    &value[value.find('\n').unwrap_or(value.len())..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_are_cut_by_the_name_before_them() {
        for text in [
            "token: S3CRET",
            "session_token = S3CRET, and more",
            r#"{"token":"S3CRET","code":"x"}"#,
            r#"{"token" : "SEC\"S3CRET"}"#,
            r#"Error { body: "{\"access_token\":\"S3CRET\",\"a\":1}" }"#,
            r#"token: Some("S3CRET")"#,
            "Authorization: Bearer S3CRET",
            "Authorization: AWS4-HMAC-SHA256 Credential=S3CRET/x, Signature=S3CRET",
            "Authorization S3CRET",
            r#"{"authorization": "AWS S3CRET:S3CRET", "host": "h"}"#,
            "proxy-authorization: Basic S3CRET",
            "sent Bearer S3CRET to the server",
            "bearer   S3CRET",
            "https://user:S3CRET@host/path",
            "https://S3CRET@host/path",
            "https://user:S3CRET/S3CRET@host",
            "https://user:SEC?S3CRET@host/path",
            "(https://host/path?X-Amz-Signature=S3CRET)",
            "url=http://h/?sig=S3CRET&x=1 failed",
            "<SecretAccessKey>S3CRET</SecretAccessKey>",
            "<AWSAccessKeyId>S3CRET</AWSAccessKeyId>",
            "AccountKey=S3CRET==;EndpointSuffix=x",
            "sig=S3CRET",
            "x-amz-security-token: S3CRET",
            r#""x-amz-security-token": "S3CRET""#,
            "password='S3CRET S3CRET'",
            "AWS_SECRET_ACCESS_KEY=S3CRET",
            "secret => S3CRET",
            "secret:\n  S3CRET",
            "<Token>\n  S3CRET\n</Token>",
            "{\n  \"token\" :\n    \"S3CRET\"\n}",
            "private_key: \"-----BEGIN KEY-----\nS3CRET\nS3CRET\n\"",
            "Authorization:\n Basic S3CRET",
            "Authorization\nS3CRET",
            "sent Bearer\nS3CRET",
            r#"{"x-amz-security-token": ["S3CRET"]}"#,
            r#"{"token": ["a", "S3CRET"]}"#,
            r#"token: ["a]", "S3CRET"]"#,
            r#"body: "{\"token\": [\"a\", \"S3CRET\"]}""#,
            r#"token: Ok("S3CRET")"#,
            r#"token: Ok(Some("S3CRET"))"#,
            r#"secret: Secret { inner: "S3CRET" }"#,
            "token: Some(S3CRET)",
            r#"token: b"S3CRET""#,
            r#"authorization: ["Bearer S3CRET"]"#,
            "to=https%3A%2F%2Fh%2F%3Fx%3D1%26sig%3DS3CRET",
            "X-Amz-Signature%3DS3CRET%26x%3D1",
            "token%253dS3CRET",
        ] {
            let shown = clean(text);
            assert!(!shown.contains("S3CRET"), "{text} -> {shown}");
        }
    }

    #[test]
    fn what_explains_stays() {
        for (text, expected) in [
            (
                r#"S3Error { code: "InvalidAccessKeyId", message: "no such key" }"#,
                r#"S3Error { code: "InvalidAccessKeyId", message: "no such key" }"#,
            ),
            (
                "GET https://u:p@h:1/k?a=b failed",
                "GET https://h:1/k failed",
            ),
            ("see http://h/a, and", "see http://h/a, and"),
            ("(at https://h/k?x=1)", "(at https://h/k)"),
            (
                "loading credential: file not found",
                "loading credential: file not found",
            ),
            (
                r#"{"token":"abc","code":"Expired"}"#,
                r#"{"token":[removed],"code":"Expired"}"#,
            ),
            (
                "org.apache.hadoop.security.AccessControlException: user=x",
                "org.apache.hadoop.security.AccessControlException: user=x",
            ),
            ("two\n lines", "two lines"),
            (
                r#"Error { token: Some("abc"), list: ["b"], message: "no key" }"#,
                r#"Error { token: [removed], list: ["b"], message: "no key" }"#,
            ),
            (
                "Authorization: abc\nthe clock is wrong",
                "Authorization: [removed] the clock is wrong",
            ),
        ] {
            assert_eq!(clean(text), expected);
        }
        assert_eq!(clean(&"x".repeat(1000)).chars().count(), CHARS_MAX + 1);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_fail(text in "[a-z:=\"'\\\\/@?#<>é \n(){}\\[\\]%3D-]{0,60}") {
            clean(&text);
            clean(&format!("token{text}"));
            clean(&format!("Authorization{text}"));
            clean(&format!("http://{text}"));
        }

        #[test]
        fn a_value_of_a_secret_name_never_shows(
            name in "(AWS_)?(token|Secret|password|access_?key|x-amz-[a-z]{1,5}|apiKey)(_id)?",
            open in "[ ]?[:=][ ]?|\": ?\"|\\\\\": ?\\\\\"|>|=\"|%3D|:\n|: ?\\[\"|: Ok\\(\"",
            value in "[A-Za-z0-9/+=]{8,30}",
        ) {
            let shown = clean(&format!("before {name}{open}{value}\" after"));
            prop_assert!(!shown.contains(&value), "{shown}");
        }
    }
}
