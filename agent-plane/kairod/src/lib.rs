//! The parts of kairod: everything but the command line and the order of start and end, which are
//! in `main.rs`.
//!
//! A library so that what takes bytes from others (connections, the policy file) can be driven by
//! a fuzzer inside one process; the daemon is its only other user. No interface is promised.

mod admission;
mod appearance;
mod attention;
mod audit;
mod cancellation;
mod claim;
mod closer;
mod connection;
mod daemon;
mod delivery;
mod denial;
mod device;
mod event_log;
mod events;
mod facts;
mod grant_file;
mod grant_writer;
mod held;
mod idempotency;
mod identity;
mod input;
mod intents;
mod large_frames;
mod left_behind;
mod link;
mod methods;
mod notify;
mod once;
mod outgoing;
mod permission;
mod plane;
mod readiness;
mod reasons;
mod refusal;
mod router;
mod sensors;
mod server;
mod service_stream;
mod services;
mod sessions;
mod settings;
mod socket;
mod spans;
mod spelling;
mod subscription;
mod thresholds;
mod topics;
mod views;

pub use connection::serve;
pub use daemon::Daemon;
pub use event_log::keep as keep_event_log;
pub use link::keep as keep_link;
pub use notify::Supervisor;
pub use permission::policy::Policy;
pub use server::Socket;
pub use settings::Settings;
pub use thresholds::watch as watch_thresholds;
