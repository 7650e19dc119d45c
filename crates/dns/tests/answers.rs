//! Real queries over real sockets, by hickory's resolver and client and by `dig`.

#[allow(dead_code)] // each test uses its part of it
mod support;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meridian_dns::{ClientNetwork, DnsServer, ProbeAnswer, probe};
use support::{AP, AP_ADDRESS, EU, EU_ADDRESS, US, US_ADDRESS, dig, serve, table};

fn network(address: [u8; 4], prefix: u8) -> Option<ClientNetwork> {
    Some(ClientNetwork { address: IpAddr::from(address), prefix })
}

async fn ask(server: &DnsServer, name: &str, client: Option<ClientNetwork>) -> ProbeAnswer {
    probe(server.local_addr(), name, client).await.expect("an answer")
}

#[tokio::test]
async fn clients_are_sent_to_their_nearest_region() {
    let server = serve().await;
    for (client, region) in
        [([10, 0, 3, 0], US_ADDRESS), ([10, 1, 3, 0], EU_ADDRESS), ([10, 2, 3, 0], AP_ADDRESS)]
    {
        let answer = ask(&server, "redis.meridian.test", network(client, 24)).await;
        assert_eq!(answer.addresses.first(), Some(&region));
        assert_eq!((answer.ttl_s, answer.scope), (Some(5), Some(16)));
    }
    // Without a subnet the resolver's own address counts: loopback is nobody's network.
    let answer = ask(&server, "redis.meridian.test", None).await;
    assert_eq!(answer, ProbeAnswer { addresses: vec![AP_ADDRESS], ttl_s: Some(5), scope: None });
    server.shutdown().await;
}

#[tokio::test]
async fn a_new_table_answers_from_the_next_query_on() {
    let server = serve().await;
    let client = network([10, 0, 3, 0], 24);
    for (epoch, down, region) in
        [(2, &[US][..], EU_ADDRESS), (3, &[US, EU][..], AP_ADDRESS), (4, &[][..], US_ADDRESS)]
    {
        server.handle().publish(table(epoch, down));
        let answer = ask(&server, "redis.meridian.test", client).await;
        assert_eq!(answer.addresses.first(), Some(&region), "epoch {epoch}");
    }
    server.handle().publish(table(5, &[US, EU, AP]));
    let answer = ask(&server, "redis.meridian.test", client).await;
    let mut v4: Vec<_> = answer.addresses.into_iter().filter(IpAddr::is_ipv4).collect();
    v4.sort();
    assert_eq!(v4, [US_ADDRESS, EU_ADDRESS, AP_ADDRESS], "nobody is left: everybody answers");
}

#[tokio::test]
async fn a_region_is_found_by_its_own_name_whatever_its_state() {
    let server = serve().await;
    server.handle().publish(table(2, &[US]));
    let answer = ask(&server, "us-east.meridian.test", network([10, 1, 0, 0], 16)).await;
    let v6: IpAddr = "2001:db8::1".parse().expect("an address");
    assert_eq!(answer.addresses, [US_ADDRESS, v6]);
    assert_eq!(answer.scope, Some(0), "the answer does not depend on the client");
}

#[tokio::test]
async fn names_outside_are_refused_and_unknown_ones_do_not_exist() {
    let server = serve().await;
    let reason = |name: &'static str, client| {
        let address = server.local_addr();
        async move { probe(address, name, client).await.expect_err("no answer").to_string() }
    };
    let client = network([10, 0, 0, 0], 16);
    assert!(reason("redis.example.org", client).await.contains("Query Refused"));
    assert!(reason("nobody.meridian.test", client).await.contains("Non-Existent Domain"));
    assert!(reason("a.redis.meridian.test", client).await.contains("Non-Existent Domain"));
    assert!(reason("nobody.meridian.test", None).await.contains("no records found"));
    let counts = server.handle().counts();
    assert_eq!((counts.refused, counts.no_such_name >= 2), (1, true), "{counts:?}");
}

