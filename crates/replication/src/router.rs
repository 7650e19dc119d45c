//! Which peer to ask for whose frames.

use std::collections::{BTreeMap, BTreeSet};

use meridian_clock::{Origin, VersionVector};

/// For each peer, the origins that it is asked for.
pub type Upstreams = BTreeMap<Origin, BTreeSet<Origin>>;

/// Chooses an upstream for every origin but `me`: the origin itself if it is up; else the one
/// that was chosen before, while it is up and ahead; else the first peer (by ordinal) that is
/// ahead of `mine` in some partition. `peers` holds the peers that are up and their vectors.
#[must_use]
pub fn route(
    me: Origin,
    origins: &BTreeSet<Origin>,
    mine: &[VersionVector],
    peers: &BTreeMap<Origin, Vec<VersionVector>>,
    before: &Upstreams,
) -> Upstreams {
    let mut upstreams: Upstreams = peers.keys().map(|p| (*p, BTreeSet::new())).collect();
    for origin in origins.iter().filter(|o| **o != me) {
        let upstream = if peers.contains_key(origin) {
            Some(*origin)
        } else {
            let ahead = |peer: &Origin| is_ahead(&peers[peer], mine, *origin);
            let kept = before.iter().find(|(p, o)| o.contains(origin) && peers.contains_key(p));
            kept.map(|(p, _)| *p)
                .filter(ahead)
                .or_else(|| peers.keys().copied().find(|p| ahead(p)))
                .or(kept.map(|(p, _)| *p))
        };
        if let Some(peer) = upstream {
            upstreams.entry(peer).or_default().insert(*origin);
        }
    }
    upstreams
}

fn is_ahead(theirs: &[VersionVector], mine: &[VersionVector], origin: Origin) -> bool {
    theirs.iter().zip(mine).any(|(t, m)| t.get(origin) > m.get(origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_clock::Time;

    fn vectors(of: &[(u16, u64)]) -> Vec<VersionVector> {
        let mut vector = VersionVector::new();
        for (origin, time) in of {
            vector.set(Origin(*origin), Time(*time));
        }
        vec![vector]
    }

    fn check(up: &[(u16, Vec<VersionVector>)]) -> Vec<(u16, Vec<u16>)> {
        let origins = [0, 1, 2].map(Origin).into();
        let peers = up.iter().map(|(o, v)| (Origin(*o), v.clone())).collect();
        let routed = route(Origin(0), &origins, &vectors(&[(2, 5)]), &peers, &Upstreams::new());
        routed.iter().map(|(p, o)| (p.0, o.iter().map(|o| o.0).collect())).collect()
    }

    #[test]
    fn the_origin_itself_when_it_is_up_else_one_that_is_ahead() {
        let ahead = || vectors(&[(2, 9)]);
        assert_eq!(check(&[(1, ahead()), (2, ahead())]), [(1, vec![1]), (2, vec![2])]);
        assert_eq!(check(&[(1, ahead())]), [(1, vec![1, 2])]);
        assert_eq!(check(&[(1, vectors(&[(2, 5)]))]), [(1, vec![1])], "nothing to be had");
    }
}
