//! `meridian join`: an ordinal, a directory, a node.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use meridian_failover::{ControlState, MemberStatus};
use meridian_mesh::NodeCertificate;

use super::progress;
use super::protocol::{Joined, MemberRequest, from_hex};
use super::reach::{self, Cluster};
use crate::cli::JoinArgs;
use crate::config::{
    ClusterFile, EXAMPLE, NodeConfig, Overrides, Paths, Region, RoundTrip, Secret,
};
use crate::runtime::{self, unix_ms};

/// What the node of a region that joins logs unless told otherwise: the progress stays readable.
const LOG: &str = "warn";

/// Adds this machine to a running cluster and runs its node.
///
/// # Errors
/// When the cluster does not take it, or the node cannot run.
pub fn join(args: &JoinArgs) -> Result<()> {
    let paths = super::block_on(prepare(args))?;
    let topology = paths.joined_topology(&args.name);
    let cluster = ClusterFile::read(&topology)?;
    let overrides = Overrides {
        data_dir: Some(paths.base.clone()),
        certificates: args.run.certificates.clone(),
        appendfsync: args.run.appendfsync,
        log: Some(args.log.clone().unwrap_or_else(|| LOG.to_owned())),
        peers: Vec::new(),
        password: Secret::from_environment("MERIDIAN_PASSWORD")?,
        postgres_url: Secret::from_environment("MERIDIAN_POSTGRES_URL")?,
        postgres_password: Secret::from_environment("MERIDIAN_POSTGRES_PASSWORD")?,
    };
    let config = NodeConfig::resolve(cluster, &args.name, overrides)?;
    if args.prepare_only {
        let (file, base) = (topology.display(), paths.base.display());
        let name = &args.name;
        let mut out = std::io::stdout();
        writeln!(out, "{name} is region {}; run its node with:", config.region.ordinal)?;
        writeln!(out, "  meridian node --config {file} --region {name} --data-dir {base}")?;
        return Ok(());
    }
    crate::logging::start(&config.log)?;
    if args.run.until_stdin_closes {
        crate::up::leash::end_with_stdin().context("watching the standard input")?;
    }
    progress::watch(args.name.clone(), config.region.operator_address(config.region.admin))?;
    runtime::run(config)
}

/// Gets an ordinal and writes what the node needs, unless that was done before.
async fn prepare(args: &JoinArgs) -> Result<Paths> {
    let via = reach::resolve(&args.via).await?;
    let status = reach::status(via).await?;
    let name = status["cluster"].as_str().context("the node does not tell its cluster")?;
    let cluster = ClusterFile { cluster: name.to_owned(), ..ClusterFile::parse(EXAMPLE)? };
    let paths = Paths::resolve(&cluster, args.run.data_dir.clone());
    if paths.joined_state(&args.name).exists() {
        return Ok(paths);
    }
    let data = paths.data(&args.name);
    ensure!(
        !data.exists(),
        "{} holds the data of a region that is a member or was one: join with another data \
         directory",
        data.display()
    );
    let default = paths.certificates(&args.name);
    let certificates = args.run.certificates.as_ref().unwrap_or(&default);
    let certificate = NodeCertificate::load(certificates).with_context(|| {
        let name = &args.name;
        format!(
            "a certificate for {name} (made where ca.key is: meridian cert issue {name} --new \
             --out DIR; then --certificates DIR here)"
        )
    })?;
    make_directory(&paths.region(&args.name))?;
    let token = token(&paths.join_token(&args.name))?;
    let mesh = args.mesh_address.clone().unwrap_or_else(|| args.mesh.to_string());
    let clients = match args.client_addresses.as_slice() {
        [] => vec![args.redis.ip()],
        given => given.to_vec(),
    };
    let request = MemberRequest::Join {
        name: args.name.clone(),
        token,
        mesh,
        redis: args.redis,
        admin: args.admin,
        dns: args.dns,
        clients,
        at_ms: unix_ms(),
    };
    let answer = Cluster::new(via, certificate).ask(&request).await?;
    let joined: Joined = serde_json::from_str(&answer).context("the node's answer")?;
    let state = from_hex(&joined.state).context("the node's answer")?;
    let agreed = ControlState::decode(&state).context("the node's answer")?;
    let file = topology(args, &joined, &agreed)?;
    let text = serde_yaml_ng::to_string(&file).context("writing the topology")?;
    write_whole(&paths.joined_topology(&args.name), text.as_bytes())?;
    // Last: with it the directory is complete.
    write_whole(&paths.joined_state(&args.name), &state)?;
    Ok(paths)
}

