//! The control connection between kairod and an ordinary thread of kairo-rt.
//!
//! One `SOCK_SEQPACKET` Unix connection; a packet is one MsgPack message, with the descriptors it
//! speaks of attached (`SCM_RIGHTS`). Only set-up goes this way: leases opened and closed, devices
//! lost and found. Commands and states go through the segments. agent-only and setup-only: nothing
//! here is called from a real-time thread.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::lines::LineDescription;
use crate::operator::DeviceFailsafe;

/// Longest message, bytes: what a socket takes at once where nobody changed `wmem_default`. A
/// welcome of as many loops, buses and devices as there can be is the longest.
pub const MAX_MESSAGE_BYTES: usize = 200 * 1024;
/// Most descriptors in one message: those of a welcome.
pub const MAX_DESCRIPTORS: usize = COMMON_DESCRIPTORS + MAX_DEVICES * DEVICE_DESCRIPTORS;
/// Most descriptors that the kernel carries in one message (its `SCM_MAX_FD`). There is room for
/// all of them.
const KERNEL_DESCRIPTORS_MAX: usize = 253;
/// Descriptors of a welcome before those of the devices: statistics and doorbell.
pub const COMMON_DESCRIPTORS: usize = 2;
/// Descriptors of a welcome for each device: state buffer, command ring, reply ring.
pub const DEVICE_DESCRIPTORS: usize = 3;
/// Deepest nesting of a message. The deepest, a joint of a device in a welcome, takes 7.
const MAX_NESTING: usize = 16;
/// Devices a kairo-rt can have.
pub const MAX_DEVICES: usize = 32;
const _: () = assert!(MAX_DESCRIPTORS <= KERNEL_DESCRIPTORS_MAX);

/// What kairod asks of kairo-rt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// First message. Answered by [`Notice::Welcome`] or [`Notice::Refused`].
    Hello {
        /// The sender's [`crate::segment::VERSION`].
        version: u64,
    },
    /// Every segment of the welcome is mapped. kairo-rt closes them to any other use and begins to
    /// use them; before this there are no states and no leases.
    Mapped,
    /// Open a lease on a device. Answered by `LeaseOpened` or `LeaseRefused` with the same number.
    OpenLease {
        /// Chosen by the sender, echoed in the answer.
        request: u64,
        /// Index into the welcome's devices.
        device: u32,
    },
    /// Give a lease up. The device takes its safe action. Answered by `LeaseClosed`.
    CloseLease {
        /// The lease.
        epoch: u64,
        /// True if the holder vanished rather than released.
        holder_gone: bool,
    },
    /// Stop everything, now. Answered by `EstopAnswered` with the same number. Never refused.
    Estop {
        /// Chosen by the sender, echoed in the answer.
        request: u64,
    },
    /// Clear the e-stop on behalf of an operator. Answered by `EstopAnswered`; refused unless the
    /// robot allows clears over IPC, and by an input that is not good.
    ClearEstop {
        /// Chosen by the sender, echoed in the answer.
        request: u64,
    },
}

/// What kairo-rt tells kairod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Notice {
    /// Descriptors attached, in this order: statistics segment, doorbell (rings when a reply ring
    /// or a device state changed), then for each device its state buffer, command ring and reply
    /// ring. They last as long as the connection. To be answered with [`Request::Mapped`].
    ///
    /// The doorbell is read like an eventfd: readable when rung, eight bytes a ring, one ring at
    /// most waits. It is the reading end of a non-blocking pipe, because an eventfd shares its
    /// `O_NONBLOCK` flag between both sides, and a peer could make the next ring block.
    Welcome(Box<Welcome>),
    /// The connection is refused and closes.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// The device's rings now carry this lease. What lies in the command ring from before is gone;
    /// what lies in the reply ring carries the epoch of its own lease.
    LeaseOpened {
        /// The request's number.
        request: u64,
        /// Identifies the lease; grows with every lease kairo-rt ever gave.
        epoch: u64,
    },
    /// No lease.
    LeaseRefused {
        /// The request's number.
        request: u64,
        /// Stable code: `busy`, `not_armed`, `estopped`, `bus_lost`, `no_such_device`,
        /// `not_mapped`, `ring_corrupt`.
        code: String,
        /// Readable text.
        reason: String,
    },
    /// A lease ended, by request or because the real-time plane revoked it.
    LeaseClosed {
        /// The lease.
        epoch: u64,
        /// A stable [`crate::abi::Cause`] name.
        cause: String,
    },
    /// A device was lost or found.
    DeviceChanged {
        /// Index into the welcome's devices.
        device: u32,
        /// True when it is usable.
        present: bool,
        /// A stable [`crate::abi::Cause`] name.
        cause: String,
        /// The device node its bus was found at; empty when there is none.
        path: String,
        /// Readable text.
        detail: String,
    },
    /// The failsafe machine of a device decided otherwise than before. One for every device comes
    /// right after the welcome.
    FailsafeChanged {
        /// Index into the welcome's devices.
        device: u32,
        /// What it decided, with the device's name.
        failsafe: DeviceFailsafe,
    },
    /// The answer to `Estop` and `ClearEstop`.
    EstopAnswered {
        /// The request's number.
        request: u64,
        /// Whether it was done.
        done: bool,
        /// Stable code when it was not: `not_allowed`, `still_latched`; empty otherwise.
        code: String,
        /// Why not; empty when it was.
        reason: String,
    },
}

