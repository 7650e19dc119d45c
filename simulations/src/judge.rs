//! The judges: what must hold at every moment, and what must hold in the end.

use std::collections::BTreeMap;

use meridian_clock::{
    MAX_AHEAD_MS, VersionVector,
    limits::{CALM_US, READING_LIFE_US},
};
use meridian_failover::{ControlState, MemberStatus, Members};
use meridian_keyspace::Stage;
use meridian_store::CrashModel;

use crate::{
    observe::{Observer, digest},
    plan::{Family, SECOND},
    region::{Region, RegionConfig},
    spec::{Content, Part, Shown},
    workload::family_of,
    world::{Event, World},
};

/// After everything has healed the world settles within this time, in microseconds; see
/// `World::patience_us`.
const PATIENCE_US: u64 = 60 * SECOND;

/// The same where members come and go: votes move in steps of seconds, and who was down several
/// times waits for a minute before it is taken for up.
const MEMBERS_PATIENCE_US: u64 = 240 * SECOND;

/// A repair may take so long with its way to and fro, in microseconds.
const REPAIR_US: u64 = 2 * SECOND;

/// What the control planes have agreed on.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// By epoch, the state that it opened.
    states: BTreeMap<u64, Vec<u8>>,
    /// By region, the newest epoch that it has shown, over all its lives.
    epochs: BTreeMap<usize, u64>,
    /// Who was primary last.
    primary: Option<usize>,
    /// The newest epoch that any region has shown.
    newest: u64,
    /// And its members.
    pub members: Members,
}

