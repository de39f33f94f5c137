//! Just enough of PromQL to see which metrics and labels an expression uses.

use std::collections::{BTreeMap, BTreeSet};

/// What an expression uses.
#[derive(Debug, Default)]
pub struct Uses {
    /// Metrics, and the label values that are compared by `=`.
    pub metrics: BTreeMap<String, Vec<(String, String)>>,
    /// Labels outside of braces: `by (…)` and the like.
    pub groupings: BTreeSet<String>,
}

const WORDS: [&str; 22] = [
    "rate",
    "increase",
    "sum",
    "max",
    "min",
    "avg",
    "count",
    "topk",
    "histogram_quantile",
    "time",
    "clamp_min",
    "label_values",
    "and",
    "or",
    "unless",
    "bool",
    "delta",
    "changes",
    "max_over_time",
    "deriv",
    "vector",
    "scalar",
];
const GROUPINGS: [&str; 5] = ["by", "on", "without", "ignoring", "group_left"];

/// Reads an expression; fails where it holds a word that is neither a metric of ours nor known.
pub fn uses(expression: &str) -> Uses {
    let tokens = tokens(expression);
    let mut uses = Uses::default();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].as_str();
        at += 1;
        let next = tokens.get(at).map(String::as_str);
        if !token.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        if token.starts_with("lazurite_") {
            let matchers = uses.metrics.entry(token.to_owned()).or_default();
            if next == Some("{") {
                at += 1;
                while tokens[at] != "}" {
                    let [label, operator, value] = &tokens[at..at + 3] else {
                        panic!("{expression}");
                    };
                    assert!(
                        ["=", "!=", "=~", "!~"].contains(&operator.as_str()),
                        "{expression}"
                    );
                    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
                    let value = value.unwrap_or_else(|| panic!("{expression}: {operator}"));
                    let compared = if operator == "=" { value } else { "$" };
                    matchers.push((label.clone(), compared.to_owned()));
                    at += 3;
                    at += usize::from(tokens[at] == ",");
                }
                at += 1;
            }
        } else if GROUPINGS.contains(&token) {
            assert_eq!(next, Some("("), "{expression}");
            at += 1;
            while tokens[at] != ")" {
                if tokens[at] != "," {
                    uses.groupings.insert(tokens[at].clone());
                }
                at += 1;
            }
        } else {
            assert!(
                WORDS.contains(&token),
                "{expression}: {token:?} is not known"
            );
        }
    }
    uses
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let end = match first {
            '"' => rest[1..].find('"').expect("a closing quote") + 2,
            '[' => rest.find(']').expect("a closing bracket") + 1,
            '!' | '=' if rest[1..].starts_with(['=', '~']) => 2,
            c if c.is_ascii_digit() => rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
                .unwrap_or(rest.len()),
            c if word(c) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        tokens.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    tokens
}

#[test]
fn an_expression_is_taken_apart() {
    let uses = uses(
        "histogram_quantile(0.99, sum by (job, le) (rate(lazurite_a_bucket{tier=\"x\", job=~\"$job\"}[5m]))) > 1e3 \
         and on (job) lazurite_b == 1",
    );
    assert_eq!(
        uses.metrics.keys().collect::<Vec<_>>(),
        ["lazurite_a_bucket", "lazurite_b"]
    );
    let matchers = &uses.metrics["lazurite_a_bucket"];
    assert_eq!(matchers[0], ("tier".into(), "x".into()));
    assert_eq!(matchers[1], ("job".into(), "$".into()));
    assert_eq!(uses.groupings, ["job", "le"].map(str::to_owned).into());
}

#[test]
#[should_panic(expected = "rat")]
fn an_unknown_word_is_refused() {
    uses("rat(lazurite_a[5m])");
}
