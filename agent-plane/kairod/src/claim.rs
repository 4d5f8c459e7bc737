//! A claim that is in force: the two rings of its device and the commands that await an answer.
//!
//! Pushing and collecting never wait. A claim is dropped whole when its lease ends, which answers
//! everything that still waits: the senders of [`Claim::push`] close.

use std::collections::{BTreeMap, BTreeSet};

use kairo_link::MonoNs;
use kairo_link::abi::{COMMAND_SLOTS, Command, MAX_JOINTS, REPLY_SLOTS, Reply, Verdict};
use kairo_link::ring::{Consumer, Corrupt, Producer, PushError};
use tokio::sync::oneshot;

use crate::views::Peer;

/// One number per joint: positions, rad, or velocities, rad/s.
pub type Targets = [f64; MAX_JOINTS];

/// A command before it has its number.
#[derive(Clone, Copy, Debug)]
pub struct Draft {
    /// A [`kairo_link::abi::Mode`].
    pub mode: u32,
    /// Joints in use.
    pub joint_count: u32,
    /// Where to, rad, or how fast, rad/s.
    pub targets: Targets,
    /// Fraction of the velocity limits.
    pub velocity_scale: f64,
    /// Acceleration at most, rad/s²; zero for the joints' limits.
    pub acceleration_rad_s2: f64,
    /// Jerk at most, rad/s³; zero for the joints' limits.
    pub jerk_rad_s3: f64,
    /// How long it stays in force, ns.
    pub ttl_ns: u64,
    /// Whether later partial commands build on `targets`.
    pub sets_targets: bool,
}

#[derive(Debug)]
struct Pending {
    targets: Option<Targets>,
    answer: oneshot::Sender<Reply>,
}

/// Our ends of a device's rings. They last as long as the link and go from claim to claim.
#[derive(Debug)]
pub struct Rings {
    /// Commands to the real-time plane.
    pub commands: Producer<Command>,
    /// Its answers.
    pub replies: Consumer<Reply>,
}

/// The claim.
#[derive(Debug)]
pub struct Claim {
    /// Who has it.
    pub holder: Peer,
    /// The fencing token.
    pub epoch: u64,
    rings: Rings,
    sequence: u64,
    pending: BTreeMap<u64, Pending>,
    /// Targets of the newest accepted command, and when it expires.
    accepted: Option<(Targets, MonoNs)>,
    /// The intents that it was made for and that its newest command served.
    made_for: Option<String>,
    commanded_for: Option<String>,
}

impl Claim {
    /// A claim over the rings that now carry lease `epoch`.
    pub fn new(holder: Peer, epoch: u64, rings: Rings) -> Self {
        Self {
            holder,
            epoch,
            rings,
            sequence: 0,
            pending: BTreeMap::new(),
            accepted: None,
            made_for: None,
            commanded_for: None,
        }
    }

    /// It is made for `intent`, or after that commanded for it.
    pub fn serve(&mut self, intent: &str) {
        let slot = match self.sequence {
            0 => &mut self.made_for,
            _ => &mut self.commanded_for,
        };
        if slot.as_deref() != Some(intent) {
            *slot = Some(intent.to_string());
        }
    }

    /// Whether calling off `intents` ends it.
    pub fn serves(&self, intents: &BTreeSet<String>) -> bool {
        let mut served = self.made_for.iter().chain(&self.commanded_for);
        served.any(|intent| intents.contains(intent))
    }

    /// Ends the claim. Whoever still waits for an answer hears that none will come.
    pub fn into_rings(self) -> Rings {
        self.rings
    }

    /// The targets that a partial command builds on: those of the command in force, if there is
    /// one that has not expired.
    pub fn targets_in_force(&self) -> Option<Targets> {
        let (targets, expires) = self.accepted?;
        (MonoNs::now() < expires).then_some(targets)
    }

    /// Sends a command. Gives its number and where its answer will come.
    pub fn push(&mut self, draft: &Draft) -> Result<(u64, oneshot::Receiver<Reply>), PushError> {
        // Callers that gave up are forgotten only when there are many, so this stays cheap.
        if self.pending.len() as u64 >= COMMAND_SLOTS {
            self.pending
                .retain(|_, waiting| !waiting.answer.is_closed());
            if self.pending.len() as u64 >= COMMAND_SLOTS {
                return Err(PushError::Full);
            }
        }
        let sequence = self.sequence + 1;
        let command = Command {
            sequence,
            lease_epoch: self.epoch,
            issued_ns: MonoNs::now().0,
            ttl_ns: draft.ttl_ns,
            mode: draft.mode,
            joint_count: draft.joint_count,
            velocity_scale: draft.velocity_scale,
            acceleration_rad_s2: draft.acceleration_rad_s2,
            jerk_rad_s3: draft.jerk_rad_s3,
            target: draft.targets,
        };
        self.rings.commands.push(&command)?;
        self.sequence = sequence;
        let (answer, receiver) = oneshot::channel();
        let targets = draft.sets_targets.then_some(draft.targets);
        self.pending.insert(sequence, Pending { targets, answer });
        Ok((sequence, receiver))
    }

