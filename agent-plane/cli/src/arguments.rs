//! The command line, as clap reads it and `--help` shows it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kairo_audit::Anchor;

use crate::diagnostics::DiagnosticsOptions;
use crate::intent::IntentCommand;
use crate::metrics::MetricsOptions;
use crate::permission::PermissionCommand;
use crate::run::RunOptions;
use crate::trace::TraceCommand;

/// Shows and drives a robot under KairoOS.
#[derive(Debug, Parser)]
#[command(name = "kairo", version, propagate_version = true)]
pub struct Arguments {
    /// Print what the kernel answered, as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// The kernel's socket: a path, or tcp:127.0.0.1:PORT.
    /// [default: KAIRO_IPC_SOCKET, or kernel.sock in KAIRO_RUN_DIR, or /run/kairo/kernel.sock]
    #[arg(long, global = true, value_name = "SOCKET")]
    pub socket: Option<String>,
    /// How long to wait for an answer.
    #[arg(long, global = true, default_value = "5s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the system at a glance: kernel, real-time plane, devices.
    Status,
    /// Lists, claims, moves and watches devices.
    Device {
        /// The verb.
        #[command(subcommand)]
        command: DeviceCommand,
    },
    /// Shows what the real-time plane proved and measured.
    Rt {
        /// The verb.
        #[command(subcommand)]
        command: RtCommand,
    },
    /// Runs a program as an agent: with a connection that can do what agents may, and no more.
    Run(RunOptions),
    /// Shows what callers are up to, and calls it off.
    Intent {
        /// The verb.
        #[command(subcommand)]
        command: IntentCommand,
    },
    /// Shows who may do what, and gives rights for a while.
    Permission {
        /// The verb.
        #[command(subcommand)]
        command: PermissionCommand,
    },
    /// Measures a loop's wake-up lateness, beside cyclictest where that may run.
    Latency(LatencyOptions),
    /// Shows and simulates what the robot does when things go wrong. Needs no running system.
    Failsafe {
        /// The verb.
        #[command(subcommand)]
        command: FailsafeCommand,
    },
    /// Says whether this machine is fit for real time, and what mends it.
    ///
    /// Exit status 1 when a required check fails. Without a running kairo-rt the machine is looked
    /// at from here.
    Doctor(DoctorOptions),
    /// Checks configuration files. Needs no running system.
    Config {
        /// The verb.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Calls any method of the kernel and prints its result.
    Call(CallOptions),
    /// Explains the kernel's methods: all in a line each, or one with its parameters and result.
    Methods {
        /// The method, such as device.send.
        name: Option<String>,
    },
    /// Explains the kernel's topics: all in a line each, or one with its data.
    Topics {
        /// The topic, such as kairo.device.claimed.
        name: Option<String>,
    },
    /// Explains why the kernel refuses things, and what to do about it.
    Errors {
        /// A code such as E_BUSY, or a reason such as claimed.
        name: Option<String>,
    },
    /// Prints a script that lets a shell complete this command's words.
    ///
    /// bash: `source <(kairo completion bash)`; zsh: `source <(kairo completion zsh)`; fish:
    /// `kairo completion fish | source`. Put it in the shell's start-up file to keep it.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Shows and exports what the flight recorder kept.
    Record {
        /// The verb.
        #[command(subcommand)]
        command: RecordCommand,
    },
    /// Replays a record through kairo-rt and compares every output, bit for bit.
    Replay(ReplayOptions),
    /// Shows and verifies who did what, from the files of the audit log.
    Audit {
        /// The verb.
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// Shows what was done for whom, and how long each part took.
    Trace {
        /// The verb.
        #[command(subcommand)]
        command: TraceCommand,
    },
    /// Writes the state of everything into one file, without secrets.
    Diagnostics(DiagnosticsOptions),
    /// Shows how the machine is: load, memory, temperatures, batteries, disk.
    Metrics(MetricsOptions),
    /// Shows events: as they happen, from the log, or replayed.
    Events {
        /// What to do.
        #[command(subcommand)]
        command: EventsCommand,
    },
}

/// Options of `call`.
#[derive(Debug, Args)]
pub struct CallOptions {
    /// The method, such as device.list; kernel.introspect lists all.
    pub method: String,
    /// Its parameters, a JSON object; `-` reads it from standard input.
    #[arg(default_value = "{}")]
    pub params: String,
    /// Makes a repeated call take effect once: the same key gives the first one's result.
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
}

/// Shells that completion is made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Fish.
    Fish,
}

/// Verbs of `device`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Lists the devices.
    List,
    /// Describes a device: joints, limits, state.
    Info {
        /// Id or alias of the device.
        device: String,
    },
    /// Claims a device and keeps it until Ctrl-C, or while a command runs.
    Claim(ClaimOptions),
    /// Gives a claim back; useful inside `kairo device claim DEVICE -- COMMAND`.
    ///
    /// A claim belongs to the connection that made it, so this works only where that connection
    /// was inherited. A claim of another program ends when that program ends.
    Release {
        /// Id or alias of the device.
        device: String,
    },
    /// Moves a device: claims it, commands it until it is there, releases it.
    Send(SendOptions),
    /// Clears a latched fault, after what caused it has been dealt with. Moves nothing.
    Reset {
        /// Id or alias of the device.
        device: String,
    },
    /// Shows a device's joints, live.
    Watch(WatchOptions),
}

