//! `meridian region leave` and `meridian region dead`.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::protocol::MemberRequest;
use super::reach::{self, Cluster};
use crate::cli::{ClusterArgs, ViaArgs};
use crate::runtime::unix_ms;

/// How often it is looked how far a region has got.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Takes a region out of the cluster in order, and waits until it has left.
///
/// # Errors
/// When it cannot leave, or nobody can be asked.
pub fn leave(args: &ClusterArgs, name: &str, via: &ViaArgs) -> Result<()> {
    crate::membership::block_on(async {
        let cluster = Cluster::find(args, via, name).await?;
        let name = name.to_owned();
        cluster.ask(&MemberRequest::Leave { name: name.clone(), at_ms: unix_ms() }).await?;
        say(&format!("{name} takes no more writes and hands over what the others lack"))?;
        let mut said = String::new();
        loop {
            let status = reach::status(cluster.via).await?;
            let member = member(&status, &name)?;
            if member["status"] == "left" {
                let ordinal = &member["origin"];
                return say(&format!("{name} has left; ordinal {ordinal} is not used again"));
            }
            let text = handing_over(&status, &name);
            if text != said {
                say(&text)?;
                said = text;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}

/// Declares a region dead.
///
/// # Errors
/// When it is not down, or nobody can be asked.
pub fn dead(args: &ClusterArgs, name: &str, is_sure: bool, via: &ViaArgs) -> Result<()> {
    crate::membership::block_on(async {
        let cluster = Cluster::find(args, via, name).await?;
        let status = reach::status(cluster.via).await?;
        let known = member(&status, name)?;
        if known["status"] == "dead" {
            return say(&format!("{name} is declared dead already"));
        }
        if !is_sure {
            confirm(name)?;
        }
        cluster.ask(&MemberRequest::Dead { name: name.to_owned(), at_ms: unix_ms() }).await?;
        say(&format!(
            "{name} is dead to the cluster: nobody waits for it, and it cannot come back under \
             ordinal {}. If its disk is found: meridian salvage DATA_DIR/{name} --via {}",
            known["origin"], cluster.via
        ))
    })
}

/// What keeps a region that leaves.
fn handing_over(status: &Value, name: &str) -> String {
    if status["primary"] == name {
        return format!("{name} still has the primary role");
    }
    match status["regions"][name]["state"].as_str() {
        Some("down") => format!(
            "{name} is down: it has to come back to hand over what it has; or, if it never will: \
             meridian region dead {name}"
        ),
        _ => {
            format!("{name} waits until every region has all that it wrote{}", others_down(status))
        }
    }
}

/// The regions that it waits for in vain while they are down, and for their votes too.
fn others_down(status: &Value) -> String {
    let regions = status["regions"].as_object().into_iter().flatten();
    let down = regions.filter(|(_, region)| region["state"] == "down");
    let names: Vec<&str> = down.map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return String::new();
    }
    let names = names.join(", ");
    format!("; down and waited for: {names} (if for ever: meridian region dead)")
}

/// A region in the list of members: the live one with that name, else the latest.
fn member<'a>(status: &'a Value, name: &str) -> Result<&'a Value> {
    let members = status["members"].as_array().context("the node does not tell its members yet")?;
    let named = members.iter().rfind(|member| member["name"] == name);
    named.with_context(|| format!("there is no region {name}"))
}

fn confirm(name: &str) -> Result<()> {
    ensure!(
        std::io::stdin().is_terminal(),
        "declaring {name} dead cannot be undone; say --yes if that is meant"
    );
    let mut out = std::io::stdout();
    write!(
        out,
        "The others stop waiting for {name}. What only it has is not shipped any more, and it can \
         never come back under its ordinal. To go on, type its name: "
    )?;
    out.flush()?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed).context("reading the answer")?;
    if typed.trim() != name {
        bail!("nothing was changed");
    }
    Ok(())
}

fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("writing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_latest_of_a_name_counts_and_what_keeps_it_is_said() {
        let status = json!({
            "primary": "us",
            "regions": {"eu": {"state": "down"}, "ap": {"state": "up"}},
            "members": [
                {"name": "eu", "origin": 1, "status": "dead"},
                {"name": "us", "origin": 0, "status": "leaving"},
                {"name": "eu", "origin": 4, "status": "active"}
            ]
        });
        assert_eq!(member(&status, "eu").unwrap()["origin"], 4);
        assert!(member(&status, "mars").is_err());
        assert!(member(&json!({}), "eu").is_err());
        assert!(handing_over(&status, "us").contains("primary role"));
        assert!(handing_over(&status, "eu").contains("is down"));
        assert!(handing_over(&status, "ap").contains("every region"));
        assert!(handing_over(&status, "ap").contains("waited for: eu"));
    }
}