    /// Hands out the answers that came.
    ///
    /// # Errors
    /// [`Corrupt`]: the ring cannot be used any more.
    pub fn collect(&mut self) -> Result<(), Corrupt> {
        // At most one ring full; what comes meanwhile rings the doorbell again.
        for _ in 0..REPLY_SLOTS {
            let Some(reply) = self.rings.replies.pop()? else {
                break;
            };
            // The rings had other claims before this one, and numbers begin anew with each.
            if reply.lease_epoch != self.epoch {
                continue;
            }
            // Zero is a notice that the standing changed; the device's state says the same.
            let Some(pending) = self.pending.remove(&reply.sequence) else {
                continue;
            };
            if reply.verdict == Verdict::Accepted as u32 {
                let expires = MonoNs(reply.expires_ns);
                self.accepted = pending.targets.map(|targets| (targets, expires));
            }
            // The caller may have given up.
            let _ = pending.answer.send(reply);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kairo_link::ring;
    use kairo_link::segment::{Kind, Segment};

    fn draft(position: f64, sets_targets: bool) -> Draft {
        Draft {
            mode: 1,
            joint_count: 1,
            targets: [position; MAX_JOINTS],
            velocity_scale: 1.0,
            acceleration_rad_s2: 0.0,
            jerk_rad_s3: 0.0,
            ttl_ns: 1_000_000_000,
            sets_targets,
        }
    }

    fn claim() -> (Claim, Consumer<Command>, Producer<Reply>) {
        let words = ring::payload_words::<Command>(COMMAND_SLOTS);
        let commands = Segment::in_heap(Kind::Ring, words, COMMAND_SLOTS, 1);
        let words = ring::payload_words::<Reply>(REPLY_SLOTS);
        let replies = Segment::in_heap(Kind::Ring, words, REPLY_SLOTS, 1);
        let peer = Peer {
            connection: 1,
            class: crate::permission::Class::Operator,
            name: None,
            uid: 0,
            gid: 0,
            pid: 1,
            process: None,
            pinned: false,
        };
        let claim = Claim::new(
            peer,
            4,
            Rings {
                commands: Producer::new(commands.clone(), COMMAND_SLOTS),
                replies: Consumer::new(replies.clone(), REPLY_SLOTS),
            },
        );
        (
            claim,
            Consumer::new(commands, COMMAND_SLOTS),
            Producer::new(replies, REPLY_SLOTS),
        )
    }

    fn reply(sequence: u64, verdict: Verdict, expires_ns: u64) -> Reply {
        Reply {
            sequence,
            lease_epoch: 4,
            verdict: verdict as u32,
            expires_ns,
            ..Reply::default()
        }
    }

    #[test]
    fn numbers_grow_and_answers_find_their_command() {
        let (mut claim, mut commands, mut replies) = claim();
        let (first, mut first_answer) = claim.push(&draft(0.1, true)).unwrap();
        let (second, mut second_answer) = claim.push(&draft(0.2, true)).unwrap();
        assert!(second > first);
        assert_eq!(commands.pop().unwrap().unwrap().lease_epoch, 4);
        replies.push(&reply(second, Verdict::Accepted, 9)).unwrap();
        claim.collect().unwrap();
        assert_eq!(second_answer.try_recv().unwrap().sequence, second);
        assert!(first_answer.try_recv().is_err());
        drop(claim);
        let closed = Err(oneshot::error::TryRecvError::Closed);
        assert_eq!(first_answer.try_recv(), closed);
    }

    #[test]
    fn an_answer_to_an_earlier_claim_is_not_taken_for_one_to_this() {
        let (mut claim, _commands, mut replies) = claim();
        let (first, mut answer) = claim.push(&draft(0.1, true)).unwrap();
        let mut of_earlier = reply(first, Verdict::Accepted, u64::MAX);
        of_earlier.lease_epoch = 3;
        replies.push(&of_earlier).unwrap();
        claim.collect().unwrap();
        let empty = Err(oneshot::error::TryRecvError::Empty);
        assert_eq!(answer.try_recv(), empty);
        assert_eq!(claim.targets_in_force(), None);
        replies.push(&reply(first, Verdict::Expired, 0)).unwrap();
        claim.collect().unwrap();
        assert_eq!(answer.try_recv().unwrap().lease_epoch, 4);
    }

    #[test]
    fn partial_commands_build_on_accepted_targets_until_they_expire() {
        let (mut claim, _commands, mut replies) = claim();
        let later = MonoNs::now().plus_ns(60_000_000_000).0;
        let (refused, _answer) = claim.push(&draft(9.0, true)).unwrap();
        replies
            .push(&reply(refused, Verdict::PositionLimit, later))
            .unwrap();
        claim.collect().unwrap();
        assert_eq!(claim.targets_in_force(), None);

        let (accepted, _answer) = claim.push(&draft(0.5, true)).unwrap();
        replies
            .push(&reply(accepted, Verdict::Accepted, later))
            .unwrap();
        claim.collect().unwrap();
        assert_eq!(claim.targets_in_force(), Some([0.5; MAX_JOINTS]));

        let (stop, _answer) = claim.push(&draft(0.0, false)).unwrap();
        replies
            .push(&reply(stop, Verdict::Accepted, later))
            .unwrap();
        claim.collect().unwrap();
        assert_eq!(claim.targets_in_force(), None);

        let (expired, _answer) = claim.push(&draft(0.5, true)).unwrap();
        replies.push(&reply(expired, Verdict::Accepted, 1)).unwrap();
        claim.collect().unwrap();
        assert_eq!(claim.targets_in_force(), None);
    }

    #[test]
    fn a_stopped_real_time_plane_makes_push_refuse_and_not_grow() {
        let (mut claim, _commands, _replies) = claim();
        let mut answers = Vec::new();
        for _ in 0..COMMAND_SLOTS {
            answers.push(claim.push(&draft(0.0, true)).unwrap());
        }
        assert!(matches!(
            claim.push(&draft(0.0, true)),
            Err(PushError::Full)
        ));
    }
}