/// Options of `device claim`.
#[derive(Debug, Args)]
pub struct ClaimOptions {
    /// Id or alias of the device.
    pub device: String,
    /// A command to run while the claim is held. It inherits the connection (KAIRO_IPC_FD) and
    /// finds the claim's epoch in KAIRO_CLAIM_EPOCH.
    #[arg(last = true)]
    pub command: Vec<String>,
}

/// Options of `device send`.
#[derive(Debug, Args)]
pub struct SendOptions {
    /// Id or alias of the device.
    pub device: String,
    /// Target positions in rad: NAME=RAD, separated by commas.
    #[arg(long, value_name = "NAME=RAD,…", value_delimiter = ',', allow_hyphen_values = true,
          value_parser = joint_number, required_unless_present_any = ["stop", "velocity"],
          conflicts_with_all = ["stop", "velocity"])]
    pub position: Vec<(String, f64)>,
    /// Velocities in rad/s for as long as --hold says, instead: NAME=RAD/S, separated by commas.
    /// The other joints come to rest, and all do at the end.
    #[arg(long, value_name = "NAME=RAD/S,…", value_delimiter = ',', allow_hyphen_values = true,
          value_parser = joint_number, conflicts_with = "stop")]
    pub velocity: Vec<(String, f64)>,
    /// Slow down and hold instead.
    #[arg(long)]
    pub stop: bool,
    /// How long each command stays in force; it is renewed three times as often.
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// Longest time to keep commanding before giving up.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub hold: Duration,
    /// How near a joint must come to count as there, rad.
    #[arg(long, default_value_t = 0.02, value_parser = finite)]
    pub tolerance: f64,
    /// Fraction of the joints' velocity limits to use, above 0 up to 1.
    #[arg(long, default_value_t = 1.0, value_parser = finite)]
    pub velocity_scale: f64,
    /// Acceleration to use at most, rad/s²; the joints' limits if absent.
    #[arg(long, value_parser = finite)]
    pub acceleration: Option<f64>,
    /// Jerk to use at most, rad/s³; the joints' limits if absent.
    #[arg(long, value_parser = finite)]
    pub jerk: Option<f64>,
}

/// Options of `device watch`.
#[derive(Debug, Args)]
pub struct WatchOptions {
    /// Id or alias of the device.
    pub device: String,
    /// Samples a second.
    #[arg(long, default_value_t = 5.0, value_parser = finite)]
    pub rate: f64,
    /// Stop after so many samples.
    #[arg(long)]
    pub count: Option<u64>,
}

/// Options of `latency`.
#[derive(Debug, Args)]
pub struct LatencyOptions {
    /// How long each side is measured.
    #[arg(long, value_name = "N", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub seconds: u64,
    /// Leaves cyclictest out.
    #[arg(long)]
    pub alone: bool,
    /// Name of a loop; needed only when there are several.
    #[arg(long = "loop", value_name = "NAME")]
    pub control_loop: Option<String>,
    /// Write a plot to this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Verbs of `record`.
#[derive(Debug, Subcommand)]
pub enum RecordCommand {
    /// Lists the record files of a directory.
    List {
        /// The directory.
        #[arg(
            long,
            value_name = "DIR",
            env = "KAIRO_RECORD_DIR",
            default_value = "/var/lib/kairo/records"
        )]
        directory: PathBuf,
    },
    /// Shows what is in a record file, and how it ends.
    Info {
        /// The file.
        file: PathBuf,
    },
    /// Writes a record file in a format that other programs read.
    Export(ExportOptions),
}

/// Options of `record export`.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// The record file.
    pub file: PathBuf,
    /// Write MCAP, with JSON messages and their schemas, for Foxglove and its kin.
    #[arg(long, value_name = "FILE", required_unless_present = "csv")]
    pub mcap: Option<PathBuf>,
    /// Write comma-separated values, a row for every word.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// Options of `replay`.
