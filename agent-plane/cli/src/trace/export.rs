//! `kairo trace export`: follows the spans that kairod keeps and posts them to a collector.
//!
//! A process of its own, so that a collector that is slow or away costs kairod nothing. In memory
//! is one batch; while it cannot be delivered nothing more is read, and kairod's own bounded memory
//! is the buffer: what falls out of it is counted and said. Plain HTTP only: a collector on this
//! machine is the way to encryption.

use std::time::Duration;

use clap::Args;
use kairo_wire::Client;
use kairo_wire::endpoint::Endpoint;
use serde_json::{Value, json};

use super::{otlp, page};
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Options of `trace export`.
#[derive(Debug, Args)]
pub struct ExportOptions {
    /// The collector: http://HOST:PORT; /v1/traces is added where no path is given.
    #[arg(long, value_name = "URL")]
    pub otlp: String,
    /// How often to look for new spans.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// Send what there is, then end; fail when the collector does not take it.
    #[arg(long)]
    pub once: bool,
}

/// Spans in one request.
const BATCH: usize = 256;
/// First and longest pause before trying again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Longest pause that a collector can ask for.
const MAX_ASKED: Duration = Duration::from_secs(120);
/// How often `--once` tries.
const ATTEMPTS: u32 = 5;
/// How long a collector may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of a collector that is read, bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// What became of a request.
enum Posted {
    /// It was taken, but for so many spans.
    Taken { rejected: u64 },
    /// It may be taken later.
    Later {
        why: String,
        after: Option<Duration>,
    },
    /// It never will.
    Refused { why: String },
}

/// Follows and posts until it is ended, or with `--once` until there is nothing more.
pub fn export(
    terminal: &Terminal,
    endpoint: &Endpoint,
    timeout: Duration,
    options: &ExportOptions,
) -> Result<(), Failure> {
    let url = traces_url(&options.otlp)?;
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(HTTP_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        // What the environment says of proxies is for the world outside.
        .proxy(None)
        .user_agent(concat!("kairo/", env!("CARGO_PKG_VERSION")))
        .build();
    let agent = ureq::Agent::new_with_config(config);
    let mut follower = Follower {
        endpoint,
        timeout,
        client: None,
        host: String::new(),
        after: 0,
        run: String::new(),
        pause: PAUSE.0,
    };
    let (mut sent, mut dropped, mut lost) = (0, 0, 0);
    loop {
        let (spans, missed) = match follower.next() {
            Ok(found) => found,
            Err(failure) if options.once => return Err(failure),
            Err(failure) => {
                terminal.warn(&format!("{failure}; trying again"));
                follower.wait();
                continue;
            }
        };
        lost += missed;
        if spans.is_empty() {
            if options.once {
                break;
            }
            std::thread::sleep(options.interval);
            continue;
        }
        let body = otlp::request(&spans, &follower.host).to_string();
        let attempts = if options.once { ATTEMPTS } else { u32::MAX };
        match deliver(terminal, &agent, &url, &body, attempts)? {
            None => dropped += spans.len() as u64,
            Some(rejected) => {
                sent += (spans.len() as u64).saturating_sub(rejected);
                dropped += rejected;
            }
        }
    }
    let result = json!({"sent": sent, "dropped": dropped, "lost": lost});
    if terminal.json {
        return terminal.json_page(&result);
    }
    terminal.line(format!(
        "{sent} spans sent, {dropped} refused by the collector, {lost} forgotten before they were \
         read"
    ))
}

/// Reads kairod's spans in their order, over restarts of kairod.
struct Follower<'e> {
    endpoint: &'e Endpoint,
    timeout: Duration,
    client: Option<Client>,
    host: String,
    after: u64,
    run: String,
    pause: Duration,
}

