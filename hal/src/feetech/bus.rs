//! Transactions with the servos on one line.
//!
//! The bus belongs to one thread. Every transaction is one instruction out and, except for sync
//! writes, the replies in until they are complete or the deadline has passed. A reply that is
//! missing, late or damaged costs that servo's sample in that cycle and nothing else: it is
//! counted, and the replies behind it still count.
//!
//! Guarantees: everything but [`ServoBus::new`] is *rt-safe*. The time in a transaction is bounded
//! by its deadline, the bytes looked at by what the line can carry until then.
//!
//! Non-goals: no retries (a control loop has a newer question next period), no judgement of values.
//! The protocol's checksum is one byte, so about one damaged packet in 256 with several flipped
//! bits looks right: who acts on a sample must also check that it is plausible.

use super::collector::Collector;
use super::packet::{MAX_ID, OVERHEAD, PacketBuffer};
use super::parser::StatusParser;
use super::registers::{GOAL_POSITION, PresentState, Register, TORQUE_ENABLE};
use super::sample::{
    BusCounters, MAX_SAMPLE_BYTES, ReadSummary, ServoCounters, ServoOutcome, ServoSample,
};
use super::status::StatusError;
use crate::line::{BusError, ByteLine};
use kairo_link::MonoNs;

/// Most servos on one bus. Sixteen present-state replies of 21 bytes are 3.4 ms of wire time at
/// 1 Mbaud: more servos would not make a useful control period on one line.
pub const MAX_SERVOS: usize = 16;
/// Bytes asked of the line at a time; a full answer of 16 servos takes two.
const READ_CHUNK_BYTES: usize = 256;