/// What there is to know on connecting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// kairo-rt's [`crate::segment::VERSION`].
    pub version: u64,
    /// Version text of kairo-rt.
    pub build: String,
    /// The robot's name.
    pub robot: String,
    /// True when the loops run armed.
    pub armed: bool,
    /// The loops, in the order of the statistics block.
    pub loops: Vec<LoopDescription>,
    /// The buses, in the order of the statistics block.
    pub buses: Vec<BusDescription>,
    /// The devices.
    pub devices: Vec<DeviceDescription>,
    /// What bring-up checked, read back from the kernel.
    pub bringup: Vec<BringupCheck>,
    /// The GPIO lines, as configured; empty on a robot without.
    #[serde(default)]
    pub lines: Vec<LineDescription>,
}

/// A control loop, as configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoopDescription {
    /// Its name.
    pub name: String,
    /// Period, microseconds.
    pub period_us: u64,
    /// Where in the period its ticks lie on CLOCK_MONOTONIC, microseconds.
    pub phase_us: u64,
    /// SCHED_FIFO priority.
    pub priority: u32,
    /// The core it is pinned to; none when not pinned.
    pub core: Option<u32>,
    /// Its control blocks by name, in the order of the file.
    #[serde(default)]
    pub blocks: Vec<String>,
}

/// A bus, as configured and found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BusDescription {
    /// Its name.
    pub name: String,
    /// The port as configured.
    pub port: String,
    /// The device node it resolved to; empty while absent.
    pub path: String,
    /// Servo ids, in the order of the statistics block.
    pub servo_ids: Vec<u8>,
}

/// A device, as configured and found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceDescription {
    /// Its name, the stable id in the public protocol.
    pub name: String,
    /// What it is: `servo-arm`.
    pub kind: String,
    /// Name of its bus.
    pub bus: String,
    /// Name of its loop.
    pub control_loop: String,
    /// The declared safe action: `hold`, `ramp`, `torque-off`, `idle` or `land`.
    pub safe_action: String,
    /// Whether it is put under torque as soon as it answers, without a command.
    pub torque_at_start: bool,
    /// Longest time to live of a command, ms.
    pub ttl_max_ms: u64,
    /// Its joints, in command order.
    pub joints: Vec<JointDescription>,
    /// True while its bus is up.
    pub present: bool,
}

/// A joint and its limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JointDescription {
    /// Its name.
    pub name: String,
    /// Id of its servo on the bus.
    pub servo_id: u8,
    /// Lowest position, rad.
    pub position_min_rad: f64,
    /// Highest position, rad.
    pub position_max_rad: f64,
    /// Highest speed, rad/s.
    pub velocity_max_rad_s: f64,
    /// Highest acceleration, rad/s².
    pub acceleration_max_rad_s2: f64,
    /// Highest jerk, rad/s³.
    pub jerk_max_rad_s3: f64,
    /// Distance to the setpoint from which on it counts as not following, rad.
    pub following_error_max_rad: f64,
    /// How long it may be that far away, ms.
    pub following_error_time_ms: u64,
    /// Where it is in the rest pose, rad.
    pub rest_position_rad: Option<f64>,
}

/// One line of the bring-up table: what was asked of the kernel and what it says it did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BringupCheck {
    /// `process`, or a thread's name.
    pub scope: String,
    /// Stable name of the check: `policy`, `affinity`, `locked_memory`, …
    pub check: String,
    /// What was wanted.
    pub wanted: String,
    /// What was read back.
    pub found: String,
    /// Whether they agree.
    pub ok: bool,
    /// Whether strict mode refuses to arm without it.
    pub required: bool,
    /// The command that fixes it; empty when it is fine.
    pub fix: String,
}

