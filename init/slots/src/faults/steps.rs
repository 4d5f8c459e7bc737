//! Everything that can happen next in a world.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use super::check::{Property, is_named, load, unsealed_active, untrue_seal};
use super::disk::{GARBAGE, Id, Library, Pending, SECTORS, kernel, root};
use super::mutant::Mutant;
use super::world::{
    Flush, Job, Nature, Order, Phase, RELEASES, ReleaseIndex, Rules, Then, World, contents,
    release, whole,
};
use crate::area::{ATTEMPTS, Place, Slot, Writer};
use crate::booted::Booted;
use crate::loader::{self, Decision};
use crate::record::{ManifestHash, Nonce};
use crate::state::{Cause, Insist, Refusal, Role, State};

/// Where counting of tokens that may be lost ends; no small world comes near.
const UNCOUNTED_MAX: u8 = 4 * ATTEMPTS;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The boot script decided.
    Decides,
    /// The boot script wrote a sector.
    LoaderWrites(Place),
    /// The kernel of a slot was started.
    Starts(Slot),
    /// The system began something.
    Begins(&'static str, ReleaseIndex),
    /// The system wrote a sector.
    Writes(u8),
    /// The system flushed.
    Flushes,
    /// The system read back what it had written.
    ReadsBack,
    /// The machine was reset without losing power.
    Resets,
    /// The power failed.
    Cut,
    /// A sector went bad.
    Rots(u8),
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decides => write!(formatter, "boot: the script decides"),
            Self::LoaderWrites(place) => write!(formatter, "boot: the script writes {place:?}"),
            Self::Starts(slot) => write!(formatter, "boot: slot {slot} starts"),
            Self::Begins(what, index) => {
                write!(formatter, "{what} ({})", RELEASES[*index as usize].0)
            }
            Self::Writes(index) => write!(formatter, "write {}", sector_name(*index)),
            Self::Flushes => write!(formatter, "flush"),
            Self::ReadsBack => write!(formatter, "read back"),
            Self::Resets => write!(formatter, "reset"),
            Self::Cut => write!(formatter, "power cut"),
            Self::Rots(index) => write!(formatter, "{} goes bad", sector_name(*index)),
        }
    }
}

fn sector_name(index: u8) -> String {
    match Place::ALL.get(index as usize) {
        Some(place) => format!("{place:?}"),
        None if index as usize == kernel(Slot::A) => "kernel a".to_owned(),
        None if index as usize == root(Slot::A) => "root a".to_owned(),
        None if index as usize == kernel(Slot::B) => "kernel b".to_owned(),
        None => "root b".to_owned(),
    }
}

/// A next state, or what does not hold in it.
pub type Next = (Step, Result<World, (Property, String)>);

/// What the operating system can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Ask {
    Install(Order),
    Activate(Order, u8),
    ByHand(u8),
    Cancel,
    Commit,
    SettleRollback,
    Adopt,
    Recover,
    SealAgain(ReleaseIndex),
    Settle,
    Wipe,
    Wiped,
}

/// What the operating system sees in an area, once for all worlds with that area.
#[derive(Debug)]
struct Seen {
    state: State,
    role: Role,
}

/// The real code at work, and what it answered before.
#[derive(Debug)]
pub struct Lab {
    /// The sectors.
    pub library: Library,
    rules: Rules,
    plans: Vec<Vec<(usize, Id)>>,
    plan_numbers: HashMap<Vec<(usize, Id)>, u32>,
    decisions: Vec<Rc<Decision>>,
    decision_numbers: HashMap<[Id; Place::ALL.len()], u32>,
    seen: Vec<Seen>,
    seen_numbers: HashMap<([Id; Place::ALL.len()], Booted), usize>,
    answers: HashMap<(usize, Ask), Result<u32, Refusal>>,
}

