//! `meridian cert`, by hand and in the order of the help.

use crate::support::{fails, run, succeeds};

#[test]
fn certificates_are_made_step_by_step() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let with = |words: &[&str]| {
        let mut all = vec!["cert", "--data-dir", place];
        all.extend(words);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let words = |all: &[String]| all.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let good = |all: &[&str]| {
        let all = with(all);
        succeeds(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let bad = |all: &[&str]| {
        let all = with(all);
        fails(1, &all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(bad(&["issue", "us-east"]).contains("meridian cert init"));
    good(&["init"]);
    assert!(bad(&["init"]).contains("already"), "{}", words(&with(&["init"])));
    good(&["issue", "us-east"]);
    assert!(bad(&["issue", "mars"]).contains("mars"));
    let shown = good(&["show"]);
    let line = |name: &str| shown.lines().find(|l| l.starts_with(name)).unwrap_or("").to_owned();
    assert!(line("authority").contains("valid for 36"), "{shown}");
    assert!(line("us-east").contains("valid for 36"), "{shown}");
    assert!(line("eu-central").contains("none"), "{shown}");
    good(&["issue"]);
    assert!(!good(&["show"]).contains("none"));
}

#[test]
fn a_node_without_certificates_says_how_to_make_them() {
    let directory = tempfile::tempdir().unwrap();
    let topology = crate::support::topology(directory.path());
    let file = topology.file.to_str().unwrap();
    let place = directory.path().to_str().unwrap();
    let arguments = ["node", "--config", file, "--region", "one", "--data-dir", place];
    let said = fails(1, &arguments);
    assert!(said.contains("meridian cert issue one"), "{said}");
    assert!(!run(&arguments).status.success());
}