#[derive(Debug, Args)]
pub struct ReplayOptions {
    /// The record file.
    pub file: PathBuf,
    /// Replay with this robot.toml instead of the one in the record: what would it have changed?
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Begin at the last keyframe before this tick.
    #[arg(long, value_name = "TICK")]
    pub from: Option<u64>,
    /// Stop after this tick.
    #[arg(long, value_name = "TICK")]
    pub to: Option<u64>,
}

/// Verbs of `audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Lists records.
    List(AuditListOptions),
    /// Finds every edit, deletion, insertion and truncation. Exit status 1 when there is one.
    Verify(AuditVerifyOptions),
    /// Prints where the log ends, NUMBER:HASH, for keeping elsewhere.
    Checkpoint {
        /// Where the log is.
        #[command(flatten)]
        place: AuditPlace,
    },
}

/// Where an audit log is.
#[derive(Debug, Args)]
pub struct AuditPlace {
    /// The log's directory; `audit` in the state directory if absent.
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// kairod's state directory.
    #[arg(
        long,
        value_name = "DIR",
        env = "KAIRO_STATE_DIR",
        default_value = "/var/lib/kairo"
    )]
    pub state_dir: PathBuf,
}

/// Options of `audit list`.
#[derive(Debug, Args)]
pub struct AuditListOptions {
    /// Where the log is.
    #[command(flatten)]
    pub place: AuditPlace,
    /// Only records with higher numbers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub after: u64,
    /// Stop after so many.
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Only entries of this method; `device.*` is all of a namespace.
    #[arg(long, value_name = "METHOD")]
    pub method: Option<String>,
}

/// Options of `audit verify`.
#[derive(Debug, Args)]
pub struct AuditVerifyOptions {
    /// Where the log is.
    #[command(flatten)]
    pub place: AuditPlace,
    /// Hold signatures against this copy of audit.pub.
    #[arg(long, value_name = "FILE")]
    pub public_key: Option<PathBuf>,
    /// This record, NUMBER:HASH or HASH, must be in the log.
    #[arg(long, value_name = "ANCHOR")]
    pub expect_head: Option<Anchor>,
    /// So must this one, and damage before it is left out.
    #[arg(long, value_name = "ANCHOR")]
    pub since: Option<Anchor>,
}

/// Verbs of `events`.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// Prints events as they happen, until Ctrl-C.
    Tail(TailOptions),
    /// Prints what the event log holds.
    Query(QueryOptions),
    /// Prints a part of the event log as it is delivered to a program that replays it.
    Replay(EventReplayOptions),
}

/// Options of `events tail`.
#[derive(Debug, Args)]
pub struct TailOptions {
    /// Topics: `*` is one segment, `>` the tail.
    #[arg(default_value = ">")]
    pub patterns: Vec<String>,
    /// Begin in the log: with the event of this number, or `start`.
    #[arg(long, value_name = "SEQ|start|now")]
    pub from: Option<String>,
    /// Read as a durable consumer: go on behind what it printed last.
    #[arg(long, value_name = "NAME")]
    pub consumer: Option<String>,
    /// Stop after so many events.
    #[arg(long)]
    pub count: Option<u64>,
}

/// Options of `events query`.
#[derive(Debug, Args)]
pub struct QueryOptions {
    /// Topics: `*` is one segment, `>` the tail.
    #[arg(default_value = ">")]
    pub patterns: Vec<String>,
    /// Only this stream.
    #[arg(long)]
    pub stream: Option<String>,
    /// Only what belongs to this correlation, for example an intent.
    #[arg(long, value_name = "ID")]
    pub correlation: Option<String>,
    /// Only from this time on, as in 2026-11-21T16:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only before this time.
    #[arg(long, value_name = "TIME")]
    pub before: Option<String>,
    /// Only numbers above this one.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: u64,
    /// At most so many events.
    #[arg(long, default_value_t = 100)]
    pub limit: u64,
}

/// Options of `events replay`.
#[derive(Debug, Args)]
pub struct EventReplayOptions {
    /// Topics: `*` is one segment, `>` the tail.
    #[arg(default_value = ">")]
    pub patterns: Vec<String>,
    /// First number; the oldest event if absent.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub from: u64,
    /// Last number; the newest event if absent.
    #[arg(long, value_name = "SEQ")]
    pub until: Option<u64>,
}

