//! What `up` says when everything runs: how to talk to each region, and how to stop.

use std::fmt::Write;

use anyhow::Result;

use crate::cli::UpArgs;
use crate::config::{ClusterFile, Region};

/// Prints a line. A terminal that has gone away is no reason to let the cluster die.
pub fn say(words: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{words}");
}

/// Prints a line to the standard error, as [`say`] does.
pub fn warn(words: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Prints how to talk to each region.
///
/// # Errors
/// None that can happen: it is text in memory.
pub fn show(cluster: &ClusterFile, args: &UpArgs) -> Result<()> {
    let mut text = String::new();
    for region in &cluster.regions {
        text.push('\n');
        text.push_str(&lines(cluster, region)?);
    }
    let given = options(args);
    writeln!(text)?;
    if !args.no_wan {
        writeln!(text, "  break a link   meridian wan{given} cut {}", two(cluster))?;
    }
    writeln!(text, "  how they are   meridian status{given}")?;
    writeln!(text, "  stop           Ctrl-C here, or: meridian down{given}")?;
    say(text.trim_end());
    Ok(())
}

/// How to talk to a region.
fn lines(cluster: &ClusterFile, region: &Region) -> Result<String> {
    let mut text = String::new();
    let redis = region.operator_address(region.redis);
    let dns = region.operator_address(region.dns);
    let admin = region.operator_address(region.admin);
    let zone = cluster.dns.zone.trim_end_matches('.');
    let name = cluster.dns.names.first().map_or("redis", String::as_str);
    writeln!(text, "{}", region.name)?;
    writeln!(text, "  redis-cli -h {} -p {}", redis.ip(), redis.port())?;
    writeln!(text, "  dig @{} -p {} +short {name}.{zone}", dns.ip(), dns.port())?;
    writeln!(text, "  health   http://{admin}/healthz")?;
    writeln!(text, "  metrics  http://{admin}/metrics")?;
    Ok(text)
}

/// The options that other commands need to find this cluster.
pub fn options(args: &UpArgs) -> String {
    let mut text = String::new();
    for (option, value) in
        [("--config", &args.cluster.config), ("--data-dir", &args.cluster.data_dir)]
    {
        if let Some(path) = value {
            text.push_str(&format!(" {option} {}", path.display()));
        }
    }
    text
}

fn two(cluster: &ClusterFile) -> String {
    cluster.names().into_iter().take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_region_is_told_with_lines_to_copy() {
        let (cluster, _) = ClusterFile::open(None).unwrap();
        let text = lines(&cluster, &cluster.regions[1]).unwrap();
        assert_eq!(
            text,
            "eu-central\n  \
             redis-cli -h 127.0.0.2 -p 7379\n  \
             dig @127.0.0.2 -p 7553 +short redis.meridian.test\n  \
             health   http://127.0.0.2:7500/healthz\n  \
             metrics  http://127.0.0.2:7500/metrics\n"
        );
    }
}