#[tokio::test]
async fn dig_sees_what_a_resolver_should() {
    let server = serve().await;
    let address = server.local_addr();
    let Some(short) = dig(address, "+short redis.meridian.test A +subnet=10.1.2.0/24").await else {
        return;
    };
    assert_eq!(short.trim(), "127.0.0.2");
    for (question, expected) in [
        (
            "ReDiS.Meridian.test A +subnet=10.1.2.0/24",
            &["status: NOERROR", " aa", "CLIENT-SUBNET: 10.1.2.0/24/16", "ReDiS.Meridian.test."][..],
        ),
        (
            "redis.meridian.test A +tcp +subnet=10.0.0.0/16",
            &["127.0.0.1", "CLIENT-SUBNET: 10.0.0.0/16/16"],
        ),
        (
            "redis.meridian.test A +subnet=2001:db8:1::/48",
            &["127.0.0.2", "CLIENT-SUBNET: 2001:db8:1::/48/48"],
        ),
        ("redis.meridian.test A +subnet=0/0", &["127.0.0.3", "CLIENT-SUBNET: 0.0.0.0/0/0"]),
        ("redis.meridian.test A +noedns", &["127.0.0.3", "ADDITIONAL: 0"]),
        ("redis.meridian.test TXT", &["status: NOERROR", "ANSWER: 0", "SOA"]),
        ("nobody.meridian.test A", &["status: NXDOMAIN", "SOA", "hostmaster.meridian.test."]),
        ("meridian.test SOA", &["us-east.meridian.test. hostmaster.meridian.test. 1 "]),
        ("meridian.test NS", &["ANSWER: 3", "eu-central.meridian.test.", "127.0.0.2"]),
        ("meridian.test A", &["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1"]),
        ("us-east.meridian.test AAAA", &["2001:db8::1"]),
        ("us-east.meridian.test ANY", &["ANSWER: 2"]),
        ("redis.example.org A", &["status: REFUSED"]),
        (". NS", &["status: REFUSED"]),
        ("test A", &["status: REFUSED"]),
        ("redis.meridian.test A -c CH", &["status: REFUSED"]),
        ("meridian.test AXFR +tcp", &["Transfer failed"]),
        ("redis.meridian.test A +edns=1 +noednsneg", &["status: BADVERS"]),
        ("redis.meridian.test A +opcode=NOTIFY", &["status: NOTIMP"]),
    ] {
        let output = dig(address, question).await.expect("is installed");
        for part in expected {
            assert!(output.contains(part), "dig {question}: no {part:?} in\n{output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_swapped_whole_under_load() {
    let server = serve().await;
    let address = server.local_addr();
    let is_done = Arc::new(AtomicBool::new(false));
    let mut askers = tokio::task::JoinSet::new();
    for asker in 0..4u8 {
        let is_done = Arc::clone(&is_done);
        askers.spawn(async move {
            let mut asked = 0;
            while !is_done.load(Ordering::Relaxed) {
                let client = network([10, 0, asker, 0], 24);
                let answer =
                    probe(address, "redis.meridian.test", client).await.expect("an answer");
                // The two families are two queries; each answer is from one table or the other.
                let v4: Vec<_> = answer.addresses.iter().filter(|a| a.is_ipv4()).collect();
                assert!(v4 == [&US_ADDRESS] || v4 == [&EU_ADDRESS], "{answer:?}");
                asked += 1;
            }
            asked
        });
    }
    let enough = 500;
    let mut epoch = 1;
    while server.handle().counts().udp < enough {
        epoch += 1;
        let down = if epoch % 2 == 0 { &[US][..] } else { &[] };
        server.handle().publish(table(epoch, down));
        assert!(askers.try_join_next().is_none(), "an asker gave up");
        tokio::task::yield_now().await;
    }
    is_done.store(true, Ordering::Relaxed);
    let asked: u64 = askers.join_all().await.into_iter().sum();
    let counts = server.handle().counts();
    assert!(asked > 0 && counts.udp >= enough, "{asked} asked, {counts:?}");
    assert_eq!(counts.with_subnet, counts.udp);
    assert_eq!((counts.malformed, counts.send_failed), (0, 0));
}