/// Verbs of `failsafe`.
#[derive(Debug, Subcommand)]
pub enum FailsafeCommand {
    /// Lists the causes with their actions, clear conditions and takeover rules.
    List(FailsafeListOptions),
    /// Raises a cause from outside: low_battery or operator_request. As root, on the robot.
    Raise {
        /// The cause.
        cause: String,
    },
    /// Lowers what was raised. As root, on the robot.
    Lower {
        /// The cause.
        cause: String,
    },
    /// Takes over from the causes an operator may take over from. As root, on the robot.
    TakeOver,
    /// Defers what is deferrable, until `--end` or its time is over. As root, on the robot.
    Defer {
        /// End the deferral.
        #[arg(long)]
        end: bool,
    },
    /// Runs the failsafe machine over a timeline and shows what it decides, and why.
    ///
    /// Without --at, moments are read from standard input, one a line.
    Simulate(SimulateOptions),
}

/// Options of `failsafe list`.
#[derive(Debug, Args)]
pub struct FailsafeListOptions {
    /// Use the rules of this robot.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the tables of docs/reference/failsafe.md.
    #[arg(long)]
    pub markdown: bool,
}

/// Options of `failsafe simulate`.
#[derive(Debug, Args)]
pub struct SimulateOptions {
    /// Use the rules of this robot.toml.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Begin as the robot does, with the e-stop latched.
    #[arg(long)]
    pub from_start: bool,
    /// What happens when: `--at 0ms cause=agent-gone --at 1s clear=agent-gone takeover=operator`.
    ///
    /// Events: cause=NAME, clear=NAME, lease, reset, reset=down, reset=up, takeover=agent,
    /// takeover=operator, defer=on, defer=off.
    #[arg(long, value_names = ["TIME", "EVENT"], num_args = 2..)]
    pub at: Vec<String>,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorOptions {
    /// The checks of the real-time plane.
    #[arg(long, required = true)]
    pub rt: bool,
    /// Look at this machine for the robot of this file, whatever runs.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Verbs of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Reads a robot.toml as kairo-rt would, and shows every problem with its line and its fix.
    Check(ConfigCheckOptions),
}

/// Options of `config check`.
#[derive(Debug, Args)]
pub struct ConfigCheckOptions {
    /// The file.
    #[arg(default_value = "/config/robot.toml")]
    pub file: PathBuf,
    /// Also hold this machine against it: cores, isolation, timers.
    #[arg(long)]
    pub machine: bool,
}

/// Verbs of `rt`.
#[derive(Debug, Subcommand)]
pub enum RtCommand {
    /// Shows bring-up, loops, buses and devices.
    Status,
    /// Shows a latency histogram.
    Histogram(HistogramOptions),
    /// Stops every device, now. Works without kairod; on the robot itself, as root.
    Estop,
    /// Clears the e-stop that the robot starts with, or that somebody asked for.
    ///
    /// On the robot itself, as root or kairo-rt's user. Every input must be good.
    ClearEstop,
    /// Shows the e-stop and what every failsafe machine decided, without kairod.
    Safety,
    /// Counts from now on, for every client; the real-time plane is only read.
    Reset,
}

/// Options of `rt histogram`.
#[derive(Debug, Args)]
pub struct HistogramOptions {
    /// Name of a loop; needed only when there are several.
    #[arg(long = "loop", value_name = "NAME")]
    pub control_loop: Option<String>,
    /// Name of a bus.
    #[arg(long, value_name = "NAME", conflicts_with = "control_loop")]
    pub bus: Option<String>,
    /// All loops together; with `--kind round-trip` all buses.
    #[arg(long, conflicts_with_all = ["control_loop", "bus"])]
    pub all: bool,
    /// What to show.
    #[arg(long, value_enum)]
    pub kind: Option<HistogramKind>,
    /// Write the loops' histograms to this file, in the shape of `cyclictest --json`.
    #[arg(long, value_name = "FILE", conflicts_with = "bus")]
    pub cyclictest_json: Option<PathBuf>,
    /// Write a plot to this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// What a histogram shows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum HistogramKind {
    /// Wake-up time minus planned time of a loop.
    Lateness,
    /// Duration of a loop's tick.
    Execution,
    /// Age of commands when a loop accepted them.
    CommandAge,
    /// Duration of a bus cycle.
    RoundTrip,
}

impl HistogramKind {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lateness => "lateness",
            Self::Execution => "execution",
            Self::CommandAge => "command_age",
            Self::RoundTrip => "round_trip",
        }
    }
}

/// Reads `NAME=NUMBER`.
fn joint_number(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not JOINT=NUMBER, such as elbow_flex=-0.2"))?;
    let value = finite(value).map_err(|_| format!("{value:?} is not a number of radians"))?;
    Ok((name.to_string(), value))
}

/// Reads a number. JSON has no NaN and no infinity: they would arrive as null, which means the
/// default, so a mistyped speed would be full speed.
fn finite(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.ok_or_else(|| format!("{text:?} is not a number"))
}