/// Why a transaction failed as a whole. `Copy`, for the real-time plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServoBusError {
    /// The line failed.
    #[error(transparent)]
    Line(#[from] BusError),
    /// The servo is not one this bus was made for.
    #[error("servo {id} is not on this bus; list it in the bus configuration")]
    UnknownServo {
        /// The id asked for.
        id: u8,
    },
    /// The request itself is impossible: it does not fit in a packet, lengths differ, or a value
    /// does not fit in its register. The caller's fault; nothing was sent.
    #[error("the request cannot be sent: {reason}")]
    InvalidRequest {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The servo did not answer a request of its own as it should have.
    #[error("servo {id} gave no valid answer ({outcome:?}); check its power, id and baud rate")]
    NoAnswer {
        /// The servo.
        id: u8,
        /// What came instead.
        outcome: ServoOutcome,
    },
}

/// The servos on one line.
#[derive(Debug)]
pub struct ServoBus<L> {
    line: L,
    parser: StatusParser,
    ids: [u8; MAX_SERVOS],
    count: usize,
    servos: [ServoCounters; MAX_SERVOS],
    counters: BusCounters,
}

impl<L: ByteLine> ServoBus<L> {
    /// A bus with these servos. *setup-only*
    ///
    /// # Errors
    /// [`ServoBusError::InvalidRequest`] for more than [`MAX_SERVOS`] ids, an impossible id, or one
    /// given twice.
    pub fn new(line: L, ids: &[u8]) -> Result<Self, ServoBusError> {
        if ids.len() > MAX_SERVOS {
            return Err(invalid("more than 16 servos on one bus"));
        }
        if ids.iter().any(|id| *id > MAX_ID) {
            return Err(invalid("a servo id above 253"));
        }
        if ids
            .iter()
            .enumerate()
            .any(|(index, id)| ids[..index].contains(id))
        {
            return Err(invalid("a servo id given twice"));
        }
        let mut own = [0; MAX_SERVOS];
        own[..ids.len()].copy_from_slice(ids);
        Ok(Self {
            line,
            parser: StatusParser::new(),
            ids: own,
            count: ids.len(),
            servos: [ServoCounters::default(); MAX_SERVOS],
            counters: BusCounters::default(),
        })
    }

    /// The servos this bus was made for.
    #[must_use]
    pub fn ids(&self) -> &[u8] {
        &self.ids[..self.count]
    }

    /// The counters of one servo; `None` for one that is not on this bus.
    #[must_use]
    pub fn servo_counters(&self, id: u8) -> Option<ServoCounters> {
        self.slot(id).map(|slot| self.servos[slot])
    }

    /// The counters of the line.
    #[must_use]
    pub fn counters(&self) -> BusCounters {
        BusCounters {
            garbage_bytes: self.parser.garbage_bytes(),
            bad_checksums: self.parser.bad_checksums(),
            ..self.counters
        }
    }

    /// The line, for instance to look at its settings.
    pub const fn line(&self) -> &L {
        &self.line
    }

    /// The line itself, for what is done to it between transactions.
    pub const fn line_mut(&mut self) -> &mut L {
        &mut self.line
    }

    /// Puts a new line under the bus after the old one was disconnected, and returns the old one
    /// so that it can be closed on an ordinary thread. The counters go on.
    pub fn replace_line(&mut self, line: L) -> L {
        self.parser.reset();
        core::mem::replace(&mut self.line, line)
    }

    /// Gives the line back.
    pub fn into_line(self) -> L {
        self.line
    }

    /// Reads `len` bytes from `address` of every servo in `ids`, with one instruction. *rt-safe*
    ///
    /// `samples[k]` becomes the sample of `ids[k]`. Returns as soon as the last servo has answered
    /// (they answer in the order of `ids`, so whoever is missing then will stay so), or at the
    /// deadline.
    ///
    /// # Errors
    /// Only when the line failed or the request is impossible: missing and damaged replies are
    /// outcomes of their samples. When the line failed every sample without data is a timeout.
    pub fn sync_read(
        &mut self,
        ids: &[u8],
        address: u8,
        len: u8,
        samples: &mut [ServoSample],
        deadline: MonoNs,
    ) -> Result<ReadSummary, ServoBusError> {
        if samples.len() != ids.len() || ids.len() > MAX_SERVOS {
            return Err(invalid("as many samples as ids are needed, at most 16"));
        }
        if len == 0 || usize::from(len) > MAX_SAMPLE_BYTES {
            return Err(invalid("a sample has 1 to 32 bytes"));
        }
        self.check_known(ids)?;
        let packet = PacketBuffer::sync_read(ids, address, len)
            .ok_or(invalid("the sync read does not fit in a packet"))?;
        self.transact(packet.as_bytes(), ids, usize::from(len), samples, deadline)
    }

    /// Reads the measured state (position to current) of every servo in `ids`; see
    /// [`ServoBus::sync_read`] and [`ServoSample::present`]. *rt-safe*
    ///
    /// # Errors
    /// Those of [`ServoBus::sync_read`].
    pub fn sync_read_present(
        &mut self,
        ids: &[u8],
        samples: &mut [ServoSample],
        deadline: MonoNs,
    ) -> Result<ReadSummary, ServoBusError> {
        self.sync_read(
            ids,
            PresentState::ADDRESS,
            PresentState::LEN,
            samples,
            deadline,
        )
    }

    /// Reads the measured state and the torque switch of every servo in `ids`, with the same
    /// samples and one longer reply each; see [`ServoSample::is_torque_enabled`]. *rt-safe*
    ///
    /// # Errors
    /// Those of [`ServoBus::sync_read`].
    pub fn sync_read_present_and_torque(
        &mut self,
        ids: &[u8],
        samples: &mut [ServoSample],
        deadline: MonoNs,
    ) -> Result<ReadSummary, ServoBusError> {
        let (address, len) = (
            PresentState::ADDRESS_WITH_TORQUE,
            PresentState::LEN_WITH_TORQUE,
        );
        self.sync_read(ids, address, len, samples, deadline)
    }

    /// Writes `values[k]` into `register` of `ids[k]`, with one instruction that nobody answers.
    /// *rt-safe*
    ///
    /// # Errors
    /// When the line failed, a servo is unknown, or a value does not fit (nothing is sent then).
    pub fn sync_write(
        &mut self,
        register: &Register,
        ids: &[u8],
        values: &[i32],
        deadline: MonoNs,
    ) -> Result<(), ServoBusError> {
        if ids.len() != values.len() || ids.len() > MAX_SERVOS {
            return Err(invalid("as many values as ids are needed, at most 16"));
        }
        self.check_known(ids)?;
        let width = usize::from(register.width);
        let mut data = [0; 2 * MAX_SERVOS];
        for (chunk, value) in data.chunks_exact_mut(width).zip(values) {
            let bytes = register
                .encode(*value)
                .ok_or(invalid("a value does not fit in its register"))?;
            chunk.copy_from_slice(&bytes[..width]);
        }
        let packet = PacketBuffer::sync_write(
            ids,
            register.address,
            register.width,
            &data[..ids.len() * width],
        )
        .ok_or(invalid("the sync write does not fit in a packet"))?;
        self.send(packet.as_bytes(), deadline)
    }

    /// Sends goal positions in encoder steps. *rt-safe*
    ///
    /// # Errors
    /// Those of [`ServoBus::sync_write`].
    pub fn sync_write_goals(
        &mut self,
        ids: &[u8],
        goals_steps: &[i32],
        deadline: MonoNs,
    ) -> Result<(), ServoBusError> {
        self.sync_write(&GOAL_POSITION, ids, goals_steps, deadline)
    }

    /// Switches the torque of every servo in `ids` on or off. *rt-safe*
    ///
    /// # Errors
    /// Those of [`ServoBus::sync_write`].
    pub fn sync_write_torque(
        &mut self,
        ids: &[u8],
        is_enabled: bool,
        deadline: MonoNs,
    ) -> Result<(), ServoBusError> {
        if ids.len() > MAX_SERVOS {
            return Err(invalid("at most 16 servos"));
        }
        let values = [i32::from(is_enabled); MAX_SERVOS];
        self.sync_write(&TORQUE_ENABLE, ids, &values[..ids.len()], deadline)
    }

    /// Asks one servo whether it is there, and for its fault bits. *rt-safe*
    ///
    /// # Errors
    /// [`ServoBusError::NoAnswer`] when it did not answer, and those of the line.
    pub fn ping(&mut self, id: u8, deadline: MonoNs) -> Result<StatusError, ServoBusError> {
        let packet = PacketBuffer::ping(id);
        Ok(self.ask_one(id, packet.as_bytes(), 0, deadline)?.status)
    }

    /// Reads one register of one servo. *rt-safe*, meant for set-up.
    ///
    /// # Errors
    /// [`ServoBusError::NoAnswer`] when it did not answer, and those of the line.
    pub fn read_register(
        &mut self,
        id: u8,
        register: &Register,
        deadline: MonoNs,
    ) -> Result<i32, ServoBusError> {
        let packet = PacketBuffer::read(id, register.address, register.width);
        let sample = self.ask_one(id, packet.as_bytes(), register.width, deadline)?;
        register
            .decode(sample.data())
            .ok_or(ServoBusError::NoAnswer {
                id,
                outcome: sample.outcome,
            })
    }

    /// Writes one register of one servo and waits for its acknowledgement. *rt-safe*, meant for
    /// set-up. EEPROM registers change only while `LOCK` is 0.
    ///
    /// # Errors
    /// [`ServoBusError::NoAnswer`] when it was not acknowledged (it may have been carried out all
    /// the same), and those of the line.
    pub fn write_register(
        &mut self,
        id: u8,
        register: &Register,
        value: i32,
        deadline: MonoNs,
    ) -> Result<StatusError, ServoBusError> {
        let bytes = register
            .encode(value)
            .ok_or(invalid("a value does not fit in its register"))?;
        let data = &bytes[..usize::from(register.width)];
        let packet = PacketBuffer::write(id, register.address, data)
            .ok_or(invalid("the write does not fit in a packet"))?;
        Ok(self.ask_one(id, packet.as_bytes(), 0, deadline)?.status)
    }

    fn ask_one(
        &mut self,
        id: u8,
        instruction: &[u8],
        len: u8,
        deadline: MonoNs,
    ) -> Result<ServoSample, ServoBusError> {
        self.check_known(&[id])?;
        let mut samples = [ServoSample::default()];
        self.transact(instruction, &[id], usize::from(len), &mut samples, deadline)?;
        let [sample] = samples;
        if sample.outcome.has_data() {
            Ok(sample)
        } else {
            Err(ServoBusError::NoAnswer {
                id,
                outcome: sample.outcome,
            })
        }
    }

    /// Sends `instruction` and collects one reply of `len` parameter bytes from each of `ids`.
    fn transact(
        &mut self,
        instruction: &[u8],
        ids: &[u8],
        len: usize,
        samples: &mut [ServoSample],
        deadline: MonoNs,
    ) -> Result<ReadSummary, ServoBusError> {
        let asked_at = self.line.now();
        for (sample, id) in samples.iter_mut().zip(ids) {
            *sample = ServoSample::missing(*id, asked_at);
        }
        let outcome = self.exchange(instruction, len, samples, deadline);
        self.parser.reset();
        self.count(samples);
        outcome?;
        let replies = samples
            .iter()
            .filter(|sample| sample.outcome.has_data())
            .count();
        Ok(ReadSummary {
            replies: replies as u8,
            missing: (samples.len() - replies) as u8,
            round_trip_ns: self.line.now().since_ns(asked_at),
        })
    }

    fn exchange(
        &mut self,
        instruction: &[u8],
        len: usize,
        samples: &mut [ServoSample],
        deadline: MonoNs,
    ) -> Result<(), ServoBusError> {
        // What is still there answers an older question: reading it now would be a lie about time.
        let stale = self.line.discard_input()?;
        self.parser.count_garbage(stale);
        self.send(instruction, deadline)?;

        self.parser.expect(Some(len));
        let expected_bytes = samples.len() * (len + OVERHEAD);
        let mut collector = Collector::new(samples);
        let mut received_bytes = 0;
        let mut chunk = [0; READ_CHUNK_BYTES];
        let result = loop {
            let count = match self.line.read(&mut chunk, deadline) {
                Ok(count) => count,
                Err(BusError::Timeout) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
            let now = self.line.now();
            received_bytes += count;
            let mut rest = &chunk[..count];
            while !rest.is_empty() {
                rest = &rest[self.parser.push(rest)..];
                while let Some(event) = self.parser.next() {
                    collector.take(&event, now);
                }
            }
            // The second condition ends the wait when the last reply came damaged: everybody has
            // been heard, and as many bytes came as were to come.
            if collector.is_complete()
                || (collector.has_heard_all() && received_bytes >= expected_bytes)
            {
                break Ok(());
            }
            // A line that babbles without pause would otherwise be read past the deadline,
            // because bytes that are already there are returned whatever the time.
            if now >= deadline {
                break Ok(());
            }
        };
        let now = self.line.now();
        while let Some(event) = self.parser.next_at_end() {
            collector.take(&event, now);
        }
        self.counters.unexpected_packets += collector.unexpected();
        result
    }

    fn send(&mut self, instruction: &[u8], deadline: MonoNs) -> Result<(), ServoBusError> {
        self.counters.instructions += 1;
        self.line.write_all(instruction, deadline).map_err(|error| {
            self.counters.failed_writes += 1;
            error.into()
        })
    }

    fn count(&mut self, samples: &[ServoSample]) {
        for sample in samples {
            let Some(slot) = self.slot(sample.id) else {
                continue;
            };
            let counters = &mut self.servos[slot];
            match sample.outcome {
                ServoOutcome::Ok => counters.replies += 1,
                ServoOutcome::StatusError => {
                    counters.replies += 1;
                    counters.status_errors += 1;
                }
                ServoOutcome::Timeout => counters.timeouts += 1,
                ServoOutcome::BadChecksum => counters.bad_checksum += 1,
            }
        }
    }

    fn check_known(&self, ids: &[u8]) -> Result<(), ServoBusError> {
        match ids.iter().find(|id| self.slot(**id).is_none()) {
            Some(id) => Err(ServoBusError::UnknownServo { id: *id }),
            None => Ok(()),
        }
    }

    fn slot(&self, id: u8) -> Option<usize> {
        self.ids().iter().position(|own| *own == id)
    }
}

const fn invalid(reason: &'static str) -> ServoBusError {
    ServoBusError::InvalidRequest { reason }
}