impl Follower<'_> {
    /// The next spans, and how many were forgotten before them.
    fn next(&mut self) -> Result<(Vec<Value>, u64), Failure> {
        let read = self.read();
        match &read {
            Ok(_) => self.pause = PAUSE.0,
            // A connection that failed once is not used again.
            Err(_) => self.client = None,
        }
        let mut page = read?;
        let run = page["run"].as_str().unwrap_or_default().to_string();
        if !self.run.is_empty() && run != self.run {
            // Another kairod, whose numbers begin anew.
            self.after = 0;
            page = self.read()?;
        }
        self.run = run;
        self.after = page["next"].as_u64().unwrap_or(self.after);
        Ok((otlp::of_page(&page), page["lost"].as_u64().unwrap_or(0)))
    }

    fn read(&mut self) -> Result<Value, Failure> {
        let client = match &mut self.client {
            Some(client) => client,
            none => {
                let mut client = Client::connect_to(self.endpoint)?;
                let info: Value = client.call("system.get_info", json!({}), self.timeout)?;
                self.host = info["hostname"].as_str().unwrap_or_default().into();
                none.insert(client)
            }
        };
        page(
            client,
            json!({"after": self.after, "limit": BATCH}),
            self.timeout,
        )
    }

    fn wait(&mut self) {
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(PAUSE.1);
    }
}

/// Posts a batch until it is taken or refused. The spans that were rejected; none when all were.
fn deliver(
    terminal: &Terminal,
    agent: &ureq::Agent,
    url: &str,
    body: &str,
    attempts: u32,
) -> Result<Option<u64>, Failure> {
    let mut pause = PAUSE.0;
    let mut said = false;
    for attempt in 1.. {
        match post(agent, url, body) {
            Posted::Taken { rejected } => return Ok(Some(rejected)),
            Posted::Refused { why } => {
                terminal.warn(&format!("{url} refuses a batch: {why}"));
                return Ok(None);
            }
            Posted::Later { why, .. } if attempt >= attempts => {
                return Err(Failure::NotDone(format!(
                    "{url} does not take spans: {why}"
                )));
            }
            Posted::Later { why, after } => {
                if !said {
                    terminal.warn(&format!(
                        "{url} does not take spans now: {why}; trying again"
                    ));
                    said = true;
                }
                std::thread::sleep(after.unwrap_or(pause));
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
    Ok(None)
}

fn post(agent: &ureq::Agent, url: &str, body: &str) -> Posted {
    let sent = agent
        .post(url)
        .header("Content-Type", "application/json")
        .send(body);
    let mut response = match sent {
        Ok(response) => response,
        Err(error) => {
            let why = error.to_string();
            return Posted::Later { why, after: None };
        }
    };
    let status = response.status().as_u16();
    let asked = response.headers().get("retry-after");
    let asked = asked.and_then(|value| value.to_str().ok()?.parse().ok());
    let after = asked.map(|seconds| Duration::from_secs(seconds).min(MAX_ASKED));
    let limited = response.body_mut().with_config().limit(MAX_ANSWER_BYTES);
    // An answer that cannot be read says no more than its status.
    let answer = limited.read_to_string().unwrap_or_default();
    let why = format!("HTTP status {status}");
    match status {
        200..=299 => {
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            Posted::Taken {
                rejected: otlp::rejected(&answer),
            }
        }
        // Those that OTLP names as worth another attempt.
        429 | 502 | 503 | 504 => Posted::Later { why, after },
        _ => Posted::Refused { why },
    }
}

/// Where the collector takes traces.
fn traces_url(text: &str) -> Result<String, Failure> {
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(Failure::Usage(format!(
            "{text} is not http://HOST:PORT; for https run a collector on this machine that \
             forwards"
        )));
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() {
        return Err(Failure::Usage(format!("{text} names no host")));
    }
    let path = if path.is_empty() { "v1/traces" } else { path };
    Ok(format!("http://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_traces_is_added_where_none_is_given() {
        for (given, wanted) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("http://c/otlp/v1/traces", "http://c/otlp/v1/traces"),
        ] {
            assert_eq!(traces_url(given).unwrap(), wanted);
        }
        for wrong in ["https://c:4318", "c:4318", "http://", "http:///x"] {
            assert!(
                matches!(traces_url(wrong), Err(Failure::Usage(_))),
                "{wrong}"
            );
        }
    }
}
