//! Version N and N + 1 side by side, and what N left on disk.
//!
//! `corpus/v1` holds what version 1 wrote: a log, a checkpoint, messages. What came later is in
//! `version_4.rs`.

use crate::{
    corpus,
    region::{EPOCH_US, Ended, PARTITIONS, Region, deliver, exchange, identity},
};
use meridian_clock::{Origin, Time, VersionVector};
use meridian_node::wire::PeerMessage;
use meridian_replication::{Batch, Hello, Subscribe, Vectors, Versions, Watermark};
use meridian_store::{CheckpointBatch, Frame, LogPosition, MemoryStorage, Meta, Storage};

const OLD: Origin = Origin(1);
const NEW: Origin = Origin(2);

/// The commands whose traces the corpus holds.
const COMMANDS: [&str; 9] = [
    "SET plain text",
    "SET brief life PX 86400000",
    "INCRBY visits 41",
    "INCR visits",
    "HSET user:1 name Ada born 1815",
    "HINCRBYFLOAT user:1 weight 61.5",
    "SADD langs rust c",
    "EXPIRE langs 86400",
    "DEL plain",
];

/// What they left behind, as any version must read it.
#[track_caller]
fn check_contents(region: &mut Region) {
    for (command, reply) in [
        ("GET plain", "$-1\r\n"),
        ("GET brief", "$4\r\nlife\r\n"),
        ("EXPIRETIME brief", ":1700086400\r\n"),
        ("GET visits", "$2\r\n42\r\n"),
        ("HGET user:1 name", "$3\r\nAda\r\n"),
        ("HGET user:1 weight", "$4\r\n61.5\r\n"),
        ("SISMEMBER langs rust", ":1\r\n"),
        ("EXPIRETIME langs", ":1700086400\r\n"),
    ] {
        assert_eq!(region.run(command), reply, "{command}");
    }
}

fn version_1() -> Region {
    // Its first stamp was the time itself; today's is the one after the time that is shown.
    let first = Time::from_ms(EPOCH_US / 1000);
    let mut region = Region::start_at(0, OLD, &[NEW], MemoryStorage::new());
    region.node.engine_mut().stage_mut().start_above(Time(first.0 - 1));
    COMMANDS.iter().for_each(|command| drop(region.run(command)));
    region.node.engine_mut().set_physical_us(EPOCH_US);
    region
}

fn flat(batch: &CheckpointBatch) -> Vec<Vec<u8>> {
    let put = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
        [key.clone(), value.clone().unwrap_or_default()]
    };
    batch.puts.iter().filter(|(_, value)| value.is_some()).flat_map(put).collect()
}

fn messages() -> Vec<Vec<u8>> {
    let mut vector = VersionVector::new();
    vector.set(OLD, Time(1 << 40));
    let vectors = Vectors::pack(&[vector, VersionVector::new()]);
    let cluster = "shop".to_owned();
    let all = [
        PeerMessage::Hello(Hello { version: 1, cluster, origin: OLD, partitions: PARTITIONS }),
        PeerMessage::Subscribe(Subscribe {
            number: 3,
            origins: vec![OLD, NEW],
            vectors: vectors.clone(),
        }),
        PeerMessage::Watermark(Watermark { vectors, now: 1 << 41, physical_ms: EPOCH_US / 1000 }),
        PeerMessage::Raft(vec![1, 2, 3]),
    ];
    all.iter().map(PeerMessage::encode).collect()
}

fn subscription() -> Subscribe {
    let nothing = vec![VersionVector::new(); usize::from(PARTITIONS)];
    Subscribe { number: 1, origins: vec![OLD], vectors: Vectors::pack(&nothing) }
}

#[test]
fn today_s_encoders_write_what_version_1_wrote() {
    let mut region = version_1();
    let (start, end) = region.storage.bounds();
    let log = region.storage.read(start, end.0 as usize).unwrap();
    corpus::check("v1/log", &[log]);
    let batch = region.checkpoint();
    corpus::check("v1/elements", &flat(&batch));
    corpus::check("v1/meta", &[batch.meta.unwrap()]);
    corpus::check("v1/messages", &messages());
    region.shipper.subscribe(NEW, 1, &subscription()).unwrap();
    corpus::check("v1/batch", &region.batches(NEW));
}

#[test]
fn a_log_of_version_1_is_replayed() {
    let mut storage = MemoryStorage::new();
    storage.append(&corpus::read("v1/log")[0]).unwrap();
    storage.sync().unwrap();
    check_contents(&mut Region::start(OLD, &[], storage));
}

#[test]
fn a_checkpoint_of_version_1_is_read() {
    let mut storage = MemoryStorage::new();
    let (log, meta) = (corpus::read("v1/log").remove(0), corpus::read("v1/meta").remove(0));
    let decoded = Meta::decode(&meta).unwrap();
    assert_eq!(
        (decoded.identity, decoded.position),
        (identity(OLD), LogPosition(log.len() as u64))
    );
    // The log itself has been let go.
    storage.append(&log).unwrap();
    storage.sync().unwrap();
    storage.release(decoded.position).unwrap();
    let elements = corpus::read("v1/elements");
    let puts = elements.chunks(2).map(|e| (e[0].clone(), Some(e[1].clone()))).collect();
    let cleared = Vec::new();
    storage.checkpoint(CheckpointBatch { cleared, puts, meta: Some(meta) }).unwrap();
    let mut region = Region::start(OLD, &[], storage);
    check_contents(&mut region);
    assert_eq!(region.node.engine().stage().vectors(), decoded.vectors);
}

