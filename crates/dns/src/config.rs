//! What a server is told about its zone.

use std::net::SocketAddr;

use hickory_proto::rr::Name;

use crate::limits::{MAX_SERVICE_NAMES, MAX_TTL_S};
use crate::{Error, Result};

/// Configuration of one region's DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP. Port zero takes any free one.
    pub listen: SocketAddr,
    /// The zone, such as `meridian.test`.
    pub zone: String,
    /// Names under the zone that are answered with the nearest region, such as `redis`. Every
    /// region's own name is answered as well, with that region.
    pub names: Vec<String>,
    /// Time to live of addresses, in seconds.
    pub ttl_s: u32,
}

impl DnsConfig {
    /// A server for one service name with the usual time to live.
    pub fn new(listen: SocketAddr, zone: &str, name: &str) -> Self {
        Self { listen, zone: zone.to_owned(), names: vec![name.to_owned()], ttl_s: 5 }
    }

    /// The zone's apex and the service labels, in lower case.
    pub(crate) fn parse(&self) -> Result<(Name, Vec<String>)> {
        let fail = |reason: String| Err(Error::Config(reason));
        let mut apex = match Name::from_ascii(&self.zone) {
            Ok(apex) if apex.num_labels() > 0 => apex.to_lowercase(),
            _ => return fail(format!("{:?} is not a zone's name", self.zone)),
        };
        apex.set_fqdn(true);
        if self.names.len() > MAX_SERVICE_NAMES {
            return fail(format!("at most {MAX_SERVICE_NAMES} names, not {}", self.names.len()));
        }
        if self.ttl_s > MAX_TTL_S {
            return fail(format!("ttl_s is at most {MAX_TTL_S}, not {}", self.ttl_s));
        }
        for name in &self.names {
            if name.contains('.') || apex.prepend_label(name.as_str()).is_err() {
                return fail(format!("{name:?} is not a single label under {apex}"));
            }
        }
        let names = self.names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok((apex, names))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_refused() {
        let config = DnsConfig::new(([127, 0, 0, 1], 0).into(), "Meridian.test", "Redis");
        let (apex, names) = config.parse().unwrap();
        assert_eq!((apex.to_string(), names), ("meridian.test.".into(), vec!["redis".into()]));
        let refused = |change: fn(&mut DnsConfig)| {
            let mut config = config.clone();
            change(&mut config);
            config.parse().is_err()
        };
        assert!(refused(|c| c.zone = String::new()));
        assert!(refused(|c| c.zone = ".".to_owned()));
        assert!(refused(|c| c.zone = "a..b".to_owned()));
        assert!(refused(|c| c.names = vec!["a.b".to_owned()]));
        assert!(refused(|c| c.names = vec![String::new()]));
        assert!(refused(|c| c.names = vec!["x".repeat(64)]));
        assert!(refused(|c| c.names = vec!["x".to_owned(); 65]));
        assert!(refused(|c| c.ttl_s = MAX_TTL_S + 1));
    }
}
