//! `meridian config`, and how the command line refuses.

use crate::support::{fails, run, succeeds};

#[test]
fn the_example_can_be_written_checked_and_printed_in_full() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("regions.yaml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, succeeds(&["config", "example"])).unwrap();
    let said = succeeds(&["config", "check", file]);
    for word in ["cluster demo", "us-east", "ap-southeast", "redis.meridian.test", "220 ms"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    let full = directory.path().join("full.yaml");
    std::fs::write(&full, succeeds(&["config", "check", "--full", file])).unwrap();
    assert!(succeeds(&["config", "check", full.to_str().unwrap()]).contains("cluster demo"));
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("regions.yaml");
    let text = succeeds(&["config", "example"]).replace("ordinal: 1", "ordinal: 0");
    std::fs::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let said = fails(1, &["config", "check", file]);
    assert!(said.starts_with("meridian: "), "{said}");
    assert!(said.contains(file) && said.contains("us-east and eu-central are both 0"), "{said}");
    let missing = fails(1, &["config", "check", "/nowhere/regions.yaml"]);
    assert!(missing.contains("/nowhere/regions.yaml"), "{missing}");
}

#[test]
fn a_command_line_that_is_not_understood_has_a_code_of_its_own() {
    fails(2, &["node"]);
    fails(2, &["fly"]);
    fails(2, &["up", "--no-wan", "--no-delay"]);
    assert!(run(&["--help"]).status.success());
    let help = succeeds(&["help", "node"]);
    for word in ["MERIDIAN_PASSWORD", "--region", "appendfsync"] {
        assert!(help.contains(word), "{word} is not in: {help}");
    }
}

#[test]
fn a_node_of_an_unknown_region_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("regions.yaml");
    std::fs::write(&path, succeeds(&["config", "example"])).unwrap();
    let file = path.to_str().unwrap();
    let said = fails(1, &["node", "--config", file, "--region", "mars"]);
    assert!(said.contains("mars") && said.contains("us-east"), "{said}");
}