/// The cluster's topology with the new region, and without those that are gone.
fn topology(args: &JoinArgs, joined: &Joined, agreed: &ControlState) -> Result<ClusterFile> {
    let mut file: ClusterFile =
        serde_yaml_ng::from_str(&joined.topology).context("the cluster's topology")?;
    let is_live = |region: &Region| {
        agreed.members.status(region.ordinal).is_some_and(MemberStatus::is_live)
            && region.name != args.name
    };
    file.regions.retain(is_live);
    let names: Vec<String> = file.regions.iter().map(|region| region.name.clone()).collect();
    let is_known = |name: &String| names.contains(name);
    file.failover.priority.retain(is_known);
    file.dns.default_order.retain(is_known);
    file.dns.networks.iter_mut().for_each(|network| network.order.retain(is_known));
    file.dns.networks.retain(|network| !network.order.is_empty());
    file.wan.round_trips.retain(|trip| trip.between.iter().all(is_known));
    // Elections are timed by the largest; the new region must not have another idea of it.
    let ms = file.largest_round_trip_ms();
    let trips =
        names.iter().map(|other| RoundTrip { between: [other.clone(), args.name.clone()], ms });
    file.wan.round_trips.extend(trips.collect::<Vec<_>>());
    file.regions.push(Region {
        name: args.name.clone(),
        ordinal: joined.ordinal,
        redis: args.redis,
        mesh: args.mesh,
        admin: args.admin,
        dns: args.dns,
        mesh_address: args.mesh_address.clone(),
        client_addresses: args.client_addresses.clone(),
        certificates: args.run.certificates.as_ref().map(std::path::absolute).transpose()?,
    });
    file.check().context("the cluster's topology with the new region")?;
    Ok(file)
}

/// The number by which this directory asks: made once.
fn token(path: &Path) -> Result<u64> {
    let what = || path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().with_context(what),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Zero stands for none.
            let token = runtime::seed().max(1);
            write_whole(path, token.to_string().as_bytes())?;
            Ok(token)
        }
        Err(error) => Err(error).with_context(what),
    }
}

fn make_directory(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| path.display().to_string())
}

/// Writes beside the file, makes it durable, and puts it in place.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    let write = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    };
    write().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str) -> JoinArgs {
        JoinArgs {
            name: name.to_owned(),
            via: "127.0.0.1:7500".to_owned(),
            redis: "127.0.0.4:7379".parse().unwrap(),
            mesh: "127.0.0.4:7400".parse().unwrap(),
            admin: "127.0.0.4:7500".parse().unwrap(),
            dns: "127.0.0.4:7553".parse().unwrap(),
            mesh_address: None,
            client_addresses: Vec::new(),
            run: Default::default(),
            log: None,
            prepare_only: true,
        }
    }

    #[test]
    fn the_new_topology_names_the_living_and_the_new_one() {
        let file = ClusterFile::parse(EXAMPLE).unwrap();
        let founders = file.founders();
        let mut agreed = ControlState::founding(&file.failover_config(0), founders).unwrap();
        let joined = Joined { ordinal: 3, state: String::new(), topology: EXAMPLE.to_owned() };
        let four = topology(&args("sa-east"), &joined, &agreed).unwrap();
        assert_eq!(four.names(), ["us-east", "eu-central", "ap-southeast", "sa-east"]);
        assert_eq!(four.largest_round_trip_ms(), 220, "the others time elections by it, too");
        // A region that is dead gives its name and addresses away.
        agreed.regions.get_mut(&2).unwrap().state = meridian_failover::RegionState::Down;
        let change = meridian_failover::MemberChange::Dead { region: 2 };
        let agreed = agreed.after_member(&change).unwrap();
        let mut again = args("ap-southeast");
        again.redis = "127.0.0.3:7379".parse().unwrap();
        let again = topology(&again, &joined, &agreed).unwrap();
        assert_eq!(again.names(), ["us-east", "eu-central", "ap-southeast"]);
        assert_eq!(again.region("ap-southeast").unwrap().ordinal, 3);
        assert_eq!(again.dns.networks.len(), 3, "the others serve its clients");
        let clash = JoinArgs { redis: "127.0.0.1:7379".parse().unwrap(), ..args("sa-east") };
        assert!(topology(&clash, &joined, &agreed).is_err(), "somebody listens there");
    }

    #[test]
    fn a_directory_asks_with_one_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("join.token");
        let first = token(&path).unwrap();
        assert_eq!(token(&path).unwrap(), first);
        fs::write(&path, "nonsense").unwrap();
        assert!(token(&path).is_err());
    }
}
