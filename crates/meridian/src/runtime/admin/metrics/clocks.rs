//! Clocks: this node's beside the others', and what is not done because of them.

use std::fmt;

use prometheus_client::registry::Unit;

use super::super::facts::Facts;
use super::{Out, flag, known, labels};

pub(super) fn export(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let clock = facts.snapshot.as_deref().map(|s| &s.clock);
    let offsets = || clock.into_iter().flat_map(|clock| &clock.offsets);
    let seconds = |us: f64| us / 1e6;
    out.gauge(
        "meridian_peer_clock_offset",
        Some(Unit::Seconds),
        "The peer's clock minus this one's, half of the round trip taken into account",
        offsets().map(|(peer, (offset_us, _))| {
            (labels([("peer", &facts.name(*peer))]), seconds(*offset_us as f64))
        }),
    )?;
    out.gauge(
        "meridian_peer_clock_error",
        Some(Unit::Seconds),
        "What the offset of the peer's clock may be wrong by",
        offsets().map(|(peer, (_, error_us))| {
            (labels([("peer", &facts.name(*peer))]), seconds(*error_us as f64))
        }),
    )?;
    out.gauge(
        "meridian_clock_fenced",
        None,
        "1 while this region refuses to write because of its clock",
        known(clock.map(|clock| flag(clock.fence.is_some()))),
    )?;
    out.counter(
        "meridian_clock_fences",
        None,
        "How often this region began to refuse writes because of its clock",
        known(clock.map(|clock| clock.fences)),
    )?;
    out.gauge(
        "meridian_hybrid_time_ahead",
        Some(Unit::Seconds),
        "Hybrid time minus the time that is believed: how far a clock that was ahead has dragged it",
        known(clock.map(|clock| clock.hybrid_ahead_ms as f64 / 1e3)),
    )?;
    let named = |is: fn(&crate::runtime::snapshot::ClockFacts, u16) -> bool| {
        clock.into_iter().flat_map(move |clock| {
            let value = move |ordinal: &u16| flag(is(clock, *ordinal));
            facts.names.iter().map(move |(o, name)| (labels([("region", name)]), value(o)))
        })
    };
    out.gauge(
        "meridian_origin_held",
        None,
        "1 if the region's writes are held because they are dated too far in the future",
        named(|clock, ordinal| clock.held.contains_key(&ordinal)),
    )?;
    out.counter(
        "meridian_holds",
        None,
        "How often a region's writes began to be held",
        known(clock.map(|clock| clock.holds)),
    )?;
    out.gauge(
        "meridian_peer_doubtful",
        None,
        "1 if the region claims to have writes that cannot be: nothing that it acknowledges is \
         believed",
        named(|clock, ordinal| clock.doubtful.contains(&ordinal)),
    )?;
    out.counter(
        "meridian_watermarks_refused",
        None,
        "Acknowledgements of peers that claimed what cannot be",
        known(clock.map(|clock| clock.watermarks_refused)),
    )
}
