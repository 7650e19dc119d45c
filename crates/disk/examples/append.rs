//! What the disk costs here: appends, syncs, rotation, and the checkpoint's writes and scan.
//!
//! `cargo run --release --example append -- <an empty directory>` (a temporary one by default).

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use meridian_clock::{Origin, VersionVector};
use meridian_disk::{DataDir, DiskOptions, LogSyncer, LogWriter, Opened};
use meridian_store::{CheckpointBatch, Identity, LogPosition, Meta, conformance, element_key};

const ENTRY_PAYLOAD_BYTES: usize = 172;
const APPENDS: usize = 1_000_000;
const SYNCS: usize = 3000;
const CELLS: u64 = 1_000_000;
const CELLS_A_BATCH: u64 = 4096;
const VALUE_BYTES: usize = 128;

fn main() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let path = std::env::args_os().nth(1).map_or(temporary.path().into(), PathBuf::from);
    let Opened { mut writer, syncer, checkpoint, .. } = open(&path)?;

    let entry = conformance::entry(&[&[7; ENTRY_PAYLOAD_BYTES]], LogPosition(0));
    syncs(&mut writer, &syncer, &entry)?;
    println!("nothing syncs beside:");
    appends(&mut writer, &entry)?;
    println!("a thread syncs beside:");
    beside(&syncer, || appends(&mut writer, &entry))?;
    let position = syncer.durable();

    let start = Instant::now();
    for first in (0..CELLS).step_by(CELLS_A_BATCH as usize) {
        let last = first + CELLS_A_BATCH >= CELLS;
        checkpoint.write(batch(first, last.then(|| record(position))))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("checkpoint: {:.0} k puts/s, flushed at the end", CELLS as f64 / seconds / 1e3);
    println!("checkpoint: {:?}", checkpoint.stats());
    drop((writer, syncer, checkpoint));

    let start = Instant::now();
    let Opened { checkpoint, .. } = open(&path)?;
    println!("open: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let mut cells = 0;
    checkpoint.elements(&mut |key, value| {
        cells += u64::from(black_box(!key.is_empty() && !value.is_empty()));
        Ok(())
    })?;
    println!("scan: {cells} cells in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn open(path: &std::path::Path) -> Result<Opened> {
    let (cluster, region) = ("bench".into(), "here".into());
    let identity = Identity { cluster, region, origin: Origin(0), partitions: 1 };
    DataDir::open(path, &identity, DiskOptions::default()).context("opening the directory")
}

/// One append, one sync, as `appendfsync always` does for a lone client.
fn syncs(writer: &mut LogWriter, syncer: &LogSyncer, entry: &[u8]) -> Result<()> {
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        writer.append(entry)?;
        let start = Instant::now();
        syncer.sync()?;
        times.push(start.elapsed());
    }
    report("fdatasync after an append", &mut times);
    Ok(())
}

/// Runs `work` while another thread syncs without a pause.
fn beside(syncer: &LogSyncer, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            while !finished.load(Ordering::Acquire) {
                syncer.sync()?;
                syncer.prepare()?;
            }
            syncer.sync()
        });
        let result = work();
        finished.store(true, Ordering::Release);
        syncing.join().expect("the syncing thread does not panic")?;
        result
    })
}

/// Appends back to back; the slowest are those that begin a new segment.
fn appends(writer: &mut LogWriter, entry: &[u8]) -> Result<()> {
    let mut times = Vec::with_capacity(APPENDS);
    let start = Instant::now();
    for _ in 0..APPENDS {
        let before = Instant::now();
        writer.append(entry)?;
        times.push(before.elapsed());
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / APPENDS as f64;
    println!("append of {} bytes: {each:.2} µs each", entry.len());
    report("append", &mut times);
    Ok(())
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let (p50, p99, most) = (at(0.5), at(0.99), at(1.0));
    println!("{what}: p50 {p50:.1} µs, p99 {p99:.1} µs, most {most:.0} µs");
}

fn batch(first: u64, meta: Option<Vec<u8>>) -> CheckpointBatch {
    let put = |cell: u64| {
        let mut value = vec![0; VALUE_BYTES];
        value[..8].copy_from_slice(&cell.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        (element_key(0, format!("key:{cell:010}").as_bytes(), &[1]), Some(value))
    };
    let puts = (first..(first + CELLS_A_BATCH).min(CELLS)).map(put).collect();
    CheckpointBatch { puts, meta, ..Default::default() }
}

fn record(position: LogPosition) -> Vec<u8> {
    let (cluster, region) = ("bench".into(), "here".into());
    let identity = Identity { cluster, region, origin: Origin(0), partitions: 1 };
    Meta { identity, position, vectors: vec![VersionVector::new()] }.encode()
}
