//! The service side of the public `sd_notify` protocol, as far as PID 1 listens to it.
//!
//! A datagram is `KEY=VALUE` lines. Unknown keys are ignored, as the protocol asks. Who sent it is
//! not decided here but by the kernel's credentials: only the main process of a service speaks
//! for it.

/// Longest accepted datagram; the kernel truncates what is longer.
pub const DATAGRAM_BYTES_MAX: usize = 2048;
/// Longest kept status text.
const STATUS_CHARS_MAX: usize = 256;

/// What a service said.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `READY=1`.
    pub ready: bool,
    /// `WATCHDOG=1`.
    pub beat: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=text`, shortened and without control characters.
    pub status: Option<String>,
}

impl Notice {
    /// Reads a datagram. Anything not understood is skipped.
    pub fn parse(datagram: &[u8]) -> Self {
        let mut notice = Self::default();
        for line in String::from_utf8_lossy(datagram).lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => notice.ready = true,
                Some(("WATCHDOG", "1")) => notice.beat = true,
                Some(("STOPPING", "1")) => notice.stopping = true,
                Some(("STATUS", text)) => {
                    let printable = text.chars().filter(|c| !c.is_control());
                    notice.status = Some(printable.take(STATUS_CHARS_MAX).collect());
                }
                _ => {}
            }
        }
        notice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_datagram_may_say_several_things() {
        let notice = Notice::parse(b"READY=1\nSTATUS=six servos, armed\nWATCHDOG=1\nFDSTORE=1");
        assert!(notice.ready && notice.beat && !notice.stopping);
        assert_eq!(notice.status.as_deref(), Some("six servos, armed"));
    }

    #[test]
    fn garbage_says_nothing() {
        for garbage in [&b""[..], b"\xff\xfe=1", b"READY", b"READY=2", b"=\n=="] {
            assert_eq!(Notice::parse(garbage), Notice::default());
        }
    }

    #[test]
    fn a_status_cannot_carry_terminal_escapes_or_grow() {
        let mut datagram = b"STATUS=\x1b[2J".to_vec();
        datagram.extend([b'x'; 2000]);
        let status = Notice::parse(&datagram).status.unwrap();
        assert!(status.starts_with("[2Jx") && status.len() == STATUS_CHARS_MAX);
    }
}
