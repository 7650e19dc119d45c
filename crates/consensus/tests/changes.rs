//! Regions that join and leave a group, in calm weather and in storms.

#[allow(dead_code)] // each test uses its part of the harness
mod cluster;

use cluster::Cluster;
use meridian_consensus::ConfChange;

fn settled(voters: &[u16], seed: u64) -> Cluster {
    let mut cluster = Cluster::new(voters, 50, seed);
    cluster.run_until(10_000, |c| c.leader().is_some());
    cluster
}

fn commit(cluster: &mut Cluster, data: &[u8], at: &[u16]) {
    let start = cluster.now_ms;
    while !at.iter().all(|&id| cluster.has_applied(id, data)) {
        assert!(cluster.now_ms - start < 60_000, "{data:?} does not get through");
        if let Some(leader) = cluster.leader() {
            cluster.propose(leader, data);
        }
        cluster.run(200);
    }
}

fn add(cluster: &mut Cluster, id: u16) {
    cluster.join(id);
    cluster.change(ConfChange::AddLearner(id), |conf| conf.contains(id));
}

fn promote(cluster: &mut Cluster, id: u16) {
    cluster.change(ConfChange::Promote(id), |conf| conf.voters.contains(&id));
}

fn remove(cluster: &mut Cluster, id: u16) {
    cluster.change(ConfChange::Remove(id), |conf| !conf.contains(id));
}

#[test]
fn a_region_joins_by_a_snapshot_and_gets_a_vote() {
    let mut cluster = settled(&[0, 1, 2], 1);
    commit(&mut cluster, b"before", &[0, 1, 2]);
    add(&mut cluster, 3);
    commit(&mut cluster, b"during", &[0, 1, 2, 3]);
    assert!(cluster.snapshots > 0, "it cannot begin with the log");
    assert!(cluster.conf(3).learners.contains(&3));
    promote(&mut cluster, 3);
    add(&mut cluster, 4);
    promote(&mut cluster, 4);
    // Five voters bear the loss of two, and the newcomers are among those who go on.
    let everybody = [0, 1, 2, 3, 4];
    commit(&mut cluster, b"five", &everybody);
    cluster.crash(0);
    cluster.crash(1);
    commit(&mut cluster, b"without two", &[2, 3, 4]);
    cluster.start(0);
    cluster.start(1);
    commit(&mut cluster, b"together", &everybody);
    assert_eq!(cluster.conf(0).voters, everybody.into());
}

#[test]
fn a_learner_decides_nothing() {
    let mut cluster = settled(&[0, 1, 2], 2);
    add(&mut cluster, 3);
    commit(&mut cluster, b"four hear it", &[0, 1, 2, 3]);
    cluster.crash(0);
    cluster.crash(1);
    cluster.run(5_000);
    assert_eq!(cluster.leader(), None, "one of three voters and a learner are no majority");
    cluster.start(0);
    commit(&mut cluster, b"two of three", &[0, 2, 3]);
}

#[test]
fn the_dead_lose_their_vote_and_a_newcomer_replaces_them() {
    let mut cluster = settled(&[0, 1, 2], 3);
    cluster.crash(0);
    cluster.run_until(10_000, |c| c.leader().is_some());
    remove(&mut cluster, 0);
    add(&mut cluster, 3);
    promote(&mut cluster, 3);
    commit(&mut cluster, b"three again", &[1, 2, 3]);
    cluster.crash(1);
    commit(&mut cluster, b"one may fall", &[2, 3]);
}

#[test]
fn a_leader_can_be_removed() {
    let mut cluster = settled(&[0, 1, 2], 4);
    let leader = cluster.leader().expect("it is settled");
    let others: Vec<u16> = [0, 1, 2].into_iter().filter(|&id| id != leader).collect();
    cluster.group(leader).expect("alive").propose_change(ConfChange::Remove(leader)).expect("ok");
    cluster.run(500);
    cluster.crash(leader);
    commit(&mut cluster, b"two go on", &others);
    assert!(!cluster.conf(others[0]).contains(leader));
}

#[test]
fn changes_survive_crashes_and_loss() {
    for seed in 0..12 {
        let mut cluster = settled(&[0, 1, 2], seed);
        cluster.weather.loss = 10;
        cluster.weather.duplicates = 5;
        cluster.weather.jitter_ms = 40;
        cluster.weather.fsync_ms = 20;
        for id in [3, 4] {
            add(&mut cluster, id);
            let victim = cluster.pick(&[0, 1, 2]);
            cluster.crash(victim);
            cluster.run(700);
            cluster.start(victim);
            promote(&mut cluster, id);
            cluster.compact(id);
            cluster.start(id);
        }
        let gone = cluster.pick(&[0, 1, 2]);
        cluster.crash(gone);
        remove(&mut cluster, gone);
        let left: Vec<u16> = (0..5).filter(|&id| id != gone).collect();
        for &id in &left {
            cluster.crash(id);
        }
        for &id in &left {
            cluster.start(id);
        }
        commit(&mut cluster, b"end", &left);
        for &id in &left {
            assert_eq!(cluster.conf(id).voters, left.iter().copied().collect(), "seed {seed}");
        }
    }
}