impl Lab {
    /// An empty one.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            library: Library::default(),
            rules,
            plans: Vec::new(),
            plan_numbers: HashMap::new(),
            decisions: Vec::new(),
            decision_numbers: HashMap::new(),
            seen: Vec::new(),
            seen_numbers: HashMap::new(),
            answers: HashMap::new(),
        }
    }

    /// Everything that can happen in `world`, and how many disks the cuts among it leave.
    pub fn next(&mut self, world: &World, list: &mut Vec<Next>) {
        match world.phase {
            Phase::Off => self.decide(world, list),
            Phase::Loader { decision, step } => self.load(world, decision, step as usize, list),
            Phase::Running { booted, job } => self.run(world, booted, job, list),
        }
        self.cut(world, list);
        self.rot(world, list);
    }

    fn decide(&mut self, world: &World, list: &mut Vec<Next>) {
        let area = area_of(&world.disk.view());
        let number = match self.decision_numbers.get(&area) {
            Some(number) => *number,
            None => {
                let snapshot = self.library.area(&world.disk.view());
                let decision = loader::decide(&snapshot, loader::Disk::Writable);
                self.decisions.push(Rc::new(decision));
                let number = self.decisions.len() as u32 - 1;
                self.decision_numbers.insert(area, number);
                number
            }
        };
        let phase = Phase::Loader {
            decision: number,
            step: 0,
        };
        list.push((Step::Decides, Ok(World { phase, ..*world })));
    }

    fn load(&mut self, world: &World, number: u32, step: usize, list: &mut Vec<Next>) {
        let decision = Rc::clone(&self.decisions[number as usize]);
        let mut next = *world;
        if let Some((place, sector)) = decision.writes.get(step) {
            next.phase = Phase::Loader {
                decision: number,
                step: step as u8 + 1,
            };
            let is_token = *place != Place::Canary;
            let keeps_quiet = is_token && self.rules.mutant == Some(Mutant::NoToken);
            if place.writer() != Writer::Loader {
                let detail = format!("the loader writes {place:?}");
                list.push((
                    Step::LoaderWrites(*place),
                    Err((Property::WritersKept, detail)),
                ));
                return;
            }
            if !keeps_quiet {
                let id = self.library.id(sector);
                next.disk.write(place.index(), id);
            }
            next.attempts += u8::from(is_token);
            let is_bounded = next.attempts <= ATTEMPTS + next.uncounted;
            let detail = |next: &World| format!("attempt {} of a trial", next.attempts);
            let outcome = checked(is_bounded, Property::AttemptsBounded, detail, next);
            list.push((Step::LoaderWrites(*place), outcome));
            return;
        }
        let view = world.disk.view();
        let found = load(&self.library, &view, decision.slot, decision.fallback);
        let Some((slot, index)) = found else {
            let detail = format!("no kernel loads: {decision}");
            list.push((Step::Decides, Err((Property::Boots, detail))));
            return;
        };
        let is_whole = whole(&self.library, &view, slot) == Some(index);
        next.phase = if is_whole && RELEASES[index as usize].1 != Nature::Crashes {
            let booted = Booted {
                slot,
                attempt: decision.attempt,
                sequence: decision.sequence,
                source: decision.source,
            };
            Phase::Running {
                booted,
                job: Job::Idle,
            }
        } else {
            Phase::Off
        };
        list.push((Step::Starts(slot), Ok(next)));
    }

    fn run(&mut self, world: &World, booted: Booted, job: Job, list: &mut Vec<Next>) {
        let to = |job| Phase::Running { booted, job };
        let mut next = *world;
        match job {
            Job::Idle => self.idle(world, booted, list),
            Job::Plan { plan, step, then } => self.perform(world, booted, (plan, step, then), list),
            Job::Kernel(order) => {
                next.phase = to(Job::Root(order));
                self.write_slot(next, booted, order, kernel, list);
            }
            Job::Root(order) => {
                next.phase = to(Job::Sync(order));
                self.write_slot(next, booted, order, root, list);
            }
            Job::Sync(order) => {
                self.flush(&mut next);
                next.phase = to(Job::ReadBack(order));
                list.push((Step::Flushes, Ok(next)));
            }
            Job::ReadBack(order) => {
                let slot = booted.slot.other();
                let is_whole =
                    whole(&self.library, &world.disk.view(), slot) == Some(order.release);
                let believes = is_whole || self.rules.mutant == Some(Mutant::NotReadBack);
                next.phase = to(if believes {
                    Job::Staged(order)
                } else {
                    Job::Idle
                });
                let is_right = is_whole || !believes;
                let detail =
                    |_: &World| format!("slot {slot} is not what was ordered, and will be tried");
                let outcome = checked(is_right, Property::ReadBack, detail, next);
                list.push((Step::ReadsBack, outcome));
            }
            Job::Staged(order) => {
                let ask = Ask::Activate(order, world.trials);
                self.ask(world, booted, ask, "activate", order.release, list);
                next.phase = to(Job::Idle);
                list.push((Step::Begins("give up an install", order.release), Ok(next)));
            }
        }
    }

    /// What the running system may begin, by its role.
    fn idle(&mut self, world: &World, booted: Booted, list: &mut Vec<Next>) {
        list.push((Step::Resets, Ok(reset(world))));
        let seen = self.see(world, booted);
        let Seen { state, role } = &self.seen[seen];
        let (role, record) = (*role, state.record());
        let running = whole(&self.library, &world.disk.view(), booted.slot);
        let running = running.unwrap_or_default();
        if let Some(record) = record
            && record.floor < u64::from(world.floor)
        {
            let detail = format!("the floor fell from {} to {}", world.floor, record.floor);
            list.push((Step::Decides, Err((Property::FloorKept, detail))));
            return;
        }
        match role {
            Role::Committed => {
                if !state.is_settled() {
                    self.ask(
                        world,
                        booted,
                        Ask::Settle,
                        "settle the records",
                        running,
                        list,
                    );
                }
                let state = &self.seen[seen].state;
                let is_sealed = state.seal(booted.slot).is_some();
                let wipes = record.is_some_and(|record| record.wipe);
                self.committed(world, booted, (is_sealed, wipes, running), list);
            }
            Role::TrialPending => self.ask(world, booted, Ask::Cancel, "cancel", running, list),
            Role::Probation { .. } => {
                if RELEASES[running as usize].1 == Nature::Works {
                    self.ask(world, booted, Ask::Commit, "commit", running, list);
                }
            }
            Role::RolledBack(cause) => {
                let was_given = cause != Cause::NeverConfirmed || world.attempts >= ATTEMPTS;
                if was_given {
                    let ask = Ask::SettleRollback;
                    self.ask(world, booted, ask, "settle a rollback", running, list);
                } else {
                    let detail = format!("given up after {} attempts", world.attempts);
                    list.push((Step::Decides, Err((Property::AttemptsGiven, detail))));
                }
            }
            Role::Fallback => self.ask(world, booted, Ask::Adopt, "adopt", running, list),
            Role::Recovered => self.ask(world, booted, Ask::Recover, "recover", running, list),
            Role::Inconsistent if booted.attempt == 0 => {
                self.ask(world, booted, Ask::Recover, "recover", running, list);
            }
            Role::Inconsistent => {}
        }
    }

    fn committed(
        &mut self,
        world: &World,
        booted: Booted,
        (is_sealed, wipes, running): (bool, bool, ReleaseIndex),
        list: &mut Vec<Next>,
    ) {
        if wipes {
            self.ask(world, booted, Ask::Wiped, "finish a reset", running, list);
        }
        if !is_sealed {
            self.ask(
                world,
                booted,
                Ask::SealAgain(running),
                "seal again",
                running,
                list,
            );
        }
        if world.budget.installs > 0 {
            for release in 1..RELEASES.len() as ReleaseIndex {
                for insists in [false, true] {
                    let is_refused = world.quarantined & (1 << release) != 0;
                    // Insisting makes no difference to what is not refused.
                    if insists && !is_refused {
                        continue;
                    }
                    let ask = Ask::Install(Order { release, insists });
                    self.ask(world, booted, ask, "install", release, list);
                }
            }
        }
        if world.budget.by_hand > 0 {
            let ask = Ask::ByHand(world.trials);
            self.ask(world, booted, ask, "roll back by hand", running, list);
        }
        if world.budget.wipes > 0 && !wipes {
            self.ask(
                world,
                booted,
                Ask::Wipe,
                "reset to factory state",
                running,
                list,
            );
        }
    }

    /// Asks the system for a plan and begins it, unless it refuses.
    fn ask(
        &mut self,
        world: &World,
        booted: Booted,
        ask: Ask,
        what: &'static str,
        index: ReleaseIndex,
        list: &mut Vec<Next>,
    ) {
        let seen = self.see(world, booted);
        let Ok(plan) = self.answer(seen, ask, u64::from(world.floor)) else {
            return;
        };
        let record = self.seen[seen].state.record();
        let tried = record.and_then(|record| record.trial);
        let tried = tried.map_or(0, |trial| trial.release.manifest.0[0]);
        let mut next = *world;
        let mut allowed = Ok(());
        let then = match ask {
            Ask::Install(order) => {
                next.budget.installs -= 1;
                allowed = self.may_install(world, order);
                Then::Install(order)
            }
            Ask::Activate(..) | Ask::ByHand(_) => {
                if matches!(ask, Ask::ByHand(_)) {
                    next.budget.by_hand -= 1;
                }
                next.trials += 1;
                (next.attempts, next.uncounted) = (0, 0);
                Then::Idle
            }
            Ask::Commit => Then::Committed(tried),
            Ask::SettleRollback => Then::Quarantined(tried),
            Ask::Recover => {
                // It went with both records, however far the recovery gets.
                next.quarantined = 0;
                Then::Idle
            }
            Ask::Wipe => {
                next.budget.wipes -= 1;
                Then::Idle
            }
            Ask::Cancel | Ask::Adopt | Ask::SealAgain(_) | Ask::Settle | Ask::Wiped => Then::Idle,
        };
        let job = if self.plans[plan as usize].is_empty() {
            self.after(&mut next, then)
        } else {
            Job::Plan {
                plan,
                step: 0,
                then,
            }
        };
        next.phase = Phase::Running { booted, job };
        list.push((Step::Begins(what, index), allowed.map(|()| next)));
    }

    fn may_install(&self, world: &World, order: Order) -> Result<(), (Property, String)> {
        let (name, _, number, _) = RELEASES[order.release as usize];
        if number < u64::from(world.floor) {
            return Err((Property::FloorKept, format!("`{name}` is installed")));
        }
        if world.quarantined & (1 << order.release) != 0 && !order.insists {
            return Err((
                Property::QuarantineKept,
                format!("`{name}` is installed again"),
            ));
        }
        Ok(())
    }

    fn perform(
        &mut self,
        world: &World,
        booted: Booted,
        (plan, step, then): (u32, u8, Then),
        list: &mut Vec<Next>,
    ) {
        let mut next = *world;
        let (index, id) = self.plans[plan as usize][step as usize / 2];
        let label = if step % 2 == 0 {
            next.disk.write(index, id);
            Step::Writes(index as u8)
        } else {
            self.flush(&mut next);
            Step::Flushes
        };
        let is_last = step as usize + 1 == 2 * self.plans[plan as usize].len();
        let job = if is_last {
            self.after(&mut next, then)
        } else {
            Job::Plan {
                plan,
                step: step + 1,
                then,
            }
        };
        next.phase = Phase::Running { booted, job };
        list.push((label, Ok(next)));
    }

    fn after(&self, world: &mut World, then: Then) -> Job {
        match then {
            Then::Idle => {}
            Then::Install(order) => return Job::Kernel(order),
            Then::Quarantined(index) => world.quarantined |= 1 << index,
            Then::Committed(index) => {
                world.quarantined &= !(1 << index);
                world.floor = world.floor.max(RELEASES[index as usize].3 as u8);
            }
        }
        Job::Idle
    }

    fn write_slot(
        &mut self,
        mut next: World,
        booted: Booted,
        order: Order,
        part: fn(Slot) -> usize,
        list: &mut Vec<Next>,
    ) {
        let slot = match self.rules.mutant {
            Some(Mutant::WrongSlot) => booted.slot,
            _ => booted.slot.other(),
        };
        let before = next.disk.view();
        let on_disk = next.disk.durable;
        // On a disk that keeps its order, what is not on the medium yet is there before this is.
        let is_named_there = match self.rules.flush {
            Flush::Honest => is_named(&self.library, &on_disk, slot),
            Flush::KeepsBack(_) | Flush::KeepsBackUnordered(_) => false,
        };
        let is_free =
            slot != booted.slot && !is_named(&self.library, &before, slot) && !is_named_there;
        let id = self.library.id(&contents(order.release));
        next.disk.write(part(slot), id);
        let detail =
            |_: &World| format!("slot {slot} is written, and a record names it or it runs");
        let outcome = checked(is_free, Property::SlotKept, detail, next);
        list.push((Step::Writes(part(slot) as u8), outcome));
    }

    fn flush(&self, world: &mut World) {
        if self.rules.mutant == Some(Mutant::NoFlush) {
            return;
        }
        world.disk.flush(match self.rules.flush {
            Flush::Honest => 0,
            Flush::KeepsBack(writes) | Flush::KeepsBackUnordered(writes) => writes,
        });
    }

    fn cut(&mut self, world: &World, list: &mut Vec<Next>) {
        if world.budget.cuts == 0 {
            return;
        }
        let disks = match self.rules.flush {
            Flush::KeepsBack(_) => world.disk.cuts_in_order(&mut self.library),
            Flush::Honest | Flush::KeepsBackUnordered(_) => world.disk.cuts(&mut self.library),
        };
        let is_token = |index: u8| {
            Place::ATTEMPTS
                .into_iter()
                .any(|place| place.index() == index as usize)
        };
        let tokens = world
            .disk
            .pending
            .iter()
            .filter(|(index, _)| is_token(*index))
            .count();
        for durable in disks {
            let mut next = reset(world);
            next.budget.cuts -= 1;
            next.disk.durable = durable;
            next.disk.pending = Pending::default();
            if self.rules.flush != Flush::Honest {
                // What was acknowledged may never have happened: a commit, a quarantine, a token.
                (next.floor, next.quarantined, next.attempts) = (0, 0, ATTEMPTS);
            }
            next.uncounted = next
                .uncounted
                .saturating_add(tokens as u8)
                .min(UNCOUNTED_MAX);
            if self.rules.flush != Flush::Honest {
                next.uncounted = UNCOUNTED_MAX;
            }
            // A disk that keeps later writes and loses earlier ones makes any seal untrue; what is
            // asked of it is only whether it boots.
            let keeps_order = !matches!(self.rules.flush, Flush::KeepsBackUnordered(_));
            let is_sound = keeps_order && !world.is_damaged;
            let untrue = untrue_seal(&self.library, &durable).filter(|_| keeps_order);
            let unsealed = unsealed_active(&self.library, &durable).filter(|_| is_sound);
            let outcome = match (untrue, unsealed) {
                (Some(slot), _) => {
                    let detail = format!("slot {slot} is not what its seal says");
                    Err((Property::SealTrue, detail))
                }
                (None, Some(slot)) => {
                    let detail = format!("slot {slot} is active and has no seal");
                    Err((Property::ActiveSealed, detail))
                }
                (None, None) => Ok(next),
            };
            list.push((Step::Cut, outcome));
        }
    }

    /// A sector of the area goes bad, or one of the slot that is being written. One at a time:
    /// while a record or seal is bad that the system can make good, no other one is hit.
    fn rot(&self, world: &World, list: &mut Vec<Next>) {
        let is_bad = |place: &Place| {
            place.writer() == Writer::System && world.disk.durable[place.index()] == GARBAGE
        };
        if world.budget.rots == 0 || Place::ALL.iter().any(is_bad) {
            return;
        }
        let written = match world.phase {
            Phase::Running {
                booted,
                job: Job::ReadBack(_),
            } => Some(root(booted.slot.other())),
            _ => None,
        };
        for index in (0..Place::ALL.len()).chain(written) {
            if world.disk.durable[index] == GARBAGE {
                continue;
            }
            let mut next = *world;
            next.budget.rots -= 1;
            next.is_damaged = true;
            next.disk.durable[index] = GARBAGE;
            let is_token = Place::ATTEMPTS
                .into_iter()
                .any(|place| place.index() == index);
            next.uncounted = next.uncounted.saturating_add(u8::from(is_token));
            list.push((Step::Rots(index as u8), Ok(next)));
        }
    }

    fn see(&mut self, world: &World, booted: Booted) -> usize {
        let view = world.disk.view();
        let key = (area_of(&view), booted);
        if let Some(number) = self.seen_numbers.get(&key) {
            return *number;
        }
        let state = State::open(self.library.area(&view), booted);
        let role = state.role();
        self.seen.push(Seen { state, role });
        self.seen_numbers.insert(key, self.seen.len() - 1);
        self.seen.len() - 1
    }

    fn answer(&mut self, seen: usize, ask: Ask, floor: u64) -> Result<u32, Refusal> {
        if let Some(answer) = self.answers.get(&(seen, ask)) {
            return answer.clone();
        }
        let answer = self.plan(seen, ask).map(|plan| {
            let writes = match self.rules.mutant {
                Some(mutant) => mutant.spoil(plan.writes(), floor),
                None => plan
                    .writes()
                    .iter()
                    .map(|write| (write.place, write.sector))
                    .collect(),
            };
            let writes: Vec<(usize, Id)> = writes
                .iter()
                .map(|(place, sector)| (place.index(), self.library.id(sector)))
                .collect();
            let next = self.plans.len() as u32;
            let number = *self.plan_numbers.entry(writes.clone()).or_insert(next);
            if number == next {
                self.plans.push(writes);
            }
            number
        });
        self.answers.insert((seen, ask), answer.clone());
        answer
    }

    fn plan(&self, seen: usize, ask: Ask) -> Result<crate::plan::Plan, Refusal> {
        let state = &self.seen[seen].state;
        let insist = |order: Order| {
            if order.insists {
                Insist::Yes
            } else {
                Insist::No
            }
        };
        let nonce = |trials: u8| Nonce([trials; 8]);
        let mutant = self.rules.mutant;
        match ask {
            Ask::Install(order) => {
                let (plan, _) = state.begin_install(release(order.release), insist(order))?;
                if mutant == Some(Mutant::NotSettled) {
                    return Ok(plan.without_records());
                }
                Ok(plan)
            }
            Ask::Activate(order, trials) => {
                // The system has kept what it was given when it began; asking again gives the same.
                let (_, writing) = state.begin_install(release(order.release), insist(order))?;
                let staged = writing.staged(ManifestHash([order.release; 32]))?;
                state.activate(&staged, nonce(trials))
            }
            Ask::ByHand(trials) => state.roll_back_by_hand(nonce(trials), Insist::No),
            Ask::Cancel => state.cancel(),
            Ask::Commit => state.commit(),
            Ask::SettleRollback => state.settle_rollback(),
            Ask::Adopt => state.adopt(Insist::Yes),
            Ask::Recover => state.recover(),
            Ask::SealAgain(index) => state.seal_again(release(index)),
            Ask::Settle => state.settle(),
            Ask::Wipe => state.ask_for_wipe(),
            Ask::Wiped => state.wiped(),
        }
    }
}

/// The world after a reset that keeps the disk's cache.
fn reset(world: &World) -> World {
    World {
        phase: Phase::Off,
        ..*world
    }
}

fn area_of(view: &[Id; SECTORS]) -> [Id; Place::ALL.len()] {
    std::array::from_fn(|index| view[index])
}

fn checked(
    holds: bool,
    property: Property,
    detail: impl Fn(&World) -> String,
    next: World,
) -> Result<World, (Property, String)> {
    if holds {
        Ok(next)
    } else {
        Err((property, detail(&next)))
    }
}