/// Why a control message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The peer closed the connection.
    #[error("the peer closed the link")]
    Closed,
    /// A system call failed.
    #[error("{call} on the link failed: {errno}")]
    System {
        /// The call.
        call: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// The packet is not a message of this protocol.
    #[error("malformed link message of {bytes} bytes: {detail}")]
    Malformed {
        /// Its length.
        bytes: usize,
        /// What is wrong.
        detail: String,
    },
    /// The peer attached descriptors to a message that has none.
    #[error("the peer attached descriptors, and no message of its has any")]
    Descriptors,
    /// The message does not fit.
    #[error("link message of {bytes} bytes exceeds {MAX_MESSAGE_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

impl ControlError {
    /// True when the socket was only not ready, or a receive time-out passed.
    pub fn is_would_block(&self) -> bool {
        matches!(
            self,
            Self::System {
                errno: Errno::EAGAIN | Errno::EINTR,
                ..
            }
        )
    }
}

/// One end of the control connection.
#[derive(Debug)]
pub struct ControlSocket {
    fd: OwnedFd,
}

impl ControlSocket {
    /// Wraps an accepted or inherited `SOCK_SEQPACKET` descriptor.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Connects to kairo-rt at `path`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn connect(path: &Path) -> Result<Self, ControlError> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(|errno| ControlError::System {
            call: "socket",
            errno,
        })?;
        let address = UnixAddr::new(path).map_err(|errno| ControlError::System {
            call: "socket path",
            errno,
        })?;
        connect(fd.as_raw_fd(), &address).map_err(|errno| ControlError::System {
            call: "connect",
            errno,
        })?;
        Ok(Self { fd })
    }

    /// Sends one message with descriptors.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub fn send<M: Serialize>(
        &self,
        message: &M,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ControlError> {
        let bytes = rmp_serde::to_vec_named(message).map_err(|error| ControlError::Malformed {
            bytes: 0,
            detail: error.to_string(),
        })?;
        if bytes.len() > MAX_MESSAGE_BYTES || descriptors.len() > MAX_DESCRIPTORS {
            return Err(ControlError::TooLong { bytes: bytes.len() });
        }
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let attached: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let parts = [IoSlice::new(&bytes)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.fd.as_raw_fd(), &parts, attached, flags, None) {
            Ok(_) => Ok(()),
            Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => Err(ControlError::Closed),
            Err(errno) => Err(ControlError::System {
                call: "sendmsg",
                errno,
            }),
        }
    }

    /// Receives one message with its descriptors.
    ///
    /// # Errors
    /// See [`ControlError`]; [`ControlError::is_would_block`] for a time-out. Descriptors of a
    /// message that is refused are closed.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<(M, Vec<OwnedFd>), ControlError> {
        let mut bytes = vec![0_u8; MAX_MESSAGE_BYTES];
        let Packet {
            length,
            truncated,
            descriptors,
            ..
        } = received(self.fd.as_fd(), &mut bytes, KERNEL_DESCRIPTORS_MAX, 0)?;
        if length == 0 {
            return Err(ControlError::Closed);
        }
        let count = descriptors.len();
        if truncated || count > MAX_DESCRIPTORS {
            // Dropped with the descriptors, which are all ours by now.
            return Err(ControlError::Malformed {
                bytes: length,
                detail: format!(
                    "{count} descriptors; at most {MAX_DESCRIPTORS}, and {MAX_MESSAGE_BYTES} \
                     bytes, are allowed, and room for them"
                ),
            });
        }
        Ok((decode(&bytes[..length])?, descriptors))
    }

    /// Receives one message of a peer that has no descriptors to give.
    ///
    /// One that attaches some is refused before any is taken: closing a descriptor may block for as
    /// long as its sender likes, and each takes a place in our table. They stay with the message in
    /// the socket, which is to be closed where it may block.
    ///
    /// # Errors
    /// As [`ControlSocket::receive`], and [`ControlError::Descriptors`].
    pub fn receive_bare<M: DeserializeOwned>(&self) -> Result<M, ControlError> {
        // Without room for them, the kernel says only that there are some.
        let look = received(self.fd.as_fd(), &mut [], 0, libc::MSG_PEEK)?;
        if look.has_descriptors {
            return Err(ControlError::Descriptors);
        }
        let mut bytes = vec![0_u8; MAX_MESSAGE_BYTES];
        // The message that was looked at: nobody else takes any from this socket.
        let packet = received(self.fd.as_fd(), &mut bytes, 0, 0)?;
        match packet.length {
            0 => Err(ControlError::Closed),
            length if packet.truncated => Err(ControlError::TooLong { bytes: length }),
            length => decode(&bytes[..length]),
        }
    }
}

fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, ControlError> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    // Decoding recurses once a level, and the peer chooses the levels: without a bound of our
    // own, one packet overflows the stack and takes the process with it.
    decoder.set_max_depth(MAX_NESTING);
    M::deserialize(&mut decoder).map_err(|error| ControlError::Malformed {
        bytes: bytes.len(),
        detail: error.to_string(),
    })
}

/// What one recvmsg gave.
struct Packet {
    length: usize,
    /// Bytes or descriptors did not fit.
    truncated: bool,
    /// Descriptors did not fit.
    has_descriptors: bool,
    descriptors: Vec<OwnedFd>,
}

/// One recvmsg(2), with room for `most` descriptors. Not nix's: that gives none of the descriptors
/// of a message that did not fit whole, because our table is full, and so nobody would close them.
fn received(
    fd: BorrowedFd<'_>,
    bytes: &mut [u8],
    most: usize,
    flags: libc::c_int,
) -> Result<Packet, ControlError> {
    const RIGHT_BYTES: usize = size_of::<RawFd>();
    let payload = u32::try_from(most * RIGHT_BYTES).unwrap_or(u32::MAX);
    let space = match most {
        0 => 0,
        // SAFETY: arithmetic only.
        _ => unsafe { libc::CMSG_SPACE(payload) as usize },
    };
    // Words, so that the headers are aligned.
    let mut control = vec![0_u64; space.div_ceil(8)];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a structure of integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if space > 0 {
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = space as _;
    }
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let length = Errno::result(length).map_err(|errno| match errno {
        Errno::ECONNRESET | Errno::ENOTCONN => ControlError::Closed,
        errno => ControlError::System {
            call: "recvmsg",
            errno,
        },
    })?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled `message` in; the headers lie within `control`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so a whole header within `control`.
        let found = unsafe { *header };
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: arithmetic only.
            let start = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (found.cmsg_len as usize).saturating_sub(start) / RIGHT_BYTES;
            // SAFETY: the data of this header.
            let data = unsafe { libc::CMSG_DATA(header) };
            for index in 0..count {
                // SAFETY: one of the `count` descriptors in the data, of any alignment, which the
                // kernel installed for us with this very call; nobody else knows it.
                let fd = unsafe {
                    OwnedFd::from_raw_fd(data.cast::<RawFd>().add(index).read_unaligned())
                };
                descriptors.push(fd);
            }
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    let has_descriptors = message.msg_flags & libc::MSG_CTRUNC != 0;
    Ok(Packet {
        length: usize::try_from(length).unwrap_or(0),
        truncated: has_descriptors || message.msg_flags & libc::MSG_TRUNC != 0,
        has_descriptors,
        descriptors,
    })
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::socket::socketpair;

    fn pair() -> (ControlSocket, ControlSocket) {
        let kind = SockType::SeqPacket;
        let (one, other) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (ControlSocket::from_fd(one), ControlSocket::from_fd(other))
    }

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (one, other) = pair();
        let opened = Notice::LeaseOpened {
            request: 3,
            epoch: 9,
        };
        one.send(&opened, &[one.as_fd(), other.as_fd()]).unwrap();
        let (message, descriptors) = other.receive::<Notice>().unwrap();
        assert_eq!(message, opened);
        assert_eq!(descriptors.len(), 2);
    }

    #[test]
    fn a_vanished_peer_is_closed_and_garbage_is_malformed() {
        let (one, other) = pair();
        one.send(&"not a request", &[]).unwrap();
        assert!(matches!(
            other.receive::<Request>(),
            Err(ControlError::Malformed { .. })
        ));
        drop(one);
        assert!(matches!(
            other.receive::<Request>(),
            Err(ControlError::Closed)
        ));
        assert!(matches!(
            other.send(&Request::Hello { version: 2 }, &[]),
            Err(ControlError::Closed)
        ));
    }

    #[test]
    fn too_many_descriptors_are_refused_and_none_stays_open() {
        let (one, other) = pair();
        // A file of its own, so that the descriptors of tests that run meanwhile do not count.
        let name = "/memfd:kairo-sent-too-often (deleted)";
        let file = memfd_create(c"kairo-sent-too-often", MFdFlags::MFD_CLOEXEC).unwrap();
        let open = || {
            let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
            all.filter(|entry| {
                std::fs::read_link(entry.path()).is_ok_and(|to| to == Path::new(name))
            })
            .count()
        };
        let packet = rmp_serde::to_vec_named(&Request::Mapped).unwrap();
        for sent in [MAX_DESCRIPTORS + 1, 100, KERNEL_DESCRIPTORS_MAX] {
            let raw = vec![file.as_raw_fd(); sent];
            let parts = [IoSlice::new(&packet)];
            let rights = [ControlMessage::ScmRights(&raw)];
            let socket = one.fd.as_raw_fd();
            sendmsg::<()>(socket, &parts, &rights, MsgFlags::empty(), None).unwrap();
            let received = other.receive::<Request>();
            let refused = matches!(received, Err(ControlError::Malformed { .. }));
            assert!(refused, "{sent}: {received:?}");
            assert_eq!(open(), 1, "descriptors left open of {sent}");
        }
        // As many as are allowed arrive.
        one.send(&Request::Mapped, &[file.as_fd(); MAX_DESCRIPTORS])
            .unwrap();
        let (_, descriptors) = other.receive::<Request>().unwrap();
        assert_eq!(descriptors.len(), MAX_DESCRIPTORS);
    }

    #[test]
    fn a_descriptor_nobody_asked_for_is_refused_where_it_is() {
        let (one, other) = pair();
        one.send(&Request::Mapped, &[]).unwrap();
        one.send(&Request::Mapped, &[one.as_fd()]).unwrap();
        assert_eq!(other.receive_bare::<Request>().unwrap(), Request::Mapped);
        for _ in 0..3 {
            let refused = other.receive_bare::<Request>();
            assert!(
                matches!(refused, Err(ControlError::Descriptors)),
                "{refused:?}"
            );
        }
        // Whoever can take it finds it whole.
        assert_eq!(other.receive::<Request>().unwrap().1.len(), 1);
        let long = vec![0xc0; MAX_MESSAGE_BYTES + 1];
        nix::sys::socket::send(one.fd.as_raw_fd(), &long, MsgFlags::empty()).unwrap();
        let refused = other.receive_bare::<Request>();
        assert!(
            matches!(refused, Err(ControlError::TooLong { .. })),
            "{refused:?}"
        );
        drop(one);
        let closed = other.receive_bare::<Request>();
        assert!(matches!(closed, Err(ControlError::Closed)), "{closed:?}");
    }

    #[test]
    fn nesting_does_not_use_up_the_stack_of_the_receiver() {
        // As deep as a message can be, behind a key that nobody knows: buffered all the same.
        let (one, other) = pair();
        let mut bytes = vec![0x82, 0xa1, b'x'];
        bytes.resize(MAX_MESSAGE_BYTES - 32, 0x91);
        bytes.extend([0xc0, 0xa4]);
        bytes.extend(b"type");
        bytes.push(0xa5);
        bytes.extend(b"hello");
        nix::sys::socket::send(one.fd.as_raw_fd(), &bytes, MsgFlags::empty()).unwrap();
        // Half of the stack that kairo-rt gives the thread behind `rt.sock`.
        let thread = std::thread::Builder::new().stack_size(256 * 1024);
        let thread = thread.spawn(move || other.receive::<Request>().map(|(message, _)| message));
        let received = thread.unwrap().join().unwrap();
        assert!(
            matches!(received, Err(ControlError::Malformed { .. })),
            "{received:?}"
        );
    }

    #[test]
    fn every_message_survives_the_trip() {
        let (one, other) = pair();
        let welcome = Notice::Welcome(Box::new(Welcome {
            robot: "so101".into(),
            devices: vec![DeviceDescription {
                name: "arm".into(),
                joints: vec![JointDescription::default()],
                ..Default::default()
            }],
            ..Default::default()
        }));
        one.send(&welcome, &[]).unwrap();
        assert_eq!(other.receive::<Notice>().unwrap().0, welcome);
        let request = Request::CloseLease {
            epoch: 4,
            holder_gone: true,
        };
        other.send(&request, &[]).unwrap();
        assert_eq!(one.receive::<Request>().unwrap().0, request);
    }
}
