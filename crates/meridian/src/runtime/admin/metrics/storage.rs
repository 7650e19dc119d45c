//! The log, the checkpoint in RocksDB, and the process.

use std::fmt;

use prometheus_client::registry::Unit;

use super::super::{facts::Facts, status::VERSION};
use super::{Out, flag, known, labels, one, whole};

pub(super) fn export(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    log(facts, out)?;
    rocksdb(facts, out)?;
    disk_check(facts, out)?;
    process(facts, out)
}

fn log(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let log = &facts.log;
    let positions = [
        ("start", "Position of the log's oldest byte", log.start),
        ("end", "Position after the log's newest byte", log.end),
        ("durable", "Position up to which the log is on disk", log.durable),
        ("checkpoint", "Position up to which the checkpoint covers the log", log.checkpoint),
    ];
    for (name, help, position) in positions {
        let name = format!("meridian_log_{name}_position");
        out.gauge(&name, Some(Unit::Bytes), help, one(whole(position.0)))?;
    }
    out.gauge(
        "meridian_log_size",
        Some(Unit::Bytes),
        "What the log takes up",
        one(whole(log.bytes())),
    )?;
    out.gauge(
        "meridian_log_expected",
        Some(Unit::Bytes),
        "What the log may take up when nothing holds it: retention, the checkpoints' trigger and a \
         segment",
        one(whole(log.expected_bytes)),
    )?;
    out.gauge("meridian_log_segments", None, "Files of the log", one(whole(log.segments as u64)))?;
    out.seconds("meridian_log_sync", "How long syncs of the log take", &facts.syncs)?;
    out.counter(
        "meridian_checkpoints",
        None,
        "Checkpoints written since the start",
        one(facts.counters.checkpoints),
    )
}

fn rocksdb(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let stats = &facts.checkpoint;
    out.gauge(
        "meridian_rocksdb_elements",
        None,
        "About how many elements the checkpoint holds",
        one(whole(stats.keys)),
    )?;
    let sizes = [
        ("disk", "Files of the checkpoint", stats.disk_bytes),
        ("cache", "Blocks, indexes and filters of the checkpoint in memory", stats.cache_bytes),
        ("memtable", "Writes to the checkpoint that are not in a file yet", stats.memtable_bytes),
        ("compaction_debt", "What compaction has yet to rewrite", stats.compaction_debt_bytes),
    ];
    for (name, help, bytes) in sizes {
        let name = format!("meridian_rocksdb_{name}");
        out.gauge(&name, Some(Unit::Bytes), help, one(whole(bytes)))?;
    }
    out.gauge(
        "meridian_rocksdb_stalled",
        None,
        "1 while writes to the checkpoint wait for compaction",
        one(flag(stats.stalled)),
    )
}

fn disk_check(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let disk = &facts.disk;
    out.counter(
        "meridian_disk_check",
        Some(Unit::Bytes),
        "What was read of the log and the checkpoint to look for rot",
        one(disk.bytes),
    )?;
    out.counter(
        "meridian_disk_checks",
        None,
        "Times that all of the log and the checkpoint was looked through",
        one(disk.walks),
    )?;
    out.gauge(
        "meridian_disk_rotten_files",
        None,
        "Files of the log that have rotted, and the checkpoint if it has",
        one(whole(disk.rotten.len() as u64)),
    )?;
    let seconds = (disk.sound_ms > 0).then_some(disk.sound_ms as f64 / 1000.0);
    out.gauge(
        "meridian_disk_sound_timestamp",
        Some(Unit::Seconds),
        "When all of the log and the checkpoint was last found sound, since 1970",
        known(seconds),
    )?;
    out.counter(
        "meridian_checkpoints_rewritten",
        None,
        "Checkpoints that were written anew because something had rotted",
        one(disk.rewritten),
    )
}

fn process(facts: &Facts, out: &mut Out<'_>) -> fmt::Result {
    let process = &facts.process;
    let build =
        labels([("version", VERSION), ("cluster", &facts.cluster), ("region", &facts.region)]);
    out.info("meridian_build", "Which program this is, and which region of which cluster", &build)?;
    out.counter(
        "process_cpu",
        Some(Unit::Seconds),
        "Processor time, user and system",
        one(process.cpu_s),
    )?;
    out.gauge(
        "process_resident_memory",
        Some(Unit::Bytes),
        "Memory in use",
        one(whole(process.resident_bytes)),
    )?;
    out.gauge(
        "process_start_time",
        Some(Unit::Seconds),
        "When the process was started, since 1970",
        one(process.start_s),
    )?;
    out.gauge("process_threads", None, "Threads", one(whole(process.threads)))?;
    out.gauge("process_open_fds", None, "Open files and sockets", one(whole(process.open_files)))
}
