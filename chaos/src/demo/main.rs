//! The demonstration: the main job of Meridian on this machine, each step checked.
//!
//! Three regions with the WAN's delays between them, a Postgres whose rows are read in all of
//! them, writes that race and a link that is cut, a region that is killed under load and comes
//! back. The exit code is 0 only if every check holds.

mod active;
mod disaster;
mod homecoming;
mod rows;
mod start;
mod story;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use meridian_chaos::interrupt;

use story::Story;
use tour::Tour;

/// The exit code of a program that Ctrl-C has ended, by the shells' convention.
const INTERRUPTED: u8 = 130;

/// Shows what Meridian does, on this machine, and checks it.
#[derive(Debug, Parser)]
#[command(name = "meridian-demo", version)]
struct Args {
    /// No delay between the regions.
    #[arg(long)]
    no_delay: bool,
    /// Keep the data and the logs.
    #[arg(long)]
    keep: bool,
    /// The topology of the three regions.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The meridian program [default: beside this one].
    #[arg(long, value_name = "FILE")]
    meridian: Option<PathBuf>,
}

fn main() -> ExitCode {
    match demonstrate(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whatever failed then failed because of that.
        Err(_) if interrupt::check().is_err() => {
            eprintln!("demo: interrupted, and everything that it had started has ended");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("\ndemo: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demonstrate(args: &Args) -> Result<()> {
    interrupt::install()?;
    let mut story = Story::begin();
    let directory = tempfile::Builder::new()
        .prefix("meridian-demo-")
        .disable_cleanup(args.keep)
        .tempdir()
        .context("a temporary directory")?;
    let mut tour = start::start(args, directory.path(), &mut story)?;
    let outcome = steps(&mut tour, &mut story);
    if outcome.is_err() && interrupt::check().is_ok() {
        eprint!("\n{}", tour.cluster.last_words());
    }
    // Everything that was started ends here, before the table says that all is well.
    drop(tour);
    outcome?;
    story.end();
    if args.keep {
        story::tell(&format!("\ndata and logs are in {}", directory.path().display()));
    }
    Ok(())
}

fn steps(tour: &mut Tour, story: &mut Story) -> Result<()> {
    start::look(tour, story)?;
    rows::follow(tour, story)?;
    active::share(tour, story)?;
    let aftermath = disaster::strike(tour, story)?;
    homecoming::return_home(tour, story, &aftermath)
}