impl World {
    /// At most one region takes itself for the primary; what was agreed stays agreed.
    pub(crate) fn check_primaries(&mut self) -> Result<(), String> {
        if self.plan.control() == 0 {
            return Ok(());
        }
        let mut primaries = (0..self.places.len()).filter(|place| self.is_primary(*place));
        let (primary, another) = (primaries.next(), primaries.next());
        if let (Some(one), Some(another)) = (primary, another) {
            return Err(format!("regions {one} and {another} are primary at once"));
        }
        drop(primaries);
        if let Some(primary) = primary
            && self.agreement.primary != Some(primary)
        {
            self.agreement.primary = Some(primary);
            self.counts.takeovers += 1;
            self.trace.line(self.now_us, || format!("{primary} is primary"));
        }
        let mut news: Vec<ControlState> = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            let Some(plane) = place.process.as_ref().and_then(|p| p.control.as_ref()) else {
                continue;
            };
            if !plane.control.is_settled() {
                continue;
            }
            let state = plane.control.state();
            if self.agreement.epochs.get(&index) == Some(&state.epoch) {
                continue;
            }
            let seen = self.agreement.epochs.entry(index).or_default();
            if state.epoch < *seen {
                return Err(format!(
                    "region {index} goes back from epoch {seen} to {}",
                    state.epoch
                ));
            }
            if state.epoch > *seen || !self.agreement.states.contains_key(&state.epoch) {
                *seen = state.epoch;
                let bytes = state.encode();
                let agreed = self.agreement.states.entry(state.epoch).or_insert(bytes.clone());
                if *agreed != bytes {
                    return Err(format!("region {index} knows another epoch {}", state.epoch));
                }
                news.push(state.clone());
                let (voters, _) = plane.control.voters();
                let left = |id: &&u16| state.members.status(**id) == Some(MemberStatus::Left);
                if let Some(id) = voters.iter().find(left) {
                    return Err(format!("region {index} counts on {id}, which has left"));
                }
                let dead = |id: &&u16| state.members.status(**id) == Some(MemberStatus::Dead);
                let dead = voters.iter().filter(dead).count();
                if 2 * dead >= voters.len() && dead > 0 {
                    return Err(format!("region {index}: half of {voters:?} are dead and vote"));
                }
            }
        }
        for state in news {
            if state.epoch > self.agreement.newest || self.agreement.members.is_empty() {
                self.agreement.newest = state.epoch;
                self.note_members(&state);
            }
        }
        Ok(())
    }

    /// Looks at one region: what it shows, and what a new process would make of its disk.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        let next_us = self.judges.range(1, 2 * self.plan.look_us());
        self.later(next_us, Event::Look);
        let place = self.judges.below(self.places.len());
        if self.places[place].process.is_none() {
            return Ok(());
        }
        self.counts.looks += 1;
        let relayed = self.places[place].process.as_ref().is_some_and(Region::is_relayed);
        self.counts.relays += u64::from(relayed);
        let stable = self.stable();
        self.history.prune(&stable);
        self.end_turn(place)?;
        if self.places[place].relapsed {
            return Ok(());
        }
        self.check_shown(place)?;
        if self.judges.chance(400) {
            self.check_restart(place)?;
        }
        Ok(())
    }

    /// A region shows exactly what the operations that it has applied amount to.
    fn check_shown(&mut self, place: usize) -> Result<(), String> {
        let here = &self.places[place];
        let Some(process) = &here.process else { return Ok(()) };
        let vectors = process.vectors();
        for (number, (before, now)) in here.looked.iter().zip(&vectors).enumerate() {
            if !now.dominates(before) {
                return Err(format!("region {place} partition {number}: its vector went back"));
            }
        }
        let stage = process.node.engine().stage();
        if stage.now() < here.looked_now {
            return Err(format!("region {place}: hybrid time went back"));
        }
        let now = stage.now();
        // With its clock fenced it goes by that of the others.
        let clocks = self.places.iter().filter(|p| self.fences() || std::ptr::eq(*p, here));
        let latest_us = clocks.map(|p| p.latest_us).max().unwrap_or_default();
        if now.as_ms() > latest_us / 1000 + MAX_AHEAD_MS + 1 {
            return Err(format!("region {place}: another clock has carried it into the future"));
        }
        self.check_stage(&here.config, stage, &format!("region {place}"))?;
        for key in self.keys.iter().filter(|key| family_of(key) == Family::Sets) {
            let theirs = here.sets.members(key);
            let ours = stage.object(key).map(|o| o.set().visible(Default::default()));
            let ours = ours.into_iter().flatten().map(|(name, _)| name.to_vec()).collect();
            if theirs != ours {
                return Err(format!("region {place} {key:?}: {ours:?}, Orswot holds {theirs:?}"));
            }
        }
        self.places[place].looked = vectors;
        self.places[place].looked_now = now;
        Ok(())
    }

    /// Data shows exactly what the operations that its vectors cover amount to.
    fn check_stage(&self, config: &RegionConfig, stage: &Stage, who: &str) -> Result<(), String> {
        let mut observer = Observer::new(config, stage);
        for key in &self.keys {
            let number = stage.partition_of(key);
            let (seen, now) = (&stage.partition(number).vector, stage.now());
            let name = String::from_utf8_lossy(key);
            let shown = observer.show(key).map_err(|e| format!("{who} {name}: {e}"))?;
            let expected = self.history.show(key, seen, now);
            if shown != expected {
                let records: Vec<_> = self.history.records(key).collect();
                let object = stage.object(key);
                return Err(format!(
                    "{who} shows {name} as\n  {}\nwhere all that it has applied gives\n  {}\n\
                     it holds {object:#?}\nits vector is {seen:?}, its time {}\n\
                     the operations are {records:#?}",
                    tell(shown.as_ref()),
                    tell(expected.as_ref()),
                    now.0,
                ));
            }
            if !self.history.records(key).any(|r| r.swept) {
                continue;
            }
            let unswept = self.history.show_unswept(key, seen, now);
            let parts =
                |shown: Option<&Shown>| shown.map(|s| s.content.parts()).unwrap_or_default();
            // A key that expired and was reclaimed must not come back with what arrives late.
            // Which type shows may change, since reclaiming removes hidden ones too.
            let (shown, unswept) = (parts(shown.as_ref()), parts(unswept.as_ref()));
            // The promise that nothing more comes from before a deadline binds an ordinal: the
            // region that goes on under a new one may know less.
            if self.counts.restores + self.counts.rebirths + self.counts.betrayals == 0
                && same_kind(&shown, &unswept)
                && !shown.is_subset(&unswept)
            {
                return Err(format!("{who} {name}: reclaiming brought back {shown:?}"));
            }
        }
        Ok(())
    }

    /// A new process on the same disk has the same data; after the machine's death, what its own
    /// vectors say.
    fn check_restart(&mut self, place: usize) -> Result<(), String> {
        let machine = self.judges.chance(500);
        let here = &mut self.places[place];
        if here.rotten || here.honest.is_some() {
            return Ok(());
        }
        let Some(process) = &mut here.process else { return Ok(()) };
        let model = if machine {
            let log_bytes = self.judges.below(process.storage.unsynced() + 1);
            let batches = self.judges.below(process.storage.pending_batches() + 1);
            CrashModel::Machine { log_bytes, batches }
        } else {
            CrashModel::Process
        };
        let disk = process.storage.clone().reopen(model).map_err(|e| e.to_string())?;
        let mut twin = Region::start(here.config.clone(), disk)?;
        let physical_us = here.clocks.physical_us(self.now_us);
        twin.node.engine_mut().set_physical_us(physical_us);
        if machine {
            let (config, stage) = (here.config.clone(), twin.node.engine().stage());
            return self.check_stage(&config, stage, &format!("region {place} after a restart"));
        }
        if twin.vectors() != process.vectors() {
            return Err(format!("region {place} has other vectors after a restart"));
        }
        let held = |region: &mut Region| digest(region.node.engine_mut().stage_mut());
        if held(process) != held(&mut twin) {
            return Err(format!("region {place} has another digest after a restart"));
        }
        Ok(())
    }

    /// After everything has healed: true when everything has settled as it must.
    pub(crate) fn verdict(&mut self) -> Result<bool, String> {
        if self.probing() {
            return self.part_verdict().map(|()| false);
        }
        for place in 0..self.places.len() {
            self.end_turn(place)?;
        }
        self.renew_who_knows()?;
        match self.unsettled() {
            None => {
                (0..self.places.len()).try_for_each(|place| self.check_end(place))?;
                self.check_promises()?;
                Ok(true)
            }
            Some(why) if self.now_us > self.healed_us + self.patience_us() => {
                Err(format!("does not settle: {why}"))
            }
            Some(_) => {
                self.later(crate::world::VERDICT_EVERY_US, Event::Verdict);
                Ok(false)
            }
        }
    }

    /// How long the world may take to settle, in microseconds. Clocks that heal are all set at once,
    /// and so contradict what was read of them before, for as long as a reading counts. And where many
    /// regions lack what one alone has, and its log does not lead on, it repairs one after the other.
    pub(crate) fn patience_us(&self) -> u64 {
        let patience_us = match self.plan.changes_members() {
            true => MEMBERS_PATIENCE_US,
            false => PATIENCE_US,
        };
        let readings_us = if self.fences() { READING_LIFE_US + CALM_US } else { 0 };
        let others = self.places.len().saturating_sub(1) as u64;
        patience_us + readings_us + others * REPAIR_US
    }

    /// What has not settled yet.
    fn unsettled(&self) -> Option<String> {
        let processes: Vec<&Region> =
            self.places.iter().filter_map(|p| p.process.as_ref()).collect();
        let first = processes.first()?;
        if let Some(place) = self.places.iter().position(|p| p.relapsed) {
            return Some(format!("region {place} does not notice that it has lost writes"));
        }
        for (index, process) in processes.iter().enumerate() {
            if process.needs_sync() {
                return Some(format!("region {index} has frames that are not on disk"));
            }
            if process.node.clocks().watch().fence().is_some() {
                return Some(format!("region {index} does not believe its clock"));
            }
            if process.vectors() != first.vectors() {
                let (a, b) = (first.vectors(), process.vectors());
                return Some(format!("vectors of 0 and {index} differ:\n  {a:?}\n  {b:?}"));
            }
            for number in 0..self.plan.partitions() as u16 {
                let waiting = process.node.engine().stage().partition(number).residue();
                if waiting > 0 {
                    return Some(format!("region {index} keeps {waiting} empty counter rows"));
                }
            }
        }
        if self.plan.control() > 0 {
            return self.members_unsettled().or_else(|| self.control_unsettled(&processes));
        }
        None
    }

    fn control_unsettled(&self, processes: &[&Region]) -> Option<String> {
        let planes: Vec<_> = processes.iter().filter_map(|p| p.control.as_ref()).collect();
        let epochs: Vec<u64> = planes.iter().map(|p| p.control.state().epoch).collect();
        if epochs.iter().any(|epoch| *epoch != epochs[0]) {
            return Some(format!("control epochs differ: {epochs:?}"));
        }
        let primaries: Vec<usize> =
            (0..self.places.len()).filter(|place| self.is_primary(*place)).collect();
        let agreed = planes.first()?.control.state().primary;
        let agreed = self.place_of_id(agreed)?;
        (primaries != [agreed])
            .then(|| format!("primary are {primaries:?} where {agreed} was agreed on"))
    }

    fn check_end(&mut self, place: usize) -> Result<(), String> {
        if self.places[place].belonging.is_gone {
            return Ok(());
        }
        self.check_shown(place)?;
        let first = self.staying().next().unwrap_or_default();
        let mut held = |place: usize| {
            let process = self.places[place].process.as_mut();
            process.map(|p| digest(p.node.engine_mut().stage_mut()))
        };
        if held(place) != held(first) {
            return Err(format!("digests of regions {first} and {place} differ"));
        }
        let here = &self.places[place];
        let Some(process) = &here.process else { return Ok(()) };
        for key in &self.keys {
            let Some(object) = process.node.engine().stage().object(key) else { continue };
            let mut empty = 0;
            object.each(|_, cell| empty += cell.rows().iter().filter(|r| !r.is_live()).count());
            if empty > 0 {
                let name = String::from_utf8_lossy(key);
                return Err(format!(
                    "region {place} {name}: {empty} empty counter rows are left in {object:#?}"
                ));
            }
        }
        Ok(())
    }

    /// What clients were told of, and nobody was allowed to lose, is everywhere.
    fn check_promises(&self) -> Result<(), String> {
        let first = self.staying().next().unwrap_or_default();
        let Some(process) = &self.places[first].process else { return Ok(()) };
        let vectors: Vec<VersionVector> = process.vectors();
        let kept = |p: &&crate::client::Promise| !vectors[usize::from(p.partition)].covers(p.dot);
        match self.promises.iter().find(kept) {
            Some(lost) => Err(format!("an acknowledged write is missing everywhere: {}", lost.dot)),
            None => Ok(()),
        }
    }
}

fn same_kind(a: &std::collections::BTreeSet<Part>, b: &std::collections::BTreeSet<Part>) -> bool {
    let kind = |parts: &std::collections::BTreeSet<Part>| parts.first().map(std::mem::discriminant);
    b.is_empty() || kind(a) == kind(b)
}

fn tell(shown: Option<&Shown>) -> String {
    let Some(Shown { content, deadline_ms }) = shown else { return "nothing".into() };
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let content = match content {
        Content::String(value) => format!("string {}", text(value)),
        Content::Hash(fields) => {
            let fields =
                fields.iter().map(|(name, value)| format!("{}={}", text(name), text(value)));
            format!("hash {}", fields.collect::<Vec<_>>().join(" "))
        }
        Content::Set(members) => {
            format!("set {}", members.iter().map(text).collect::<Vec<_>>().join(" "))
        }
    };
    format!("{content} until {deadline_ms:?}")
}
