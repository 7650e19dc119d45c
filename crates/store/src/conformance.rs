//! What every [`Storage`] must do. The model and RocksDB run the same suite, so that what the
//! simulator proves about the one holds for the other.

use crate::{
    CheckpointBatch, ENTRY_HEADER_BYTES, Entries, LogPosition, Storage, StoreError, element_key,
    encode_entry, key_prefix,
};

/// An entry with these frames.
#[must_use]
pub fn entry(frames: &[&[u8]], durable: LogPosition) -> Vec<u8> {
    let mut out = vec![0; ENTRY_HEADER_BYTES];
    for frame in frames {
        out.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        out.extend_from_slice(frame);
    }
    encode_entry(&mut out, 0, durable);
    out
}

/// Runs the suite. `create` makes empty storage; `reopen` is what the next process finds.
///
/// # Panics
/// When the storage does not conform.
pub fn run<S: Storage>(mut create: impl FnMut() -> S, mut reopen: impl FnMut(S) -> S) {
    log_keeps_what_was_appended(create(), &mut reopen);
    log_reads_whole_entries(create());
    log_forgets_what_was_released(create(), &mut reopen);
    checkpoint_is_what_was_written(create(), &mut reopen);
    clearing_comes_before_putting(create());
}

fn append<S: Storage>(storage: &mut S, frames: &[&[u8]]) -> LogPosition {
    let durable = storage.bounds().0;
    storage.append(&entry(frames, durable)).expect("append")
}

fn frames<S: Storage>(storage: &S, from: LogPosition) -> Vec<Vec<u8>> {
    let bytes = storage.read(from, usize::MAX).expect("read");
    let entries = Entries::new(&bytes, from).collect::<Vec<_>>();
    entries.iter().flat_map(|e| e.frames().map(<[u8]>::to_vec)).collect()
}

fn elements<S: Storage>(storage: &S) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    storage
        .elements(&mut |key, value| {
            all.push((key.to_vec(), value.to_vec()));
            Ok(())
        })
        .expect("elements");
    all
}

fn log_keeps_what_was_appended<S: Storage>(mut storage: S, reopen: &mut impl FnMut(S) -> S) {
    let start = storage.bounds().0;
    let middle = append(&mut storage, &[b"a", b"b"]);
    let end = append(&mut storage, &[b"c"]);
    assert_eq!(storage.bounds(), (start, end), "the end moves by what was appended");
    assert_eq!(storage.sync().expect("sync"), end, "sync covers all that was appended");
    let mut storage = reopen(storage);
    assert_eq!(storage.bounds(), (start, end), "bounds survive");
    assert_eq!(frames(&storage, start), [b"a", b"b", b"c"]);
    assert_eq!(frames(&storage, middle), [b"c"]);
    append(&mut storage, &[b"d"]);
    assert_eq!(frames(&storage, end), [b"d"], "appending goes on where it stopped");
}

fn log_reads_whole_entries<S: Storage>(mut storage: S) {
    let start = storage.bounds().0;
    let large = vec![7u8; 100_000];
    let first = append(&mut storage, &[&large]);
    let second = append(&mut storage, &[b"x"]);
    let one = storage.read(start, 1).expect("read");
    assert_eq!(one.len() as u64, first.0 - start.0, "at least one whole entry");
    assert_eq!(storage.read(second, 1).expect("read at the end"), b"");
    let beyond = storage.read(LogPosition(second.0 + 1), 1);
    assert!(matches!(beyond, Err(StoreError::NotHeld(_))), "beyond the end is an error");
}

fn log_forgets_what_was_released<S: Storage>(mut storage: S, reopen: &mut impl FnMut(S) -> S) {
    append(&mut storage, &[b"old"]);
    let keep = append(&mut storage, &[b"older than new"]);
    append(&mut storage, &[b"new"]);
    storage.sync().expect("sync");
    storage.release(keep).expect("release");
    assert!(storage.bounds().0 <= keep, "released no further than allowed");
    assert_eq!(frames(&storage, keep), [b"new"]);
    let storage = reopen(storage);
    assert_eq!(frames(&storage, keep), [b"new"]);
}

fn checkpoint_is_what_was_written<S: Storage>(mut storage: S, reopen: &mut impl FnMut(S) -> S) {
    assert_eq!(storage.meta().expect("meta"), None);
    let put = |k: &[u8], v: &[u8]| (element_key(1, k, b"\x01"), Some(v.to_vec()));
    let puts = vec![put(b"a", b"1"), put(b"b", b"2")];
    storage.checkpoint(CheckpointBatch { puts, ..Default::default() }).expect("write");
    let gone = vec![(element_key(1, b"a", b"\x01"), None), put(b"c", b"3")];
    let meta = Some(b"meta".to_vec());
    storage.checkpoint(CheckpointBatch { puts: gone, meta, ..Default::default() }).expect("write");
    let storage = reopen(storage);
    assert_eq!(storage.meta().expect("meta"), Some(b"meta".to_vec()));
    let expected = [put(b"b", b"2"), put(b"c", b"3")].map(|(k, v)| (k, v.expect("a put")));
    assert_eq!(elements(&storage), expected, "in key order");
}

fn clearing_comes_before_putting<S: Storage>(mut storage: S) {
    let place = |key: &[u8], element: &[u8]| element_key(2, key, element);
    let puts = vec![
        (place(b"h", b"\x02f"), Some(b"1".to_vec())),
        (place(b"h", b"\x02g"), Some(b"2".to_vec())),
        (place(b"hh", b"\x01"), Some(b"3".to_vec())),
    ];
    storage.checkpoint(CheckpointBatch { puts, ..Default::default() }).expect("write");
    let cleared = vec![key_prefix(2, b"h")];
    let puts = vec![(place(b"h", b"\x02n"), Some(b"4".to_vec()))];
    storage.checkpoint(CheckpointBatch { cleared, puts, meta: None }).expect("write");
    let left: Vec<_> = elements(&storage).into_iter().map(|(k, _)| k).collect();
    assert_eq!(left, [place(b"h", b"\x02n"), place(b"hh", b"\x01")]);
}
