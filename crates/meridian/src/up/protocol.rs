//! What is said on the control socket of a running `up`: a line of JSON each way, then it closes.

use serde::{Deserialize, Serialize};

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What there is: regions with their addresses, links.
    Describe {},
    /// End everything.
    Down {},
    /// Cut links: between two regions, or all of one.
    Cut {
        /// A region.
        from: String,
        /// The other.
        to: Option<String>,
        /// Only from the first to the other.
        #[serde(default)]
        one_way: bool,
    },
    /// Heal links: between two regions, all of one, or all.
    Heal {
        /// A region.
        from: Option<String>,
        /// The other.
        to: Option<String>,
    },
    /// Change how a link treats packets.
    Set {
        /// A region.
        from: String,
        /// The other.
        to: String,
        /// Round trip in milliseconds.
        rtt_ms: u64,
        /// Probability of loss, 0 to 1.
        loss: f64,
        /// Up to this much longer, in milliseconds.
        jitter_ms: u64,
    },
    /// Do something to a region's process.
    Region {
        /// Which.
        name: String,
        /// What.
        action: RegionDo,
    },
}

/// What can be done to a region's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionDo {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Stop,
    /// Start it.
    Start,
    /// SIGSTOP.
    Freeze,
    /// SIGCONT.
    Thaw,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; what was done, or what is, in words.
    Done(String),
    /// What there is.
    Cluster(Cluster),
    /// Not done, and why.
    Failed(String),
}

/// A running cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub cluster: String,
    /// Its zone.
    pub zone: String,
    /// Names in the zone that stand for the nearest region.
    pub names: Vec<String>,
    /// The process that runs it.
    pub pid: u32,
    /// Its regions.
    pub regions: Vec<RunningRegion>,
    /// Its links; none without a WAN.
    pub links: Vec<RunningLink>,
}

/// A region of a running cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningRegion {
    /// Its name.
    pub name: String,
    /// Its ordinal.
    pub ordinal: u16,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// Where Redis clients connect.
    pub redis: String,
    /// Health, metrics, status.
    pub admin: String,
    /// DNS.
    pub dns: String,
    /// What DNS answers for it.
    pub client_addresses: Vec<String>,
    /// What it has said.
    pub log: String,
}

/// A link of a running cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningLink {
    /// The region that calls.
    pub from: String,
    /// The region that is called.
    pub to: String,
    /// Round trip in milliseconds.
    pub rtt_ms: f64,
    /// Probability of loss.
    pub loss: f64,
    /// Nothing passes from `from` to `to`.
    pub is_cut_forward: bool,
    /// Nothing passes back.
    pub is_cut_backward: bool,
    /// Packets that have passed, both ways.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that were lost, both ways, for any reason.
    pub lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_of_json() {
        let check = |text: &str, expected: Request| {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), expected);
            let again = serde_json::to_string(&expected).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&again).unwrap(), expected);
            assert!(!again.contains('\n'));
        };
        check(r#"{"do":"describe"}"#, Request::Describe {});
        check(
            r#"{"do":"cut","from":"us","to":"eu"}"#,
            Request::Cut { from: "us".into(), to: Some("eu".into()), one_way: false },
        );
        check(
            r#"{"do":"region","name":"us","action":"kill"}"#,
            Request::Region { name: "us".into(), action: RegionDo::Kill },
        );
        assert!(serde_json::from_str::<Request>(r#"{"do":"cut"}"#).is_err());
        assert!(serde_json::from_str::<Request>(r#"{"do":"describe","x":1}"#).is_err());
    }
}
