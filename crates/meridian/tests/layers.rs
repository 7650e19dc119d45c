//! The layers of docs/ARCHITECTURE.md hold: a crate depends only on lower layers, and the outside
//! world (runtime, storage, network, databases) is reached from the top layers alone. Dependencies
//! of tests are exempt: a test may use anything.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// From this layer on a crate may touch the outside world.
const FIRST_ADAPTER_LAYER: u32 = 5;

/// Crates that do I/O, read clocks or bring a runtime, by name or by the start of it.
const OUTSIDE_WORLD: [&str; 16] = [
    "axum",
    "hickory-",
    "hyper",
    "mio",
    "nix",
    "postgres",
    "quinn",
    "redis",
    "reqwest",
    "rocksdb",
    "rustls",
    "socket2",
    "tempfile",
    "tokio",
    "tracing-subscriber",
    "libc",
];

/// Named like the outside world, and none of it: a protocol machine without I/O, clock or runtime,
/// which the simulation drives.
const SANS_IO: [&str; 1] = ["quinn-proto"];

/// Packages beside the layers: which layers they may see, and whether they may do I/O.
const BESIDE: [(&str, u32, bool); 3] = [
    ("simulations", FIRST_ADAPTER_LAYER, false),
    ("chaos", u32::MAX, true),
    ("benches", u32::MAX, true),
];

struct Package {
    /// Without the project's prefix: as in the table.
    name: String,
    directory: PathBuf,
    /// Names of what the package itself needs, not its tests.
    dependencies: Vec<String>,
}

#[test]
fn every_crate_is_in_the_table_and_every_row_is_a_crate() {
    let layers = layers();
    let packages = packages();
    let crates: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    for name in layers.keys() {
        assert!(crates.contains(&name.as_str()), "the table names {name}, which does not exist");
    }
    for name in crates.iter().filter(|name| beside(name).is_none()) {
        assert!(layers.contains_key(*name), "{name} is missing in the table of layers");
    }
}

#[test]
fn a_crate_depends_only_on_lower_layers() {
    let layers = layers();
    let mut wrong = Vec::new();
    for package in packages() {
        let own = match beside(&package.name) {
            Some((_, below, _)) => below,
            None => layers.get(&package.name).copied().unwrap_or(0),
        };
        for dependency in package.dependencies.iter().filter_map(|name| ours(name)) {
            let layer = layers.get(dependency).copied().unwrap_or(u32::MAX);
            if layer >= own {
                wrong.push(format!(
                    "{} (layer {own}) on {dependency} (layer {layer})",
                    package.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "dependencies sideways or upwards:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_top_layers_touch_the_outside_world() {
    let layers = layers();
    let mut wrong = Vec::new();
    for package in packages() {
        let may = match beside(&package.name) {
            Some((_, _, io)) => io,
            None => layers.get(&package.name).copied().unwrap_or(0) >= FIRST_ADAPTER_LAYER,
        };
        let outside = package.dependencies.iter().filter(|name| is_outside_world(name));
        wrong.extend(outside.filter(|_| !may).map(|name| format!("{} on {name}", package.name)));
    }
    assert!(wrong.is_empty(), "I/O below layer {FIRST_ADAPTER_LAYER}:\n{}", wrong.join("\n"));
}

#[test]
fn pure_crates_are_linted_for_purity_and_all_alike() {
    let layers = layers();
    let pure = |name: &str| match beside(name) {
        Some((_, _, io)) => !io,
        None => layers.get(name).is_some_and(|layer| *layer < FIRST_ADAPTER_LAYER),
    };
    let lints = |package: &Package| {
        let path = package.directory.join("clippy.toml");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let packages = packages();
    let pure: Vec<&Package> = packages.iter().filter(|package| pure(&package.name)).collect();
    let expected = lints(pure[0]);
    for forbidden in ["HashMap", "HashSet", "Instant::now", "SystemTime::now", "thread::sleep"] {
        assert!(expected.contains(forbidden), "clippy.toml no longer forbids {forbidden}");
    }
    for package in pure {
        assert_eq!(lints(package), expected, "clippy.toml of {} differs", package.name);
    }
}

fn is_outside_world(name: &str) -> bool {
    !SANS_IO.contains(&name) && OUTSIDE_WORLD.iter().any(|outside| name.starts_with(outside))
}

fn beside(name: &str) -> Option<(&'static str, u32, bool)> {
    BESIDE.into_iter().find(|(beside, ..)| *beside == name)
}

/// The name in the table of one of our own packages.
fn ours(package: &str) -> Option<&str> {
    if package == "meridian" { Some(package) } else { package.strip_prefix("meridian-") }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Crate to layer, from the table's rows `| 2 | `store` | ... |`.
fn layers() -> BTreeMap<String, u32> {
    let path = root().join("docs/ARCHITECTURE.md");
    let document = std::fs::read_to_string(&path).expect("docs/ARCHITECTURE.md is there");
    let mut layers = BTreeMap::new();
    for line in document.lines() {
        let mut columns = line.split('|').map(str::trim).skip(1);
        let Some(Ok(layer)) = columns.next().map(str::parse::<u32>) else { continue };
        let name = columns.next().unwrap_or("").trim_matches('`').to_owned();
        assert!(!name.is_empty(), "a row of layer {layer} names no crate");
        assert!(layers.insert(name, layer).is_none(), "a crate stands twice: {line}");
    }
    assert!(!layers.is_empty(), "no table of layers in docs/ARCHITECTURE.md");
    layers
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    array(&metadata["packages"]).iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let manifest = Path::new(text(&value["manifest_path"]));
    let directory = manifest.parent().expect("a manifest lies in a directory").to_owned();
    let name = ours(text(&value["name"])).expect("every package carries the project's prefix");
    let dependencies = array(&value["dependencies"])
        .iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .map(|dependency| text(&dependency["name"]).to_owned())
        .collect();
    Package { name: name.to_owned(), directory, dependencies }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array in cargo's metadata")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string in cargo's metadata")
}
