//! docs/METRICS.md, the dashboard and the alert rules against what is served.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    exposition::{Scrape, Served, scrape},
    figures::life,
    promql,
};

fn read(name: &str) -> String {
    let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The rows of docs/METRICS.md: those that begin with a metric.
fn table() -> BTreeMap<String, Served> {
    let mut table = BTreeMap::new();
    for line in read("METRICS.md").lines() {
        let Some(row) = line.strip_prefix("| `lazurite_") else {
            continue;
        };
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        let [name, kind, labels, help] = cells[..] else {
            panic!("not four cells: {line}");
        };
        let name = format!("lazurite_{}", name.trim_end_matches('`'));
        let served = Served {
            kind: kind.to_owned(),
            labels: labels.split(", ").map(str::to_owned).collect(),
            help: help.to_owned(),
        };
        assert!(table.insert(name, served).is_none(), "twice: {line}");
    }
    table
}

#[test]
fn the_table_is_what_is_served() {
    life("table");
    let (served, table) = (scrape().metrics, table());
    let names = |of: &BTreeMap<String, Served>| of.keys().cloned().collect::<BTreeSet<_>>();
    let (a, b) = (names(&served), names(&table));
    assert_eq!(
        a,
        b,
        "only served: {:?}, only in the table: {:?}",
        &a - &b,
        &b - &a
    );
    for (name, served) in &served {
        assert_eq!(&table[name], served, "{name}: the table has the first");
    }
}

/// Fails where an expression uses a metric, a label or a value that is not served.
fn check(expression: &str, scrape: &Scrape) -> BTreeSet<String> {
    let uses = promql::uses(expression);
    assert!(!uses.metrics.is_empty(), "{expression}");
    let mut labels: BTreeSet<String> = BTreeSet::new();
    for (name, matchers) in &uses.metrics {
        let samples: Vec<_> = scrape.samples.iter().filter(|s| s.name == *name).collect();
        assert!(!samples.is_empty(), "{expression}: no {name} is served");
        labels.extend(samples[0].labels.keys().cloned());
        for (label, value) in matchers {
            let known = |s: &&&crate::exposition::Sample| {
                let found = s.labels.get(label);
                found.is_some_and(|found| value.starts_with('$') || found == value)
            };
            assert!(
                samples.iter().any(|s| known(&s)),
                "{expression}: {label}={value}"
            );
        }
    }
    for grouping in &uses.groupings {
        assert!(
            labels.contains(grouping),
            "{expression}: no label {grouping}"
        );
    }
    labels
}

fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<(&'a Value, &'a str)>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get(key) {
                found.push((value, text));
            }
            fields.values().for_each(|v| strings(v, key, found));
        }
        Value::Array(items) => items.iter().for_each(|v| strings(v, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_uses_only_what_is_served() {
    life("dashboard");
    let scrape = scrape();
    let dashboard: Value = serde_json::from_str(&read("grafana/lazurite.json")).unwrap();
    assert!(dashboard["title"].is_string() && dashboard["uid"].is_string());
    let mut expressions = Vec::new();
    strings(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() >= 30, "{}", expressions.len());
    let mut used = BTreeSet::new();
    for (target, expression) in expressions {
        let labels = check(&expression.replace("$__rate_interval", "5m"), &scrape);
        used.extend(promql::uses(expression).metrics.into_keys());
        let legend = target["legendFormat"].as_str().expect("a legend");
        for part in legend.split("{{").skip(1) {
            let label = part.split("}}").next().unwrap().trim();
            assert!(labels.contains(label), "{expression}: legend {legend}");
        }
    }
    let ids: Vec<_> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["id"].as_u64())
        .collect();
    assert_eq!(
        ids.iter().collect::<BTreeSet<_>>().len(),
        ids.len(),
        "{ids:?}"
    );
    // Whoever adds a metric finds out here that nobody would see it.
    let unseen: Vec<_> = table()
        .into_keys()
        .filter(|name| {
            !used
                .iter()
                .any(|u| u == name || u.starts_with(&format!("{name}_")))
        })
        .collect();
    assert!(unseen.is_empty(), "in no panel: {unseen:?}");
}

#[test]
fn the_alerts_use_only_what_is_served() {
    life("alerts");
    let scrape = scrape();
    let text = read("prometheus/alerts.yml");
    let (mut alerts, mut expressions) = (0, 0);
    for line in text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
    {
        // The part of YAML that this file keeps to: a key and a plain or quoted value on one line.
        let (key, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
        let depth = key.len() - key.trim_start().len();
        let key = key.trim_start().trim_start_matches("- ");
        let value = value.trim();
        let (wanted, filled) = match key {
            "groups" => (0, false),
            "name" => (2, true),
            "rules" => (4, false),
            "alert" => (6, true),
            "expr" | "for" => (8, true),
            "labels" | "annotations" => (8, false),
            "severity" | "summary" | "description" => (10, true),
            _ => panic!("an unknown key: {line:?}"),
        };
        assert_eq!((depth, !value.is_empty()), (wanted, filled), "{line:?}");
        // A plain value of YAML must not hold these.
        let quoted = value.starts_with('\'') && value.ends_with('\'') && value.len() > 1;
        assert!(
            quoted || !(value.contains(": ") || value.contains(" #")),
            "{line:?}"
        );
        match key {
            "alert" => alerts += 1,
            "expr" => {
                expressions += 1;
                check(value, &scrape);
            }
            _ => {}
        }
    }
    assert!(
        alerts >= 8 && alerts == expressions,
        "{alerts} {expressions}"
    );
}
