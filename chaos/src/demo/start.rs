//! Step 1: three regions start as processes, with the WAN between them. Postgres is prepared
//! meanwhile.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meridian_chaos::cluster::{Cluster, Options};
use meridian_chaos::names::Names;
use meridian_chaos::source::Source;
use meridian_chaos::{http, patience, shop};
use meridian_postgres::testing::{self, TestPostgres};

use crate::Args;
use crate::story::{Story, tell, time};
use crate::tour::{ALL, Tour, US, check_equal};

/// How long measured round trips may take to appear.
const MEASURE_WITHIN: Duration = Duration::from_secs(10);

/// Starts the regions.
pub fn start(args: &Args, directory: &Path, story: &mut Story) -> Result<Tour> {
    story.step("Three regions start, each a process of its own");
    // Postgres may run as another user, who has to get to its directory.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).context("permissions")?;
    let port = free_port()?;
    let postgres_directory = directory.join("postgres");
    let postgres_start = std::thread::spawn(move || prepare_postgres(&postgres_directory, port));
    let shop_url = url(port, "shop");
    let delay = args.no_delay.then(|| "--no-delay".to_owned());
    let options = Options {
        program: program(args)?,
        topology: args.config.clone(),
        directory: directory.join("cluster"),
        arguments: delay.into_iter().collect(),
        environment: vec![("MERIDIAN_POSTGRES_URL".to_owned(), shop_url.clone())],
    };
    let started = Instant::now();
    let cluster = Cluster::start(&options, |line| {
        if line.starts_with("starting") || line.starts_with("  ") || line.contains("ended") {
            tell(&format!("   {}", line.trim_start()));
        }
    })?;
    let took = time(started.elapsed());
    story.measured("three regions start", took, "certificates included");
    let names = Names::new()?;
    let postgres_start = Some(postgres_start);
    Ok(Tour { cluster, postgres: None, postgres_start, shop_url, names })
}

/// Looks at what has started.
pub fn look(tour: &mut Tour, story: &mut Story) -> Result<()> {
    for name in ALL {
        let (code, body) = http::get(tour.region(name)?.admin, "/healthz")?;
        ensure!(code == 200, "{name} is not healthy: {code} {body}");
        let status = tour.status(name)?;
        check_equal(&format!("the region at {name}'s port"), &status["region"], &name.into())?;
    }
    tour.settle()?;
    story.holds(&format!("three healthy regions, and all agree that {US} is primary"));
    let pairs = [(0, 1), (1, 2), (0, 2)].map(|(a, b)| (ALL[a], ALL[b]));
    let mut measured = Vec::new();
    for (from, to) in pairs {
        let given = tour.cluster.one_way_ms(from, to) * 2.0;
        let what = format!("a round trip of {given} ms at least between {from} and {to}");
        let rtt = patience::until(&what, MEASURE_WITHIN, || {
            Ok(tour.status(from)?["peers"][to]["rtt_ms"].as_f64().filter(|rtt| *rtt >= given))
        })?;
        measured.push(format!("{rtt:.0} ms"));
    }
    let (words, given) = (measured.join(" / "), given(tour, &pairs));
    story.holds(&format!("round trips us–eu, eu–ap, us–ap, as the regions measure: {words}"));
    story.measured("round trips us–eu / eu–ap / us–ap", words, given);
    resolve_by_name(tour, story)?;
    for name in ALL {
        let region = tour.region(name)?;
        let (host, port) = (region.redis.ip(), region.redis.port());
        story.say(&format!("redis-cli -h {host} -p {port}   # {name}, http://{}", region.admin));
    }
    Ok(())
}

/// Each server knows each region by its name, as hickory-resolver sees it.
fn resolve_by_name(tour: &Tour, story: &mut Story) -> Result<()> {
    let zone = &tour.cluster.zone;
    for server in ALL {
        for name in ALL {
            let full = format!("{name}.{zone}");
            let found = tour.names.resolve(tour.region(server)?.dns, &full)?;
            let expected = vec![tour.region(name)?.client_address];
            check_equal(&format!("{full} at the server of {server}"), found, expected)?;
        }
    }
    story.holds(&format!("each region's DNS server resolves every region, as in {US}.{zone}"));
    Ok(())
}

fn given(tour: &Tour, pairs: &[(&str, &str)]) -> String {
    let figures = pairs.iter().map(|(from, to)| {
        let round_trip_ms = tour.cluster.one_way_ms(from, to) * 2.0;
        format!("{round_trip_ms:.0}")
    });
    format!("given {} ms", figures.collect::<Vec<_>>().join(" / "))
}

/// Starts a server and fills the shop. Only when everything is there does the database get the
/// name that the cluster is looking for.
fn prepare_postgres(directory: &Path, port: u16) -> Result<(TestPostgres, Duration)> {
    let started = Instant::now();
    let options = testing::Options { port: Some(port), ..testing::Options::default() };
    let postgres = TestPostgres::start_with(directory, &options).context("starting Postgres")?;
    let admin = Source::connect(&postgres.tcp_url())?;
    admin.execute("CREATE DATABASE filling")?;
    Source::connect(&url(port, "filling"))?.execute(&shop::schema())?;
    patience::until("the last session of the filling to end", MEASURE_WITHIN, || {
        let sessions = admin.rows("SELECT 1 FROM pg_stat_activity WHERE datname = 'filling'")?;
        Ok(sessions.is_empty().then_some(()))
    })?;
    admin.execute("ALTER DATABASE filling RENAME TO shop")?;
    Ok((postgres, started.elapsed()))
}

fn url(port: u16, database: &str) -> String {
    format!("postgresql://postgres:{}@127.0.0.1:{port}/{database}", testing::PASSWORD)
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
    Ok(listener.local_addr().context("a free port")?.port())
}

/// The program beside this one.
fn program(args: &Args) -> Result<PathBuf> {
    let path = match &args.meridian {
        Some(path) => path.clone(),
        None => std::env::current_exe().context("finding this program")?.with_file_name("meridian"),
    };
    ensure!(path.exists(), "{} is not there; build it with: make build", path.display());
    Ok(path)
}