#[test]
fn messages_of_version_1_are_understood() {
    let decoded: Vec<_> = corpus::read("v1/messages")
        .iter()
        .map(|bytes| PeerMessage::decode(bytes).unwrap().expect("a known kind").encode())
        .collect();
    assert_eq!(decoded, messages());
    let batch = corpus::read("v1/batch").remove(0);
    let frames = Batch::decode(&batch).unwrap().frames;
    let origins = frames.iter().map(|frame| Frame::decode(frame).unwrap().header.origin);
    assert!(frames.len() >= COMMANDS.len() && origins.into_iter().all(|origin| origin == OLD));
}

/// A build of version 1 ends the session when it hears another version or an unknown kind.
fn strict(at: usize, bytes: &[u8]) -> Result<(), String> {
    match PeerMessage::decode(bytes) {
        _ if at != 0 => Ok(()),
        Ok(Some(PeerMessage::Hello(hello))) if hello.version != 1 => {
            Err(format!("peer speaks protocol {}, not 1", hello.version))
        }
        Ok(Some(_)) => Ok(()),
        _ => Err("control message does not decode".into()),
    }
}

/// Runs sessions until one lasts; gives back how many that took.
fn connect(regions: &mut [Region; 2], hears: impl Fn(usize, &[u8]) -> Result<(), String>) -> u64 {
    let origins = [OLD, NEW];
    for session in 1..10 {
        for at in [0, 1] {
            regions[at].node.peer_up(origins[1 - at], session);
        }
        let lasts = (0..20).try_for_each(|_| {
            exchange(regions, session, &hears)?;
            regions.iter_mut().for_each(|region| region.tick(50));
            Ok::<(), Ended>(())
        });
        if lasts.is_ok() {
            return session;
        }
        for at in [0, 1] {
            regions[at].node.peer_down(origins[1 - at], session);
            regions[at].shipper.peer_down(origins[1 - at], session);
        }
    }
    panic!("no session lasts");
}

fn pair(old: Versions, new: Versions) -> [Region; 2] {
    let mut regions = [version_1(), Region::start(NEW, &[OLD], MemoryStorage::new())];
    regions[0].node.set_versions(old);
    regions[1].node.set_versions(new);
    regions[1].run("SET here too");
    regions
}

#[track_caller]
fn check_replicated(regions: &mut [Region; 2], version: u16) {
    check_contents(&mut regions[1]);
    assert_eq!(regions[0].run("GET here"), "$3\r\ntoo\r\n");
    for region in regions {
        assert_eq!(region.node.protocols().map(|(_, v)| v).collect::<Vec<_>>(), [version]);
    }
}

#[test]
fn version_1_that_knows_no_other_and_version_2_find_to_each_other() {
    let mut regions = pair(Versions::between(1, 1), Versions::between(1, 2));
    assert_eq!(connect(&mut regions, strict), 2, "the first session tells what the old one speaks");
    check_replicated(&mut regions, 1);
}

#[test]
fn n_and_n_plus_1_speak_n_from_the_first_session_on() {
    let mut regions = pair(Versions::between(2, 2), Versions::between(2, 3));
    assert_eq!(connect(&mut regions, |_, _| Ok(())), 1);
    check_replicated(&mut regions, 2);
}

#[test]
fn a_peer_that_comes_back_upgraded_is_spoken_to_in_its_new_version() {
    let mut regions = pair(Versions::between(1, 1), Versions::between(1, 2));
    connect(&mut regions, strict);
    for at in [0, 1] {
        let peer = [NEW, OLD][at];
        regions[at].node.peer_down(peer, 2);
        regions[at].shipper.peer_down(peer, 2);
    }
    let [old, new] = regions;
    let mut regions = [Region::start(OLD, &[NEW], old.storage), new];
    assert_eq!(connect(&mut regions, |_, _| Ok(())), 1);
    check_replicated(&mut regions, 2);
}

#[test]
fn who_is_too_old_is_told_to_upgrade() {
    let mut regions = pair(Versions::between(1, 1), Versions::between(2, 3));
    regions[0].node.peer_up(NEW, 1);
    regions[1].node.peer_up(OLD, 1);
    let Err(Ended::By(who, reason)) = exchange(&mut regions, 1, |_, _| Ok(())) else {
        panic!("the session should have ended");
    };
    assert_eq!(who, NEW);
    assert!(reason.contains("upgrade it"), "{reason}");
}

#[test]
fn what_a_newer_peer_says_beyond_what_is_known_does_no_harm() {
    let mut regions = pair(Versions::default(), Versions::default());
    let session = connect(&mut regions, |_, _| Ok(()));
    deliver(&mut regions[0], NEW, session, &[200, 1, 2, 3]).unwrap();
    regions[1].run("SET after that");
    exchange(&mut regions, session, |_, _| Ok(())).unwrap();
    assert_eq!(regions[0].run("GET after"), "$4\r\nthat\r\n");
}
