//! The types of the link that occur in records. No behaviour: lists of fields.

use kairo_link::abi::{Cause, Command, MAX_JOINTS, Phase, Reply};

use crate::recorded;
use crate::state::{Malformed, Sink, Source, State};

recorded!(Command {
    sequence: u64,
    lease_epoch: u64,
    issued_ns: u64,
    ttl_ns: u64,
    mode: u32,
    joint_count: u32,
    velocity_scale: f64,
    acceleration_rad_s2: f64,
    jerk_rad_s3: f64,
    target: [f64; MAX_JOINTS],
} fixed {});

recorded!(Reply {
    sequence: u64,
    lease_epoch: u64,
    tick: u64,
    time_ns: u64,
    expires_ns: u64,
    verdict: u32,
    cause: u32,
    joint: u32,
    reserved: u32,
    value: f64,
    min: f64,
    max: f64,
} fixed {});

/// For the enumerations of the link: by their wire numbers.
macro_rules! by_number {
    ($($type:ty),+) => {$(
        impl State for $type {
            fn save(&self, sink: &mut Sink) {
                sink.put(*self as u64);
            }

            fn load(&mut self, source: &mut Source<'_>) -> Result<(), Malformed> {
                let found = source.take();
                let known = u32::try_from(found).ok().and_then(Self::from_u32);
                let wanted = stringify!($type);
                *self = known.ok_or(Malformed { found, wanted })?;
                Ok(())
            }

            fn describe(name: &str, words: &mut Vec<String>) {
                words.push(format!("{name}:u64"));
            }
        }
    )+};
}
by_number!(Phase, Cause, kairo_link::abi::Mode);
